/** The HTTP contract, row by row of its tables, against real processes; each response is checked against openapi.json. */
import { spawn } from 'node:child_process'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { readConfig } from '../../src/shared/config.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { verify } from '../../src/shared/invariants.ts'
import { openWorld, until } from '../support/environment.ts'
import { type Answer, contract, faultOfProblem, operations } from '../support/openapi-contract.ts'

type Call = ReturnType<typeof contract>

const SETTLED = { prefer: 'wait=30' }
/** an id that no row has */
const UNKNOWN = '01935f5e-0000-7000-8000-00000000dead'
const USD = (amount: number) => ({ amount, currency: 'USD' })
const units = (total: number, price = 100) => ({ name: 'For sale', kind: 'units', total, price: USD(price) })
const lines = (resource: string, count = 1) => [{ resource, units: count }]

/** Creates a product `type:id` and returns its reference. */
async function sell(call: Call, ref: string, total: number, price?: number): Promise<string> {
  const { status } = await call('PUT', at(ref), { body: units(total, price) })
  if (status !== 201) throw new Error(`${ref} was not created: ${status}`)
  return ref
}
const at = (ref: string) => `/api/resources/${ref.replace(':', '/')}`
const codes = ({ status, body }: Answer) => [status, body.code]

/** Reads every page of a list, one after the other. */
async function walk(call: Call, path: string, limit: number): Promise<Answer['body'][]> {
  const data = []
  let cursor = ''
  do {
    const { body } = await call('GET', `${path}${path.includes('?') ? '&' : '?'}limit=${limit}${cursor}`)
    if (body.data.length > limit) throw new Error(`a page of ${body.data.length}`)
    data.push(...body.data)
    cursor = body.next_cursor === null ? '' : `&cursor=${body.next_cursor}`
  } while (cursor)
  return data
}

