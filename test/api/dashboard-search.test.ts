/** Search and the view of one resource: what they show equals the rows, and they answer in time when Postgres does not. */
import t from 'tap'
import { openDb } from '../../src/shared/db/client.ts'
import { openShop, rush } from '../support/api-client.ts'
import { openWorld, signalAll, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const postgres = await world.ownPostgres()
const own = { DATABASE_URL: postgres.url }
const [api] = await Promise.all([world.startApi(own), world.startWorker(own)])
const call = contract(api.url)
const db = openDb(postgres.url, { max: 2, name: 'test', idle_in_transaction_ms: 60_000 })
t.teardown(() => db.close())
const SETTLED = { prefer: 'wait=20' }

const search = async (q: string) =>
  (await call('GET', `/api/dashboard/search?${new URLSearchParams({ q })}`)).body.results as {
    kind: string
    id: string
    title: string
    status: string | null
    at: string | null
  }[]
const found = async (q: string) => (await search(q)).map(({ kind, id }) => `${kind} ${id}`)
const view = async (ref: string) => {
  const { status, body } = await call('GET', `/api/dashboard/resources/${ref.replace(':', '/')}`)
  if (status !== 200) throw new Error(`${ref}: ${status} ${body.detail}`)
  return body
}
const lines = (resource: string, units = 1) => [{ resource, units }]

t.test('search by id, charge, customer and resource: each is found, best first', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const [shoes, room] = [await shop.units('shoe', 50), await shop.calendar('room')]
  const [first, second] = [
    (await shop.buy({ customer: 'Zoë', lines: lines(shoes, 2) }, SETTLED)).body,
    (await shop.buy({ customer: 'Zoë', lines: lines(shoes), hold_seconds: 600 }, SETTLED)).body,
  ]
  const period = { from: '2030-06-01', to: '2030-06-05' }
  const stay = (await shop.book({ customer: 'Zoë', resource: room, ...period }, SETTLED)).body
  const [charge] = await db.client<{ id: string }[]>`
    INSERT INTO charges (purchase_id, kind, status, provider_id, amount)
    VALUES (${first.id}, 'charge', 'declined', 'pi_search_1', 100) RETURNING id`

  t.same(await search(first.id.toUpperCase()), [
    {
      kind: 'purchase',
      id: first.id,
      title: `2 × ${shoes} for Zoë`,
      status: 'confirmed',
      at: first.created_at,
    },
  ])
  t.match(await search(stay.id), [
    { kind: 'booking', id: stay.id, title: `${room}, 2030-06-01 to 2030-06-05 for Zoë`, status: 'accepted' },
  ])
  for (const id of [charge?.id ?? '', 'pi_search_1']) t.same(await found(id), [`purchase ${first.id}`], id)
  const customer = await search(' Zoe\u0308 ')
  t.same(
    customer.map(({ kind, id, status }) => [kind, id, status]),
    [
      ['customer', 'Zoë', null],
      ['booking', stay.id, 'accepted'],
      ['purchase', second.id, 'held'],
      ['purchase', first.id, 'confirmed'],
    ],
    'the customer and the newest rows; letters in NFC, without white space at the ends',
  )
  t.match(customer[0], { title: '2 purchases, 1 booking', at: stay.created_at })

  for (const ref of ['shoe:red', 'shoe:re', 'boot:red', 'boot:red-2'])
    await call('PUT', `/api/resources/${ref.replace(':', '/')}`, {
      body: { name: 'Red', kind: 'units', total: 1, price: { amount: 1, currency: 'USD' } },
    })
  t.same(await found('shoe:re'), ['resource shoe:re', 'resource shoe:red'], 'the equal one first')
  t.same(await found('red'), ['resource boot:red', 'resource shoe:red', 'resource boot:red-2'], 'by the id alone')
  t.same(await found('nothing-of-the-kind'), [])
  t.same(await found('01935f5e-0000-7000-8000-00000000dead'), [])

  await db.client`INSERT INTO resources (id, kind) SELECT 'crowd:' || n, 'units' FROM generate_series(1, 30) n`
  t.equal((await search('crowd')).length, 20)
  await rush(shop, shoes, 12)
  await db.client`UPDATE purchases SET customer = 'regular' WHERE customer LIKE 'c%' AND queue = ${shoes}`
  const regular = await search('regular')
  t.match([regular.length, regular[0]], [11, { kind: 'customer', title: '10 or more purchases' }])
})

t.test('search for strange texts: every character is data; an empty or too long text is a 400', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const ref = await shop.units('plain', 5)
  const customer = `100%_'"\\;-- {1} 💥`
  const { body } = await shop.buy({ customer, lines: lines(ref) }, SETTLED)
  t.same(await found(customer), [`customer ${customer}`, `purchase ${body.id}`])
  for (const q of [
    '%',
    '_',
    "'",
    '"',
    '\\',
    '*',
    '100%',
    'plain%',
    'plai_',
    "' OR 1=1 --",
    '\u0007',
    '\x7f',
    '{}',
    '💥',
    '\ud800',
  ])
    t.same(await found(q), [], JSON.stringify(q))
  const refused = ['q=', 'q=%20%09', '', `q=${'a'.repeat(201)}`, 'q=a%00b', 'q=a&q=b']
  for (const query of refused) {
    const answer = await call('GET', `/api/dashboard/search?${query}`)
    t.match(answer, { status: 400, body: { errors: [{ field: 'q' }] } }, query.slice(0, 20))
  }
  t.match(await call('GET', '/api/dashboard/search?q=a&limit=5'), {
    status: 400,
    body: { errors: [{ field: 'limit' }] },
  })
})

