/**
 * The history of purchases and bookings, with an API, two workers and a provider: each entry is a committed row with its time,
 * in the order of cause and effect, and `waiting_for` names what is in front.
 */
import { hostname } from 'node:os'
import { createClient, type History } from 'holdfast/client'
import t, { type Test } from 'tap'
import { card, openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'
import { startReceiver } from '../support/webhook-receiver.ts'

const WAIT = { prefer: 'wait=30' }
const NOW = { prefer: 'wait=0' }

const world = await openWorld(t)
const [sandbox, receiver] = await Promise.all([world.startSandbox(), startReceiver(t)])
const env = { SANDBOX_URL: sandbox.url, WEBHOOK_ALLOW_PRIVATE_ADDRESSES: '1', WEBHOOK_RETRY_BASE_MS: '100' }
const [api, ...workers] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
const shop = openShop(t, [api.url], world.env.DATABASE_URL)
const call = contract(api.url)
const nameOf = ({ pid }: { pid: number }) => `${hostname()}:${pid}`
const names = workers.map(nameOf)

type Noun = 'purchase' | 'booking'
const read = async (id: string, noun: Noun = 'purchase'): Promise<History> => {
  const { status, body } = await call('GET', `/api/${noun}s/${id}/history`)
  if (status !== 200) throw new Error(JSON.stringify(body))
  return body
}
const entry = ({ history }: History, what: string) => history.find((one) => one.what === what)
const words = ({ history }: History) => history.map((one) => one.what)
const iso = (time: unknown) => new Date(String(time)).toISOString()
const lines = (resource: string, units = 1) => [{ resource, units }]

/** Asserts that the time, the worker and the token of the row's last status are those of the row. */
async function equalsRow(t: Test, id: string, noun: Noun = 'purchase') {
  const [row] = await shop.client`SELECT * FROM ${shop.client(`${noun}s`)} WHERE id = ${id}`
  const read_back = await read(id, noun)
  t.match(
    entry(read_back, row?.status),
    { at: iso(row?.settled_at), by: row?.settled_by, fencing_token: row?.fencing_token },
    `${row?.status}: the time, the worker and the token of the row`,
  )
  t.ok(names.includes(row?.settled_by), 'a worker of this fleet settled it')
  t.match(entry(read_back, 'queued'), { at: iso(row?.created_at), detail: { seq: row?.seq } }, 'and when it came')
  return read_back
}
const movementsOf = async (id: string) =>
  (await shop.client`
    SELECT resource_id AS resource, reason, delta, fencing_token FROM ledger_entries WHERE purchase_id = ${id}
    ORDER BY created_at, resource_id`) as object[]

t.test('sale, cart and sold out: queued, then the outcome with its ledger entries', async (t) => {
  const [ref, other] = [await shop.units('product', 5), await shop.units('product', 5)]
  const sold = (await shop.buy({ customer: 'ada', lines: lines(ref) }, WAIT)).body
  const sale = await equalsRow(t, sold.id)
  t.same(words(sale), ['queued', 'confirmed'])
  t.same(entry(sale, 'confirmed')?.detail?.movements, await movementsOf(sold.id))
  t.match(entry(sale, 'queued'), { detail: { queue: ref, ahead: 0 } })
  t.equal(sale.waiting_for, null)

  const cart = (await shop.buy({ customer: 'ada', lines: [...lines(ref), ...lines(other, 2)] }, WAIT)).body
  const both = await equalsRow(t, cart.id)
  t.same(words(both), ['queued', 'confirmed'])
  t.same(entry(both, 'confirmed')?.detail?.movements, await movementsOf(cart.id))
  t.equal(entry(both, 'confirmed')?.detail?.movements?.length, 2, 'one for each resource')

  const late = (await shop.buy({ customer: 'ada', lines: lines(ref, 9) }, WAIT)).body.purchase
  const refused = await equalsRow(t, late.id)
  t.same(words(refused), ['queued', 'rejected'])
  t.match(entry(refused, 'rejected')?.detail, { reason: 'sold_out', resource: ref, available: 3 })

  const client = createClient({ url: api.url })
  const path = { params: { path: { id: sold.id } } }
  t.same(await client.get('/api/purchases/{id}/history', path), sale, 'the client reads the same')
})

t.test('hold: confirmed, cancelled or expired, each with the hold before it', async (t) => {
  const ref = await shop.units('product', 5)
  const hold = async (hold_seconds = 600): Promise<string> =>
    (await shop.buy({ customer: 'ada', lines: lines(ref), hold_seconds }, WAIT)).body.id
  const [confirmed, cancelled, expired] = [await hold(), await hold(), await hold(1)]
  const held = await equalsRow(t, confirmed)
  t.same(words(held), ['queued', 'held'])
  const { expires_at } = await shop.purchase(confirmed)
  t.same(held.waiting_for, { what: 'hold', until: expires_at })

  t.equal((await shop.command(confirmed, 'confirm', WAIT)).status, 200)
  const sale = await equalsRow(t, confirmed)
  t.same(words(sale), ['queued', 'held', 'command_received', 'confirmed', 'command_done'])
  t.same(entry(sale, 'held'), entry(held, 'held'), 'the hold keeps its time, its worker and its token')
  const [command] = await shop.client`SELECT * FROM commands WHERE purchase_id = ${confirmed}`
  t.match(entry(sale, 'command_received'), { at: iso(command?.created_at), detail: { command: 'confirm' } })
  t.match(entry(sale, 'command_done'), { at: iso(command?.settled_at), by: command?.settled_by })
  t.same(
    [entry(sale, 'held'), entry(sale, 'confirmed')].flatMap((one) => one?.detail?.movements),
    await movementsOf(confirmed),
  )
  t.equal((await shop.command(confirmed, 'refund', WAIT)).status, 200)
  const back = await equalsRow(t, confirmed)
  t.same(words(back), [...words(sale), 'command_received', 'refunded', 'command_done'])
  t.same(entry(back, 'confirmed'), entry(sale, 'confirmed'), 'nor does the refund change the sale')

  await shop.command(cancelled, 'cancel', WAIT)
  t.same(words(await equalsRow(t, cancelled)), ['queued', 'held', 'command_received', 'cancelled', 'command_done'])
  await until(async () => (await shop.client`SELECT 1 FROM purchases WHERE id = ${expired} AND status = 'expired'`)[0])
  t.same(words(await equalsRow(t, expired)), ['queued', 'held', 'expired'])
})

t.test('card: declined, then another card, captured and refunded; no token of a card', async (t) => {
  const ref = await shop.units('product', 5)
  const { id } = (await shop.buy({ customer: 'ada', lines: lines(ref), hold_seconds: 600 }, WAIT)).body
  const pay = (token: string) => shop.command(id, 'confirm', WAIT, { payment: card(token) })
  t.equal((await pay('tok_chargeDeclined')).status, 402)
  t.equal((await pay('tok_visa')).status, 200)
  await shop.charged(id)
  await shop.command(id, 'refund', WAIT)
  await shop.charged(id)
  const whole = await equalsRow(t, id)
  const declined = ['command_received', 'command_done', 'charge_started', 'charge_declined']
  const captured = [
    'command_received',
    'command_done',
    'charge_started',
    'charge_authorized',
    'confirmed',
    'charge_captured',
  ]
  const refunded = ['command_received', 'refunded', 'command_done', 'refund_requested', 'refund_succeeded']
  t.same(words(whole), ['queued', 'held', ...declined, ...captured, ...refunded])
  t.notMatch(JSON.stringify(whole), /tok_/)
  const charges = await shop.client`SELECT * FROM charges WHERE purchase_id = ${id} ORDER BY created_at`
  const [failed, charge, refund] = charges
  t.match(entry(whole, 'charge_started'), { at: iso(failed?.created_at), detail: { amount: 100, currency: 'USD' } })
  t.match(entry(whole, 'charge_declined'), { detail: { reason: failed?.reason } })
  t.match(entry(whole, 'charge_captured'), { at: iso(charge?.settled_at) })
  t.match(entry(whole, 'refund_succeeded'), { at: iso(refund?.settled_at) })
  t.equal(whole.waiting_for, null)
})

t.test('provider stopped: waiting_for names it and the next attempt', async (t) => {
  const ref = await shop.units('product', 5)
  sandbox.kill('SIGSTOP')
  const { id } = (await shop.buy({ customer: 'ada', lines: lines(ref), payment: card('tok_visa') }, NOW)).body
  const charging = await until(async () => {
    const now = await read(id)
    return now.waiting_for?.what === 'charge' ? now : undefined
  })
  t.same(words(charging), ['queued', 'held', 'charge_started'])
  const [charge] = await shop.client`SELECT next_attempt_at FROM charges WHERE purchase_id = ${id}`
  const next_attempt_at = iso(charge?.next_attempt_at)
  t.same(charging.waiting_for, { what: 'charge', provider: 'sandbox', next_attempt_at })
  sandbox.kill('SIGCONT')
  await shop.charged(id)
  t.same(words(await equalsRow(t, id)), [...words(charging), 'charge_authorized', 'confirmed', 'charge_captured'])
})

t.test('stay accepted, stay declined, ride: each status with its time', async (t) => {
  const room = await shop.calendar('room')
  const stay = async (day: number): Promise<string> => {
    const [from, to] = [`2031-01-0${day}`, `2031-01-0${day + 1}`]
    return (await shop.book({ resource: room, customer: 'ada', from, to, hold_seconds: 600 }, WAIT)).body.id
  }
  const [accepted, declined] = [await stay(1), await stay(2)]
  const requested = await equalsRow(t, accepted, 'booking')
  t.same(words(requested), ['queued', 'requested'])
  t.equal(requested.waiting_for?.what, 'hold')
  await shop.move(accepted, 'accept', WAIT)
  const taken = await equalsRow(t, accepted, 'booking')
  t.same(words(taken), ['queued', 'requested', 'command_received', 'accepted', 'command_done'])
  t.same(entry(taken, 'requested'), entry(requested, 'requested'))
  t.equal(taken.waiting_for, null)
  await shop.move(declined, 'decline', WAIT)
  const over = await equalsRow(t, declined, 'booking')
  t.same(words(over), ['queued', 'requested', 'command_received', 'declined', 'command_done'])
  const second = { resource: room, customer: 'bob', from: '2031-01-01', to: '2031-01-02' }
  const conflict = (await shop.book(second, WAIT)).body.booking
  t.match(entry(await equalsRow(t, conflict.id, 'booking'), 'rejected')?.detail, {
    reason: 'conflict',
    conflicting_ids: [accepted],
  })

  const [, driver_id = ''] = (await shop.calendar('driver')).split(':')
  const ride = (await shop.book({ driver_id, rider_id: 'ada', pickup_lat: 52, pickup_lng: 13 }, WAIT)).body
  await shop.move(ride.id, 'accept', WAIT)
  await shop.move(ride.id, 'complete', WAIT)
  const done = await equalsRow(t, ride.id, 'booking')
  t.same(
    words(done).filter((what) => !what.startsWith('command')),
    ['queued', 'requested', 'accepted', 'completed'],
  )
})

t.test('lease of the queue held elsewhere: waiting_for names its holder, the head and what is ahead', async (t) => {
  const ref = await shop.units('product', 9)
  const held = (await shop.buy({ customer: 'ada', lines: lines(ref), hold_seconds: 600 }, WAIT)).body
  const lease = (
    await call('POST', '/api/leases', {
      body: { resource: ref, mode: 'exclusive', ttl_ms: 30_000, wait_ms: 10_000, owner: 'stocktaking' },
    })
  ).body
  const buy = async (): Promise<string> => (await shop.buy({ customer: 'ada', lines: lines(ref) }, NOW)).body.id
  const [first, second] = [await buy(), await buy()]
  await shop.command(held.id, 'confirm', NOW)
  const third = await buy()
  const holder = { owner: 'stocktaking', fencing_token: lease.fencing_token }
  const head = { kind: 'purchase', id: first, command: null, since: (await shop.purchase(first)).created_at }
  const waits = async (id: string) => (await read(id)).waiting_for
  t.same(await waits(first), { what: 'settlement', queue: ref, ahead: 0, head, holder })
  t.same(await waits(second), { what: 'settlement', queue: ref, ahead: 1, head, holder })
  t.same(await waits(third), { what: 'settlement', queue: ref, ahead: 3, head, holder })
  const [command] = await shop.client`SELECT * FROM commands WHERE purchase_id = ${held.id}`
  const waiting = { id: command?.id, action: 'confirm', since: iso(command?.created_at) }
  t.same(await waits(held.id), { what: 'command', queue: ref, ahead: 2, head, holder, command: waiting })

  await call('DELETE', `/api/leases/${lease.lease_id}`)
  await until(async () => (await shop.queued()) === 0)
  t.same(entry(await equalsRow(t, third), 'queued')?.detail, {
    queue: ref,
    seq: (await shop.purchase(third)).seq,
    ahead: 2,
  })
  t.equal(await waits(third), null)
})

t.test('event delivered, and not accepted: told to which endpoint, and when', async (t) => {
  const ref = await shop.units('product', 5)
  const endpoint = async (path: string): Promise<string> =>
    (await call('POST', '/api/webhook-endpoints', { body: { url: receiver.url(path), resource: ref } })).body.id
  const [good, bad] = [await endpoint('/good'), await endpoint('/bad')]
  receiver.answers((_event, path) => (path === '/bad' ? 500 : 204))
  const { id } = (await shop.buy({ customer: 'ada', lines: lines(ref) }, WAIT)).body
  const told = await until(async () => {
    const now = await read(id)
    const attempts = entry(now, 'event_delivery_failed')?.detail?.attempts ?? 0
    return entry(now, 'event_delivered') && attempts > 1 ? now : undefined
  })
  t.match(entry(told, 'event_delivered')?.detail, { endpoint: good, type: 'purchase.confirmed', resource: ref })
  t.match(entry(told, 'event_delivery_failed')?.detail, { endpoint: bad, http_status: 500 })
  const [delivery] =
    await shop.client`SELECT created_at FROM webhook_deliveries WHERE endpoint_id = ${good} AND subject_id = ${id}`
  t.equal(entry(told, 'event_delivered')?.at, iso(delivery?.created_at))
  receiver.answers(() => 204)
  await until(async () => !entry(await read(id), 'event_delivery_failed'))
})

t.test('one worker killed: `by` names the other; rows of older versions have no `by`', async (t) => {
  const [gone, left] = workers
  gone?.kill('SIGKILL')
  await gone?.exited
  const ref = await shop.units('product', 5)
  const { id } = (await shop.buy({ customer: 'ada', lines: lines(ref) }, WAIT)).body
  t.equal(entry(await equalsRow(t, id), 'confirmed')?.by, left && nameOf(left))
  await shop.client`UPDATE purchases SET settled_by = NULL WHERE id = ${id}`
  t.notOk('by' in (entry(await read(id), 'confirmed') ?? {}))
})

t.test('no such row, and no id: 404 and 400, as for the row itself', async (t) => {
  const ref = await shop.units('product', 5)
  const { id } = (await shop.buy({ customer: 'ada', lines: lines(ref) }, NOW)).body
  t.match(await call('GET', `/api/bookings/${id}/history`), { status: 404, body: { code: 'not_found' } })
  t.match(await call('GET', '/api/purchases/7/history'), { status: 400, body: { errors: [{ field: 'id' }] } })
})