t.test('with an API and a worker', async (t) => {
  const world = await openWorld(t)
  const db = openDb(world.env.DATABASE_URL ?? '', { max: 1, name: 'test', idle_in_transaction_ms: 60_000 })
  t.teardown(() => db.close())
  const [api] = await Promise.all([world.startApi(), world.startWorker()])
  const call = contract(api.url)
  const get = async (ref: string) => (await call('GET', at(ref))).body
  const buy = (body: object, headers: Record<string, string> = SETTLED) =>
    call('POST', '/api/purchases', { body: { customer: 'ada', ...body }, headers })
  const command = (id: string, name: string, headers: Record<string, string> = {}) =>
    call('POST', `/api/purchases/${id}/${name}`, { headers })

  await t.test('resource: created without If-Match, replaced only with its version', async (t) => {
    const path = at('put:1')
    const created = await call('PUT', path, { body: units(10) })
    t.equal(created.status, 201)
    t.equal(created.headers.get('location'), path)
    t.equal(created.headers.get('etag'), '"1"')
    t.match(created.body, {
      resource: 'put:1',
      total: 10,
      available: 10,
      held: 0,
      sold: 0,
      version: 1,
      price: USD(100),
    })

    const put = (match: string | undefined, body: object = units(12)) =>
      call('PUT', path, { body, headers: match === undefined ? {} : { 'if-match': match } })
    t.match(await put(undefined), { status: 428, body: { code: 'if_match_required', version: 1 } })
    t.match(await put('"7"'), { status: 412, body: { code: 'stale_version', version: 1 } })
    for (const bad of ['banana', 'W/"1"', '"1', '"-1"', '"1" "2"', '']) {
      const answer = await put(bad)
      t.match(answer, { status: 400, body: { errors: [{ field: 'If-Match' }] } }, `If-Match: ${bad}`)
    }
    const replaced = await put('"1"')
    t.match([replaced.status, replaced.headers.get('etag')], [200, '"2"'])
    t.match(replaced.body, { total: 12, available: 12, version: 2 })
    t.equal((await put('"1"')).status, 412, 'the version that was replaced is stale')
    t.equal((await put('"7", "2"', units(9))).status, 200, 'one of several')
    t.match((await put('*', { ...units(11), name: 'Any' })).body, { name: 'Any', total: 11, version: 4 })
    t.equal((await call('GET', path)).headers.get('etag'), '"4"')

    t.same(codes(await put('*', { name: 'x', kind: 'calendar' })), [409, 'wrong_kind'])
    const absent = await call('PUT', at('put:none'), { body: units(1), headers: { 'if-match': '"1"' } })
    t.same(codes(absent), [412, 'stale_version'], 'what does not exist cannot be replaced')
    t.equal((await call('GET', at('put:none'))).status, 404)
    const racers = await Promise.all([put('"4"', units(20)), put('"4"', units(30))])
    t.same(racers.map((one) => one.status).sort(), [200, 412], 'of two with one version, one wins')

    await buy({ lines: lines('put:1', 5) })
    t.match(await put('*', units(4)), { status: 409, body: { code: 'total_too_small', errors: [{ field: 'total' }] } })
    t.match((await put('*', units(5))).body, { total: 5, available: 0, sold: 5 })
    const calendar = await call('PUT', at('room:1'), { body: { name: 'Lake house', kind: 'calendar' } })
    t.match([calendar.status, calendar.body], [201, { kind: 'calendar', total: 0, price: USD(0) }])
  })

  await t.test('currency: fixed once money or stock has moved; the price may change', async (t) => {
    const priced = (currency: string, amount = 100, total = 0) => ({ ...units(total), price: { amount, currency } })
    const put = (ref: string, body: object) => call('PUT', at(ref), { body, headers: { 'if-match': '*' } })
    const fixed = { status: 409, body: { code: 'currency_fixed', errors: [{ field: 'price.currency' }] } }
    const path = at('money:1')
    t.equal((await call('PUT', path, { body: priced('USD') })).status, 201)
    t.match(await put('money:1', priced('JPY')), { status: 200, body: { price: { currency: 'JPY' } } }, 'nothing moved')
    t.equal((await call('POST', `${path}/restock`, { body: { delta: 5, reason: 'delivery' } })).status, 200)
    t.match(await put('money:1', priced('USD', 100, 5)), fixed)
    t.match(await put('money:1', priced('jpy', 70, 5)), { status: 200, body: { price: { amount: 70 } } })
    t.equal((await put('money:1', priced('JPY', 70, 0))).status, 200, 'all of it is taken out again')
    t.match(await put('money:1', priced('USD', 70, 0)), fixed, 'what has moved has moved')

    // 4,000 US cents became 4,000 yen, and a refund of 1,000 made it 5,000 yen.
    const [ref, account] = [await sell(call, 'paid:fixed', 5, 1_000), await sell(call, 'account:fixed', 5_000, 1)]
    const bought = await buy({ lines: lines(ref), payment: { method: 'wallet', account } })
    t.match(await put(account, priced('JPY', 1, 4_000)), fixed)
    t.match(await put(ref, priced('JPY', 1_000, 5)), fixed)
    t.equal((await command(bought.body.id, 'refund')).status, 200)
    t.match(await get(account), { available: 5_000, price: { currency: 'USD' } })
    const past = () => db.client`UPDATE resources SET currency = 'JPY' WHERE id = ${account}`
    await t.rejects(past(), /resources_currency_fixed/, 'nor past the API')

    // A currency changed before the database refused such changes is found by verify.
    await db.client`ALTER TABLE resources DISABLE TRIGGER resources_currency_fixed`
    await past()
    const found = await verify(db.client)
    t.same(found.find((one) => one.invariant.startsWith('a ledger has one currency'))?.offenders, [account])
    await db.client`UPDATE resources SET currency = 'USD' WHERE id = ${account}`
    await db.client`ALTER TABLE resources ENABLE TRIGGER resources_currency_fixed`

    const room = (currency: string) => ({ name: 'Room', kind: 'calendar', price: { amount: 100, currency } })
    t.equal((await call('PUT', at('room:fixed'), { body: room('USD') })).status, 201)
    t.equal((await put('room:fixed', room('EUR'))).status, 200)
    const stay = { resource: 'room:fixed', customer: 'ada', from: '2030-05-01', to: '2030-05-04' }
    const { body } = await call('POST', '/api/bookings', { body: { ...stay, hold_seconds: 60 }, headers: SETTLED })
    t.match(await put('room:fixed', room('USD')), fixed, 'while a stay is priced in it')
    await call('POST', `/api/bookings/${body.id}/cancel`)
    t.equal((await put('room:fixed', room('USD'))).status, 200)
  })

  await t.test('currency change and first restock at once: one of them is refused', async (t) => {
    for (let n = 0; n < 10; n++) {
      const ref = await sell(call, `money:race-${n}`, 0)
      const change = { ...units(0), price: { amount: 100, currency: 'EUR' } }
      const [changed, stocked] = await Promise.all([
        call('PUT', at(ref), { body: change, headers: { 'if-match': '"1"' } }),
        call('POST', `${at(ref)}/restock`, { body: { delta: 5, reason: 'delivery' } }),
      ])
      t.equal(stocked.status, 200)
      const { price } = await get(ref)
      t.equal(price.currency, changed.status === 200 ? 'EUR' : 'USD')
      t.ok([200, 409, 412].includes(changed.status), `${changed.status}`)
    }
  })

  await t.test('restock: adds and removes through the ledger, listed newest first', async (t) => {
    const ref = await sell(call, 'stock:1', 10)
    const restock = (body: object, headers: Record<string, string> = {}) =>
      call('POST', `${at(ref)}/restock`, { body, headers })
    t.match((await restock({ delta: 5, reason: 'delivery' })).body, { total: 15, available: 15, version: 2 })
    t.match((await restock({ delta: -3, reason: 'breakage' })).body, { total: 12, available: 12 })
    await buy({ lines: lines(ref, 4) })
    const tooMany = await restock({ delta: -9, reason: 'theft' })
    t.match(tooMany, { status: 409, body: { code: 'insufficient_available', errors: [{ field: 'delta' }] } })
    t.match(await restock({ delta: 1e12, reason: 'typo' }), { status: 409, body: { code: 'total_too_large' } })
    t.match(await get(ref), { total: 12, available: 8, sold: 4 })

    const key = { 'idempotency-key': 'delivery 7' }
    const first = await restock({ delta: 2, reason: 'again' }, key)
    const replay = await restock({ delta: 2, reason: 'again' }, key)
    t.match([first.status, first.headers.get('idempotent-replayed')], [200, null])
    t.match([replay.status, replay.headers.get('idempotent-replayed')], [200, 'true'])
    t.same(codes(await restock({ delta: 3, reason: 'again' }, key)), [422, 'idempotency_key_reused'])

    const ledger = (await call('GET', `${at(ref)}/movements`)).body
    t.same(
      ledger.data.map((one: { delta: number; reason: string }) => [one.delta, one.reason]),
      [
        [2, 'again'],
        [-4, 'sale'],
        [-3, 'breakage'],
        [5, 'delivery'],
        [10, 'created'],
      ],
    )
    t.equal(ledger.next_cursor, null)
    t.same(await walk(call, `${at(ref)}/movements`, 2), ledger.data, 'page by page the same')
    t.equal((await get(ref)).available, 10, 'the sum of the ledger')

    await call('PUT', at('room:2'), { body: { name: 'Room', kind: 'calendar' } })
    const calendar = await call('POST', `${at('room:2')}/restock`, { body: { delta: 1, reason: 'x' } })
    t.same(codes(calendar), [409, 'wrong_kind'])
    const nothing = await call('POST', `${at('room:none')}/restock`, { body: { delta: 1, reason: 'x' } })
    t.equal(nothing.status, 404)
    t.equal((await call('GET', `${at('room:none')}/movements`)).status, 404)
    t.same((await call('GET', `${at('room:2')}/movements`)).body, { data: [], next_cursor: null })
  })

  await t.test('list: cursors return each item once', async (t) => {
    const refs = Array.from({ length: 23 }, (_, n) => `page:${n}`).sort()
    await Promise.all(refs.map((ref) => sell(call, ref, 1)))
    for (const limit of [1, 5, 22, 23, 100]) {
      const walked = await walk(call, '/api/resources?type=page', limit)
      t.same(
        walked.map((one) => one.resource),
        refs,
        `by ${limit}`,
      )
    }
    const all = (await walk(call, '/api/resources', 7)).map((one) => one.resource)
    t.equal(new Set(all).size, all.length)
    t.ok(refs.every((ref) => all.includes(ref)))
    t.same((await call('GET', '/api/resources?type=nothing')).body, { data: [], next_cursor: null })

    const customer = 'walker'
    const bought = await Promise.all(refs.map((ref) => buy({ customer, lines: lines(ref) })))
    const ids = bought.map((one) => one.body.id).sort()
    for (const limit of [4, 23]) {
      const walked = (await walk(call, `/api/purchases?customer=${customer}`, limit)).map((one) => one.id)
      t.same(walked, ids.toReversed(), `purchases by ${limit}, newest first`)
    }
  })

  await t.test('purchase: 202 at once, the outcome with Prefer: wait', async (t) => {
    const ref = await sell(call, 'sale:1', 3)
    const taken = await buy({ lines: lines(ref) }, {})
    t.equal(taken.status, 202)
    t.equal(taken.headers.get('location'), `/api/purchases/${taken.body.id}`)
    t.equal(taken.headers.get('retry-after'), '1')
    t.equal(taken.headers.get('preference-applied'), null)
    t.match(taken.body, { status: 'queued', lines: lines(ref), payment: { method: 'none' }, amount: null })
    const path = taken.headers.get('location') ?? ''
    const settled = await until(async () => {
      const { body } = await call('GET', path)
      return body.status !== 'queued' && body
    })
    t.match(settled, { id: taken.body.id, seq: taken.body.seq, status: 'confirmed', amount: 100, currency: 'USD' })

    const waited = await buy({ lines: lines(ref, 2) }, { prefer: 'respond-async, wait=10' })
    t.match([waited.status, waited.body.status, waited.body.amount], [201, 'confirmed', 200])
    t.equal(waited.headers.get('preference-applied'), 'wait=10')
    t.equal(waited.headers.get('location'), `/api/purchases/${waited.body.id}`)
    const clamped = await buy({ lines: lines(ref) }, { prefer: 'wait=900' })
    t.equal(clamped.headers.get('preference-applied'), 'wait=30', 'no more than 30 seconds')
    t.match(clamped.body, { code: 'sold_out', available: 0, resource: ref, purchase: { status: 'rejected' } })
    t.equal(clamped.status, 409)
    const rejected = await call('GET', `/api/purchases/${clamped.body.purchase.id}`)
    t.match([rejected.status, rejected.body.status, rejected.body.reason], [200, 'rejected', 'sold_out'])
    for (const prefer of ['wait=soon', 'return=minimal', 'wait']) {
      const ignored = await buy({ lines: lines(ref) }, { prefer })
      t.match([ignored.status, ignored.headers.get('preference-applied')], [202, null], prefer)
    }
    t.equal((await call('GET', '/api/purchases/01935f5e-0000-7000-8000-00000000dead')).status, 404)
  })

  await t.test('items of one resource: added up before they are checked', async (t) => {
    const ref = await sell(call, 'merge:1', 5)
    const other = await sell(call, 'merge:2', 5)
    const double = await buy({ lines: [...lines(ref, 3), ...lines(other), ...lines(ref, 3)] })
    t.match([double.status, double.body.code, double.body.available], [409, 'sold_out', 5])
    const fits = await buy({ lines: [...lines(ref, 2), ...lines(other), ...lines(ref, 3)] })
    t.match([fits.status, fits.body.lines], [201, [...lines(ref, 5), ...lines(other)]])
    t.match([await get(ref), await get(other)], [{ available: 0 }, { available: 4 }])
    const half = 600_000_000
    const huge = await buy({ lines: [...lines(ref, half), ...lines(ref, half)] })
    t.match(huge, { status: 400, body: { errors: [{ field: 'lines' }] } })
  })

  await t.test('fifty at once with one Idempotency-Key: one row, 49 replays', async (t) => {
    const ref = await sell(call, 'key:1', 100)
    const body = { lines: lines(ref, 2), payment: { method: 'none' }, hold_seconds: 60 }
    const headers = { 'idempotency-key': 'order-1' }
    const answers = await Promise.all(Array.from({ length: 50 }, () => buy(body, headers)))
    t.same([...new Set(answers.map((one) => one.status))], [202])
    t.equal(new Set(answers.map((one) => one.body.id)).size, 1)
    t.equal(answers.filter((one) => one.headers.get('idempotent-replayed') === 'true').length, 49)
    const replay = await buy(body, { ...headers, ...SETTLED })
    t.match([replay.status, replay.body.status], [201, 'held'], 'a replay may wait too')
    t.equal(replay.headers.get('idempotent-replayed'), 'true')
    t.equal((await call('GET', `/api/purchases?resource=${ref}`)).body.data.length, 1)
    t.match(await get(ref), { held: 2, available: 98 })

    for (const change of [{ customer: 'bob' }, { lines: lines(ref, 3) }, { hold_seconds: 61 }]) {
      const other = await buy({ ...body, ...change }, headers)
      t.match(other, { status: 422, body: { code: 'idempotency_key_reused', errors: [{ field: 'Idempotency-Key' }] } })
    }
    await sell(call, 'account:key', 1_000, 1)
    const wallet = { method: 'wallet', account: 'account:key' }
    const paid = { lines: lines(ref) }
    await buy({ ...paid, payment: wallet }, { 'idempotency-key': 'order-2', ...SETTLED })
    const reordered = { account: wallet.account, method: wallet.method }
    const again = await buy({ ...paid, payment: reordered }, { 'idempotency-key': 'order-2', ...SETTLED })
    t.match([again.status, again.headers.get('idempotent-replayed')], [201, 'true'], 'members in another order')

    const soldOut = await sell(call, 'key:2', 0)
    const first = await buy({ lines: lines(soldOut) }, { 'idempotency-key': 'order-3', ...SETTLED })
    const second = await buy({ lines: lines(soldOut) }, { 'idempotency-key': 'order-3', ...SETTLED })
    t.same(
      [codes(first), codes(second)],
      [
        [409, 'sold_out'],
        [409, 'sold_out'],
      ],
      'a refusal is replayed as one',
    )
    t.equal(first.body.purchase.id, second.body.purchase.id)
  })

  await t.test('list of purchases: filters by customer, resource and status', async (t) => {
    const [a, b] = [await sell(call, 'find:a', 10), await sell(call, 'find:b', 10)]
    const cart = (await buy({ customer: 'eve', lines: [...lines(a), ...lines(b)] })).body.id
    const single = (await buy({ customer: 'ève & co', lines: lines(b) })).body.id
    const hold = (await buy({ customer: 'eve', lines: lines(a), hold_seconds: 60 })).body.id
    const refused = (await buy({ customer: 'eve', lines: lines(a, 99) })).body.purchase.id
    const found = async (query: string) =>
      (await walk(call, `/api/purchases?${query}`, 1)).map((one) => one.id as string).sort()
    t.same(await found('customer=eve'), [cart, hold, refused].sort())
    t.same(await found(`customer=${encodeURIComponent('ève & co')}`), [single])
    t.same(await found(`resource=${a}`), [cart, hold, refused].sort())
    t.same(await found(`resource=${b}`), [cart, single].sort(), 'the second line of a cart too')
    t.same(await found(`resource=${a}&status=held`), [hold])
    t.same(await found('customer=eve&status=rejected'), [refused])
    t.same(await found(`resource=${b}&customer=eve&status=confirmed`), [cart])
    t.same(await found('customer=nobody'), [])
  })

  await t.test('customer id: equal in every Unicode composition', async (t) => {
    const [composed, apart] = ['Zoë', 'Zoë'].map((name, n) => name.normalize(n === 0 ? 'NFC' : 'NFD')) as [
      string,
      string,
    ]
    await call('PUT', at('compose:1'), { body: { ...units(10), max_per_customer: 1 } })
    const first = await buy({ customer: apart, lines: lines('compose:1') })
    t.match(first, { status: 201, body: { customer: composed } })
    t.same(codes(await buy({ customer: composed, lines: lines('compose:1') })), [409, 'limit'], 'counted as one')
    const found = async (list: string, customer: string) =>
      (await call('GET', `/api/${list}?customer=${encodeURIComponent(customer)}`)).body.data.length
    t.same([await found('purchases', composed), await found('purchases', apart)], [2, 2], 'found as one')
    const key = { ...SETTLED, 'idempotency-key': 'zoe' }
    const once = await Promise.all(
      [composed, apart].map((customer) => buy({ customer, lines: lines('compose:1') }, key)),
    )
    t.equal(new Set(once.map((one) => one.body.purchase.id)).size, 1, 'the same body')

    await call('PUT', at('driver:compose'), { body: { name: 'Driver', kind: 'calendar' } })
    await call('PUT', at('driver:other'), { body: { name: 'Driver', kind: 'calendar' } })
    const ride = (driver_id: string, rider_id: string) =>
      call('POST', '/api/bookings', {
        body: { driver_id, rider_id, pickup_lat: 0, pickup_lng: 0 },
        headers: SETTLED,
      })
    t.match(await ride('compose', apart), { status: 201, body: { customer: composed } })
    t.same(codes(await ride('other', composed)), [409, 'conflict'], 'one rider, one ride')
    t.equal(await found('bookings', apart), 2)
    const lease = { resource: 'job:compose', mode: 'exclusive', ttl_ms: 60_000, owner: apart }
    await call('POST', '/api/leases', { body: lease })
    t.match((await call('POST', '/api/leases', { body: lease })).body, { code: 'lock_busy', holder: composed })
  })

  await t.test('hold: confirmed, cancelled or refunded once; later commands get 409 with the status', async (t) => {
    const ref = await sell(call, 'hold:1', 10)
    const hold = async (): Promise<string> => {
      const { status, body } = await buy({ lines: lines(ref, 2), hold_seconds: 600 })
      t.match([status, body.status, body.hold_seconds], [201, 'held', 600])
      return body.id
    }
    const wrong = (answer: Answer, status: string) =>
      t.match(answer, { status: 409, body: { code: 'wrong_status', current_status: status, detail: status } })

    const kept = await hold()
    t.match(await get(ref), { available: 8, held: 2, sold: 0 })
    t.match(await command(kept, 'confirm'), { status: 200, body: { id: kept, status: 'confirmed' } })
    t.match(await get(ref), { available: 8, held: 0, sold: 2 })
    wrong(await command(kept, 'confirm'), 'confirmed')
    wrong(await command(kept, 'cancel'), 'confirmed')
    t.match(await command(kept, 'refund', SETTLED), { status: 200, body: { status: 'refunded' } })
    t.match(await get(ref), { available: 10, held: 0, sold: 0 })
    wrong(await command(kept, 'refund'), 'refunded')

    const dropped = await hold()
    wrong(await command(dropped, 'refund'), 'held')
    const key = { 'idempotency-key': 'cancel-1' }
    const cancelled = await command(dropped, 'cancel', key)
    t.match([cancelled.status, cancelled.body.status], [200, 'cancelled'])
    const replay = await command(dropped, 'cancel', key)
    t.match([replay.status, replay.body.status], [200, 'cancelled'])
    t.equal(replay.headers.get('idempotent-replayed'), 'true')
    t.match(await get(ref), { available: 10, held: 0, sold: 0 }, 'its units are back')
    wrong(await command(dropped, 'confirm'), 'cancelled')

    const once = await hold()
    const racers = await Promise.all(Array.from({ length: 10 }, (_, n) => command(once, n % 2 ? 'confirm' : 'cancel')))
    t.equal(racers.filter((one) => one.status === 200).length, 1, 'ten at once: one wins')
    wrong(await command((await buy({ lines: lines(ref, 99) })).body.purchase.id, 'cancel'), 'rejected')
    t.equal((await command('01935f5e-0000-7000-8000-00000000dead', 'confirm')).status, 404)
  })

  await t.test('expired hold: its units are available again within a second', async (t) => {
    const ref = await sell(call, 'expire:1', 1)
    const { body } = await buy({ lines: lines(ref), hold_seconds: 1 })
    t.same(codes(await buy({ lines: lines(ref) })), [409, 'sold_out'])
    const due = Date.parse(body.expires_at)
    await until(async () => (await call('GET', `/api/purchases/${body.id}`)).body.status === 'expired')
    t.match(await get(ref), { available: 1, held: 0 })
    t.equal((await buy({ lines: lines(ref) })).status, 201)
    t.ok(Date.now() - due < 1_000, `${Date.now() - due} ms after its time`)
    t.match(await command(body.id, 'confirm'), { status: 409, body: { current_status: 'expired' } })
    t.same((await walk(call, `/api/purchases?resource=${ref}&status=expired`, 5)).length, 1)
  })

  await t.test('wallet: pays the exact amount and is refunded; one with too little pays nothing', async (t) => {
    const ref = await sell(call, 'paid:1', 100, 333)
    const account = await sell(call, 'account:1', 1_000, 1)
    const payment = { method: 'wallet', account }
    const bought = await buy({ lines: lines(ref, 2), payment })
    t.match([bought.status, bought.body.amount, bought.body.payment], [201, 666, payment])
    t.match(await get(account), { available: 334 })
    t.same(codes(await buy({ lines: lines(ref, 2), payment })), [402, 'payment_declined'])
    t.match([await get(account), await get(ref)], [{ available: 334 }, { available: 98, sold: 2 }], 'nothing moved')
    const failed = (await call('GET', '/api/purchases?status=failed')).body.data[0]
    t.match(failed, { status: 'failed', reason: 'payment_declined' })
    t.equal((await command(bought.body.id, 'refund')).status, 200)
    t.match([await get(account), await get(ref)], [{ available: 1_000 }, { available: 100, sold: 0 }])

    const held = await buy({ lines: lines(ref), payment, hold_seconds: 60 })
    t.match([held.body.status, await get(account)], ['held', { available: 667, held: 333 }])
    await command(held.body.id, 'cancel')
    t.match(await get(account), { available: 1_000, held: 0 })
    const card = await buy({ lines: lines(ref), payment: { method: 'card', token: 'tok_visa' } })
    t.same(codes(card), [402, 'payment_unavailable'])
    t.notMatch(JSON.stringify(card.body), 'tok_visa', "a card's token never leaves again")
  })

  await t.test('stay: booked and listed, and availability shows the free ranges', async (t) => {
    const room = { name: 'Room', kind: 'calendar', price: USD(50) }
    t.equal((await call('PUT', at('house:1'), { body: room })).status, 201)
    const body = { resource: 'house:1', customer: 'ada', from: '2030-05-01', to: '2030-05-04T12:00:00Z' }
    const queued = await call('POST', '/api/bookings', { body: { ...body, from: '2031-05-01', to: '2031-05-02' } })
    t.match(queued, { status: 202, body: { status: 'queued', kind: 'stay', amount: null } })
    const location = queued.headers.get('location') ?? ''
    t.equal(location, `/api/bookings/${queued.body.id}`)
    await until(async () => (await call('GET', location)).body.status === 'accepted')
    const taken = await call('POST', '/api/bookings', { body, headers: SETTLED })
    t.match(taken, { status: 201, body: { status: 'accepted', amount: 200, from: '2030-05-01T00:00:00.000Z' } })
    t.equal(taken.headers.get('preference-applied'), 'wait=30')
    const rival = await call('POST', '/api/bookings', { body: { ...body, customer: 'bob' }, headers: SETTLED })
    t.match(rival, { status: 409, body: { code: 'conflict', conflicting_ids: [taken.body.id] } })
    const path = `${at('house:1')}/availability?from=2030-05-03&to=2030-05-06`
    t.same((await call('GET', path)).body.free, [{ from: '2030-05-04T12:00:00.000Z', to: '2030-05-06T00:00:00.000Z' }])

    const found = async (query: string) => (await walk(call, `/api/bookings?${query}`, 1)).map((one) => one.customer)
    t.same(await found('resource=house:1'), ['bob', 'ada', 'ada'], 'newest first, page by page')
    t.same(await found('customer=bob'), ['bob'])
    t.same(await found('resource=house:1&status=accepted'), ['ada', 'ada'])
    const move = (name: string, headers = {}) => call('POST', `/api/bookings/${taken.body.id}/${name}`, { headers })
    t.match(await move('accept'), { status: 409, body: { code: 'wrong_status', current_status: 'accepted' } })
    t.match(await move('complete'), { status: 409, body: { code: 'too_early' } })
    await db.client`
      UPDATE bookings SET period = tstzrange(now() - interval '1 h', now() + interval '1 h') WHERE id = ${taken.body.id}`
    const key = { 'idempotency-key': 'complete-once' }
    t.match(await move('complete', key), { status: 200, body: { status: 'completed' } })
    const again = await move('complete', key)
    t.match(again, { status: 200, body: { status: 'completed' } })
    t.equal(again.headers.get('idempotent-replayed'), 'true')
    t.match(await move('cancel'), { status: 409, body: { code: 'wrong_status', current_status: 'completed' } })
    t.equal((await call('GET', '/api/bookings/01935f5e-0000-7000-8000-00000000dead')).status, 404)
  })

  await t.test('HEAD: answered wherever GET is, with the same status and headers, no body', async (t) => {
    const { body: bought } = await buy({ lines: lines(await sell(call, 'head:1', 5)) })
    const hidden = [
      '/',
      '/dashboard/dashboard.css',
      '/openapi.json',
      '/docs',
      '/docs/',
      '/docs/static/index.html',
      '/admin/queues',
    ]
    const documented = operations
      .filter(({ method }) => method === 'get')
      .map(({ path, operation }) => {
        const at = path
          .replace('{type}', 'head')
          .replace(
            '{id}',
            path.startsWith('/api/purchases') ? bought.id : path.startsWith('/api/resources') ? '1' : UNKNOWN,
          )
        return at.replaceAll(/\{(\w+)\}/g, (_, name) =>
          String(operation.parameters?.find((one) => one.name === name)?.example ?? UNKNOWN),
        )
      })
    for (const path of [...documented, ...hidden]) {
      // Request one event that never comes from the stream: the headers arrive at once.
      const ask = async (method: string) => {
        const abort = new AbortController()
        const answer = await fetch(`${api.url}${path}`, { method, redirect: 'manual', signal: abort.signal })
        const text = method === 'HEAD' ? await answer.text() : ''
        abort.abort()
        return { status: answer.status, type: answer.headers.get('content-type'), text }
      }
      const get = await ask('GET')
      t.same(await ask('HEAD'), { ...get, text: '' }, `HEAD ${path}`)
    }
  })

  await t.test('unsupported method: 405 that names the allowed ones', async (t) => {
    const cases: [method: string, path: string, allow: string][] = [
      ['DELETE', '/api/purchases', 'GET, HEAD, POST'],
      ['PATCH', '/api/purchases/', 'GET, HEAD, POST'],
      ['GET', `/api/purchases/${UNKNOWN}/confirm`, 'POST'],
      ['HEAD', `/api/purchases/${UNKNOWN}/confirm`, 'POST'],
      ['PUT', `/api/purchases/${UNKNOWN}/confirm`, 'POST'],
      ['POST', at('any:1'), 'GET, HEAD, PUT'],
      ['OPTIONS', at('any:1'), 'GET, HEAD, PUT'],
      ['PROPFIND', at('any:1'), 'GET, HEAD, PUT'],
      ['POST', '/%61pi/resources', 'GET, HEAD'],
      ['POST', '/livez', 'GET, HEAD'],
      ['DELETE', '/metrics', 'GET, HEAD'],
      ['POST', '/', 'GET, HEAD'],
      ['PUT', '/openapi.json', 'GET, HEAD'],
    ]
    for (const [method, path, allow] of cases) {
      // Send an unreadable body: the answer must still be about the method.
      const body = ['GET', 'HEAD'].includes(method) ? {} : { body: 'a=1', headers: { 'content-type': 'text/plain' } }
      const answer = await fetch(`${api.url}${path}`, { method, ...body })
      t.match([answer.status, answer.headers.get('allow')], [405, allow], `${method} ${path}`)
      const problem = await answer.text()
      if (method === 'HEAD') continue
      t.equal(faultOfProblem(405, answer.headers.get('content-type'), JSON.parse(problem), path), '')
      t.match(JSON.parse(problem), { code: 'method_not_allowed', retryable: false })
    }
    for (const path of ['/api/nothing', '/api/purchases/a/b/c', '/nothing']) {
      t.same(codes(await call('DELETE', path)), [404, 'not_found'], path)
    }
  })

  await t.test('compressed body: 415 that names the header', async (t) => {
    const body = gzipSync(JSON.stringify({ customer: 'ada', lines: lines('any:1') }))
    for (const encoding of ['gzip', 'br', 'identity, gzip']) {
      const headers = { 'content-type': 'application/json', 'content-encoding': encoding }
      const answer = await fetch(`${api.url}/api/purchases`, { method: 'POST', body, headers })
      t.match([answer.status, answer.headers.get('accept-encoding')], [415, 'identity'])
      const problem = (await answer.json()) as Answer['body']
      t.match(problem, { code: 'unsupported_media_type', errors: [{ field: 'Content-Encoding' }] })
      t.match(problem.detail, encoding)
    }
    const plain = await buy({ lines: lines(await sell(call, 'plain:1', 1)) }, { 'content-encoding': 'identity' })
    t.equal(plain.status, 202)
  })

  await t.test('cursor of another list or of other filters: 400 that names it', async (t) => {
    for (const ref of ['cursor:1', 'cursor:2', 'other:1']) {
      await sell(call, ref, 10)
      for (let n = 0; n < 2; n++) await buy({ customer: 'curt', lines: lines(ref) })
    }
    const lists = [
      '/api/resources',
      '/api/resources?type=cursor',
      '/api/purchases',
      '/api/purchases?customer=curt',
      '/api/purchases?resource=cursor:1',
      '/api/purchases?customer=curt&status=confirmed',
      `${at('cursor:1')}/movements`,
      `${at('cursor:2')}/movements`,
    ]
    const first = (list: string) => call('GET', `${list}${list.includes('?') ? '&' : '?'}limit=1`)
    const cursors = await Promise.all(lists.map(async (list) => (await first(list)).body.next_cursor as string))
    for (const [i, list] of lists.entries()) {
      for (const [j, cursor] of cursors.entries()) {
        const answer = await call('GET', `${list}${list.includes('?') ? '&' : '?'}cursor=${cursor}`)
        if (i === j) t.equal(answer.status, 200, `${list} goes on, also with another limit`)
        else
          t.match(answer, { status: 400, body: { errors: [{ field: 'cursor' }] } }, `${list} with that of ${lists[j]}`)
      }
    }
    const reordered = cursors[5]
    const same = await call('GET', `/api/purchases?status=confirmed&cursor=${reordered}&customer=curt`)
    t.equal(same.status, 200, 'the order of the filters says nothing')
  })

  await t.test('refusal: shows the stock at the decision, not the present one', async (t) => {
    const ref = await sell(call, 'then:1', 3)
    const key = (name: string) => ({ 'idempotency-key': `then ${name}`, ...SETTLED })
    const body = { customer: 'theo', lines: [...lines(await sell(call, 'then:0', 9)), ...lines(ref, 5)] }
    const first = await buy(body, key('sold out'))
    t.match(first, { status: 409, body: { code: 'sold_out', resource: ref, available: 3 } })
    await call('POST', `${at(ref)}/restock`, { body: { delta: 100, reason: 'delivery' } })
    const replay = await buy(body, key('sold out'))
    t.equal(replay.headers.get('idempotent-replayed'), 'true')
    t.same([replay.status, replay.body], [first.status, first.body], 'the replay is the same to the letter')

    const limited = await sell(call, 'then:2', 100)
    const max = { ...units(100), max_per_customer: 2 }
    await call('PUT', at(limited), { body: max, headers: { 'if-match': '*' } })
    await buy({ customer: 'theo', lines: lines(limited) })
    const over = { customer: 'theo', lines: lines(limited, 2) }
    const refused = await buy(over, key('limit'))
    t.match(refused, { status: 409, body: { code: 'limit', resource: limited, max_per_customer: 2 } })
    t.match(refused.body.detail, /may have at most 2 units of then:2/, 'in words too')
    await call('PUT', at(limited), { body: { ...max, max_per_customer: 50 }, headers: { 'if-match': '*' } })
    t.same((await buy(over, key('limit'))).body, refused.body)
  })

  await t.test('health and metrics: answered without a key', async (t) => {
    t.match((await call('GET', '/livez')).body, { status: 'ok' })
    t.match((await call('GET', '/readyz')).body, { status: 'ready', checks: { postgres: { status: 'up' } } })
    t.match((await call('GET', '/metrics')).body, /^holdfast_lock_acquire_seconds_count/m)
  })

  await t.test('after all tests: the invariants hold', async (t) => {
    for (const { invariant, offenders } of await verify(db.client)) t.same(offenders, [], invariant)
  })
})