/** Returns the stock after each step of a resource's ledger, summed from its first entry on. */
async function ledger(ref: string) {
  const rows = await db.client<{ subject: string | null; delta: number; reason: string }[]>`
    SELECT coalesce(purchase_id, booking_id) AS subject, delta, reason FROM ledger_entries
    WHERE resource_id = ${ref} ORDER BY id`
  const now = { available: 0, held: 0, sold: 0 }
  return rows.flatMap(({ subject, delta, reason }, i) => {
    now.available += delta
    if (subject !== null && /hold|release/.test(reason)) now.held -= delta
    if (subject !== null && /sale|refund/.test(reason)) now.sold -= delta
    return subject !== null && rows[i + 1]?.subject === subject ? [] : [{ ...now }]
  })
}
const withoutTimes = (stock: { at: string }[]) => stock.map(({ at: _, ...rest }) => rest)

t.test('stock over time: equal to the ledger, for units, an account and a long ledger', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const [ref, account] = [await shop.units('stock', 20), await shop.units('account', 5_000)]
  const wallet = { method: 'wallet', account }
  const buy = async (units: number, more: object = {}) =>
    (await shop.buy({ customer: 'ada', lines: lines(ref, units), ...more }, SETTLED)).body.id as string
  const [confirmed, cancelled, refunded] = [
    await buy(2, { hold_seconds: 600, payment: wallet }),
    await buy(3, { hold_seconds: 600 }),
    await buy(4, { payment: wallet }),
  ]
  await shop.command(confirmed, 'confirm', SETTLED)
  await shop.command(cancelled, 'cancel', SETTLED)
  await shop.command(refunded, 'refund', SETTLED)
  // A reason of the caller's that is also a word of the ledger.
  await call('POST', `/api/resources/${ref.replace(':', '/')}/restock`, { body: { delta: 7, reason: 'sale' } })
  await buy(1)
  for (const one of [ref, account]) {
    const { resource, stock, movements, queue, bookings } = await view(one)
    const { available, held, sold } = resource
    const steps = await ledger(one)
    t.same(withoutTimes(stock), steps, one)
    t.same(steps.at(-1), { available, held, sold })
    t.same(resource, await shop.resource(one))
    const listed = await call('GET', `/api/resources/${one.replace(':', '/')}/movements?limit=20`)
    t.same(movements, listed.body.data)
    t.match([queue, bookings], [{ length: 0, more: false, oldest_ms: 0, head: null }, []])
  }
  const { purchases } = await view(ref)
  t.same(
    purchases.map((one: { units: number; status: string; customer: string }) => [one.units, one.status, one.customer]),
    [
      [1, 'confirmed', 'ada'],
      [4, 'refunded', 'ada'],
      [3, 'cancelled', 'ada'],
      [2, 'confirmed', 'ada'],
    ],
  )
  const paid = (await view(account)).purchases
  t.same(
    paid.map((one: { id: string; units: number }) => [one.id, one.units]),
    [
      [refunded, 400],
      [confirmed, 200],
    ],
  )

  await db.client.begin(async (tx) => {
    await tx`UPDATE resources SET total = total + 501, available = available + 501 WHERE id = ${ref}`
    await tx`INSERT INTO ledger_entries (resource_id, delta, reason) SELECT ${ref}, 1, 'delivery' FROM generate_series(1, 501)`
  })
  const long = withoutTimes((await view(ref)).stock)
  const steps = await ledger(ref)
  const nth = Math.ceil(steps.length / 200)
  t.same(
    long,
    steps.filter((_, i) => (steps.length - 1 - i) % nth === 0),
    `every ${nth}rd step, the last one included`,
  )
  t.ok(long.length <= 200)
})

t.test(
  'queue behind a held lease: names its head and the holder; a cart is shown at each of its resources',
  async (t) => {
    const shop = openShop(t, [api.url], postgres.url)
    const [ref, other] = [await shop.units('a', 20), await shop.units('b', 20)]
    const bought = (await shop.buy({ customer: 'ada', lines: [...lines(ref), ...lines(other, 3)] }, SETTLED)).body.id
    const held = (await shop.buy({ customer: 'ada', lines: lines(ref), hold_seconds: 600 }, SETTLED)).body.id
    const body = { resource: ref, mode: 'exclusive', ttl_ms: 60_000, wait_ms: 10_000, owner: 'count' }
    const lease = (await call('POST', '/api/leases', { body })).body
    t.equal((await shop.command(held, 'confirm', { prefer: 'wait=0' })).status, 202)
    const waiting = [await rush(shop, ref, 1), await rush(shop, ref, 2)].flat()
    const seen = await until(async () => {
      const one = await view(ref)
      return one.lock.waiters.length > 0 && one.queue.length === 4 ? one : undefined
    })
    t.match(seen.queue, { length: 4, more: false, head: { id: held, kind: 'purchase', command: 'confirm' } })
    t.match(seen.lock.holders, [{ owner: 'count', fencing_token: lease.fencing_token }])
    t.ok(seen.queue.oldest_ms >= 0 && seen.queue.oldest_ms < 60_000)
    t.same(seen.purchases.map(({ id, status }: { id: string; status: string }) => [id, status]).slice(-2), [
      [held, 'held'],
      [bought, 'confirmed'],
    ])
    t.same(
      seen.purchases
        .slice(0, 3)
        .map((one: { id: string }) => one.id)
        .sort(),
      waiting.toSorted(),
    )
    t.match((await view(other)).purchases, [{ id: bought, units: 3, status: 'confirmed' }])

    await call('DELETE', `/api/leases/${lease.lease_id}`)
    await until(async () => (await view(ref)).queue.head === null)
    t.match(await view(ref), { queue: { length: 0 }, resource: { sold: 5, held: 0 } })
  },
)

t.test('calendar: its active and completed bookings around now, in order', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const room = await shop.calendar('room')
  const day = (n: number) => new Date(Date.now() + n * 86_400_000).toISOString().slice(0, 10)
  const add = async (from: number, to: number, status: string, expires = 'infinity') => {
    const [row] = await db.client<{ id: string }[]>`
      INSERT INTO bookings (resource_id, customer, period, status, expires_at, settled_at)
      VALUES (${room}, 'ada', tstzrange(${day(from)}::timestamptz, ${day(to)}::timestamptz), ${status}, ${expires}, now())
      RETURNING id`
    return row?.id ?? ''
  }
  const stay = { customer: 'ada', resource: room, from: day(2), to: day(4) }
  const booked = (await shop.book(stay, SETTLED)).body.id
  const [requested, completed, begun] = [
    await add(10, 12, 'requested'),
    await add(-9, -5, 'completed'),
    await add(-2, 1, 'accepted'),
  ]
  for (const [from, to, status, expires] of [
    [-20, -10, 'completed', 'infinity'],
    [20, 22, 'cancelled', 'infinity'],
    [30, 32, 'requested', '-infinity'],
    [70, 75, 'accepted', 'infinity'],
  ] as const)
    await add(from, to, status, expires)
  const { bookings, stock, resource } = await view(room)
  t.equal(resource.kind, 'calendar')
  t.same(
    bookings.map((one: { id: string; status: string }) => [one.id, one.status]),
    [
      [completed, 'completed'],
      [begun, 'accepted'],
      [booked, 'accepted'],
      [requested, 'requested'],
    ],
  )
  t.match(bookings[2], { customer: 'ada', from: `${day(2)}T00:00:00.000Z`, to: `${day(4)}T00:00:00.000Z` })
  t.same(stock, [])
})

t.test('resource that is unknown or misspelt: 404, 400', async (t) => {
  t.match(await call('GET', '/api/dashboard/resources/shoe/none'), { status: 404, body: { code: 'not_found' } })
  for (const [path, field] of [
    ['SHOE/1', 'type'],
    ['shoe/%25', 'id'],
  ] as const)
    t.match(await call('GET', `/api/dashboard/resources/${path}`), { status: 400, body: { errors: [{ field }] } })
})

t.test('ledger that does not answer: its parts are null, the others are shown', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const ref = await shop.units('locked', 5)
  await db.client.begin(async (tx) => {
    await tx`LOCK TABLE ledger_entries IN ACCESS EXCLUSIVE MODE`
    const seen = await view(ref)
    t.match(seen, { stock: null, movements: null, purchases: null })
    t.match(seen, { resource: { available: 5 }, queue: { length: 0 }, lock: { holders: [] }, bookings: [] })
  })
  await until(async () => (await view(ref)).stock?.length === 1)
})

t.test('Postgres frozen: 503 within the limit, also for many requests, and answers again afterwards', async (t) => {
  const shop = openShop(t, [api.url], postgres.url)
  const ref = await shop.units('frozen', 5)
  t.teardown(() => signalAll(postgres.pid, 'SIGCONT'))
  signalAll(postgres.pid, 'SIGSTOP')
  const path = `/api/dashboard/resources/${ref.replace(':', '/')}`
  const answers = await Promise.all([
    call('GET', '/api/dashboard/search?q=ada'),
    ...Array.from({ length: 30 }, () => call('GET', path)),
  ])
  // Postgres is frozen for as long as the test waits: an answer shows that there is a limit.
  for (const answer of answers) t.match(answer, { status: 503, body: { code: 'unavailable', retry_after: 1 } })
  signalAll(postgres.pid, 'SIGCONT')
  await until(async () => (await view(ref)).stock?.length === 1)
  t.same(await found(ref), [`resource ${ref}`])
})