t.test('with no worker', async (t) => {
  const world = await openWorld(t)
  const [api, worker] = await Promise.all([world.startApi(), world.startWorker()])
  const call = contract(api.url)
  const ref = await sell(call, 'late:1', 5)
  const body = { customer: 'ada', lines: lines(ref) }
  const held = await call('POST', '/api/purchases', { body: { ...body, hold_seconds: 1 }, headers: SETTLED })
  t.equal(held.body.status, 'held')
  worker.kill('SIGKILL')
  await worker.exited

  await t.test('Prefer: wait that times out: 202', async (t) => {
    const since = performance.now()
    const answer = await call('POST', '/api/purchases', { body, headers: { prefer: 'wait=1' } })
    t.ok(performance.now() - since >= 995, 'not before')
    t.match([answer.status, answer.body.status], [202, 'queued'])
    t.equal(answer.headers.get('preference-applied'), 'wait=1')
    t.equal(answer.headers.get('retry-after'), '1')
    const cancel = await call('POST', `/api/purchases/${answer.body.id}/cancel`, { headers: { prefer: 'wait=0' } })
    t.match([cancel.status, cancel.body.status, cancel.headers.get('retry-after')], [202, 'queued', '1'])
  })

  await t.test('overdue hold: shown as expired, and its units as available', async (t) => {
    await until(async () => (await call('GET', `/api/purchases/${held.body.id}`)).body.status === 'expired')
    t.match((await call('GET', at(ref))).body, { available: 5, held: 0 })
    t.equal((await call('GET', '/api/purchases?status=expired')).body.data[0]?.id, held.body.id)
    t.same((await call('GET', '/api/purchases?status=held')).body.data, [])
    const late = await call('POST', `/api/purchases/${held.body.id}/confirm`)
    t.match(late, { status: 409, body: { code: 'wrong_status', current_status: 'expired' } })
  })
})

t.test('with API_KEYS set', async (t) => {
  const world = await openWorld(t)
  const api = await world.startApi({ API_KEYS: 'first-key, second-key', ADMIN_KEYS: 'admin-key' })
  const call = contract(api.url)
  const bearer = { authorization: 'Bearer first-key' }

  await t.test('no key: every route of /api answers 401', async (t) => {
    const wrong = [{}, { authorization: 'Bearer nope' }, { authorization: 'Basic first-key' }, { 'x-api-key': '' }]
    for (const headers of wrong) {
      const answer = await call('GET', '/api/purchases', { headers })
      t.same(codes(answer), [401, 'unauthorized'], JSON.stringify(headers))
      t.equal(answer.headers.get('www-authenticate'), 'Bearer')
    }
    // The router decodes the path before it looks for a route.
    t.equal((await call('GET', '/%61pi/purchases')).status, 401, 'another spelling of the path is the same route')
    t.equal((await call('POST', '/api/purchases', { raw: '{' })).status, 401, 'before the body is looked at')
    for (const headers of [bearer, { authorization: 'bearer second-key' }, { 'x-api-key': 'admin-key' }]) {
      t.equal((await call('GET', '/api/purchases', { headers })).status, 200, JSON.stringify(headers))
    }
    t.equal((await call('GET', '/livez')).status, 200)
    t.equal((await fetch(`${api.url}/docs/`)).status, 200)
  })

  await t.test('Idempotency-Key of another caller: a new purchase', async (t) => {
    await call('PUT', at('scope:1'), { body: units(10), headers: bearer })
    const post = (headers: Record<string, string>, customer = 'ada') =>
      call('POST', '/api/purchases', {
        body: { customer, lines: lines('scope:1') },
        headers: { 'idempotency-key': 'mine', ...headers },
      })
    const first = await post(bearer)
    const again = await post({ 'x-api-key': 'first-key' })
    t.match([again.body.id, again.headers.get('idempotent-replayed')], [first.body.id, 'true'])
    const other = await post({ 'x-api-key': 'second-key' }, 'bob')
    t.match([other.status, other.headers.get('idempotent-replayed')], [202, null])
    t.not(other.body.id, first.body.id)
  })
})

t.test('invalid variable: the process exits at start and names it', async (t) => {
  const good = { DATABASE_URL: 'postgres://u:secret@127.0.0.1/d', REDIS_URL: 'redis://127.0.0.1:6379' }
  const key = 'a key'
  const production = { NODE_ENV: 'production', API_KEYS: key, ADMIN_KEYS: key }
  const wrong: [variable: string, env: Record<string, string | undefined>][] = [
    ['PORT', { PORT: 'abc' }],
    ['PORT', { PORT: '65536' }],
    ['PORT', { PORT: '-1' }],
    ['METRICS_PORT', { METRICS_PORT: '1.5' }],
    ['WORKER_CONCURRENCY', { WORKER_CONCURRENCY: '0' }],
    ['LEASE_TTL_MS', { LEASE_TTL_MS: '1e3' }],
    ['SHUTDOWN_MS', { SHUTDOWN_MS: 'never' }],
    ['DRAIN_MS', { DRAIN_MS: '-1' }],
    ['DRAIN_MS', { DRAIN_MS: '8000' }],
    ['DRAIN_MS', { SHUTDOWN_MS: '1000', DRAIN_MS: '501' }],
    ...['product', 'product=', 'product=0', '=5', 'Product=5', 'a=1,a=2', '*=1,,', 'a=1.5', '*=86400001'].map(
      (value): [string, { LOCK_HOLD_WARN_MS: string }] => ['LOCK_HOLD_WARN_MS', { LOCK_HOLD_WARN_MS: value }],
    ),
    ['LOG_LEVEL', { LOG_LEVEL: 'loud' }],
    ['NODE_ENV', { NODE_ENV: 'staging' }],
    ['DATABASE_URL', { DATABASE_URL: undefined }],
    ['DATABASE_URL', { DATABASE_URL: 'mysql://u:secret@127.0.0.1/d' }],
    ['REDIS_URL', { REDIS_URL: undefined }],
    ['REDIS_URL', { REDIS_URL: '127.0.0.1:6379' }],
    ['LOCK_BACKEND', { LOCK_BACKEND: 'banana' }],
    ['ETCD_HOSTS', { LOCK_BACKEND: 'etcd' }],
    ['ETCD_HOSTS', { LOCK_BACKEND: 'etcd', ETCD_HOSTS: 'http://a:2379,b:2379' }],
    ['ETCD_HOSTS', { LOCK_BACKEND: 'etcd', ETCD_HOSTS: 'http://a' }],
    ['LOCK_REDIS_URLS', { LOCK_BACKEND: 'redlock' }],
    ['LOCK_REDIS_URLS', { LOCK_REDIS_URLS: 'redis://a,redis://b' }],
    ['LOCK_REDIS_URLS', { LOCK_REDIS_URLS: 'redis://a,redis://b,redis://c,redis://d' }],
    ['LOCK_REDIS_URLS', { LOCK_REDIS_URLS: 'redis://a,redis://b,redis://u:secret@a' }],
    ['LOCK_REDIS_URLS', { LOCK_REDIS_URLS: 'redis://a,redis://b,redis+cluster://c' }],
    ['LOCK_REDIS_URLS', { LOCK_REDIS_URLS: 'redis+cluster://a,redis+cluster://b,redis+cluster://c' }],
    ['LOCK_REDIS_URLS', { LOCK_BACKEND: 'redis', LOCK_REDIS_URLS: 'redis://a,redis://b,redis://c' }],
    ['LOCK_REDIS_URLS', { LOCK_BACKEND: 'redis', LOCK_REDIS_URLS: 'redis+sentinel://a/one,redis+sentinel://b/two' }],
    ['LOCK_REDIS_URLS', { LOCK_BACKEND: 'etcd', ETCD_HOSTS: 'http://a:2379', LOCK_REDIS_URLS: 'redis://a' }],
    ['LOCK_MAX_TTL_MS', { LOCK_MAX_TTL_MS: '60000' }],
    ['LOCK_MAX_TTL_MS', { LOCK_REDIS_URLS: 'redis://a,redis://b,redis://c', LOCK_MAX_TTL_MS: '4999' }],
    ['LOCK_MIN_REPLICAS', { LOCK_REDIS_URLS: 'redis://a,redis://b,redis://c', LOCK_MIN_REPLICAS: '1' }],
    ['LOCK_MIN_REPLICAS', { LOCK_BACKEND: 'redis', LOCK_REDIS_URLS: 'redis+cluster://a', LOCK_MIN_REPLICAS: '1' }],
    ['ETCD_HOSTS', { ETCD_HOSTS: 'http://a' }],
    ['PAYMENTS', { PAYMENTS: 'cash' }],
    ['STRIPE_SECRET_KEY', { PAYMENTS: 'stripe' }],
    ['STRIPE_SECRET_KEY', { PAYMENTS: 'stripe', STRIPE_SECRET_KEY: 'pk_test_public' }],
    ['STRIPE_WEBHOOK_SECRET', { PAYMENTS: 'stripe', STRIPE_SECRET_KEY: 'sk_test_1' }],
    ['STRIPE_SECRET_KEY', { STRIPE_SECRET_KEY: 'sk_test' }],
    ['SANDBOX_URL', { SANDBOX_URL: 'localhost:12111' }],
    ['PAYMENT_TIMEOUT_MS', { PAYMENT_TIMEOUT_MS: '0' }],
    ['LAB', { LAB: 'yes' }],
    ['LAB', { ...production, LAB: '1' }],
    ['API_KEYS', { ...production, API_KEYS: undefined }],
    ['API_KEYS', { ...production, API_KEYS: ' , ' }],
    ['ADMIN_KEYS', { ...production, ADMIN_KEYS: undefined }],
  ]
  for (const [variable, env] of wrong) {
    t.throws(
      () => readConfig({ ...good, ...env }),
      { code: 'bad_configuration', variable },
      `${JSON.stringify(env)} names ${variable}`,
    )
  }
  t.equal(readConfig(good).drain_ms, 0, 'Ctrl-C waits for no balancer')
  t.equal(readConfig({ ...good, ...production, SHUTDOWN_MS: '9000' }).drain_ms, 3_000)
  t.match(readConfig({ ...good, ...production }), { production: true, port: 3000, lock: { backend: 'redis' } })
  const three = { LOCK_REDIS_URLS: 'redis://a, redis://b, redis://c' }
  t.same(readConfig({ ...good, ...three }).lock, {
    backend: 'redlock',
    urls: ['redis://a', 'redis://b', 'redis://c'],
  })
  const { expected_hold_ms } = readConfig({ ...good, LOCK_HOLD_WARN_MS: 'product=500, *=1000' })
  t.same([...expected_hold_ms].sort(), [
    ['*', 1_000],
    ['product', 500],
  ])
  t.same([...readConfig(good).expected_hold_ms], [['*', 30_000]])

  const run = async (entry: string, env: Record<string, string | undefined>) => {
    const { PATH, HOME } = process.env
    const child = spawn(process.execPath, ['--import=tsx', entry], { cwd: ROOT, env: { PATH, HOME, ...good, ...env } })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk
    })
    const code = await new Promise((resolve) => child.once('close', resolve))
    return { code, stderr }
  }
  const cases = [
    ['src/api/main.ts', 'PORT', { PORT: 'abc' }],
    ['src/api/main.ts', 'API_KEYS', { NODE_ENV: 'production' }],
    ['src/workers/main.ts', 'ADMIN_KEYS', { NODE_ENV: 'production', API_KEYS: key }],
    ['src/workers/main.ts', 'DATABASE_URL', { DATABASE_URL: 'mysql://u:secret@127.0.0.1/d' }],
  ] as const
  await Promise.all(
    cases.map(async ([entry, variable, env]) => {
      const { code, stderr } = await run(entry, env)
      t.equal(code, 1, `${entry} ends`)
      t.match(stderr, new RegExp(`^holdfast: ${variable} .*\n$`), `and names ${variable} on one line`)
      t.notMatch(stderr, 'secret', 'without the password')
    }),
  )
})
