/** The event stream: no event is missing or out of order when a process dies or a client reconnects late. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { verify } from '../../src/shared/invariants.ts'
import type { Event } from '../../src/shared/outbox.ts'
import { openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'
import { listen } from '../support/sse-client.ts'

const WAIT = { prefer: 'wait=10' }

t.test('with an API and a worker', async (t) => {
  const world = await openWorld(t)
  const [first] = await Promise.all([world.startApi(), world.startWorker()])
  const urls = [first.url]
  const shop = openShop(t, urls, world.env.DATABASE_URL)
  const at = () => urls[0] ?? ''

  await t.test('API killed during a sale: its client resumes on another API without a gap', async (t) => {
    const ref = await shop.units('product', 1_000)
    const heard = await listen(`${first.url}/api/events?resource=${ref}`)
    await until(heard.last, { what: 'a place in the log' })
    const second = await world.startApi()
    urls[0] = second.url
    const buying = Promise.all(
      Array.from({ length: 20 }, async () => {
        for (let n = 0; n < 10; n++) await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] }, WAIT)
      }),
    )
    await until(() => heard.events.length >= 40)
    first.kill()
    t.equal(await heard.over, 'cut')
    const again = await listen(`${at()}/api/events?resource=${ref}`, heard.last())
    await buying
    await until(() => heard.events.length + again.events.length >= 200)
    const all = [...heard.events, ...again.events]
    t.same(
      all.map((one) => one.sequence),
      Array.from({ length: 200 }, (_, n) => n + 2),
      'each number once, in order, after the first, which was the initial stock',
    )
    t.equal(new Set(all.map((one) => (one.data as { purchase: string }).purchase)).size, 200, 'each purchase once')
    t.ok(again.events.length > 0 && heard.events.length < 200, 'and some were told by either process')
    again.stop()
  })

  await t.test('event committed late, with an earlier id: not skipped', async (t) => {
    const ref = await shop.units('product', 10)
    const heard = await listen(`${at()}/api/events?type=purchase.failed`)
    await until(heard.last)
    const insert = (tx: typeof shop.client, customer: string) => tx`
      INSERT INTO purchases (queue, customer, items, status) VALUES (${`${ref}-${customer}`}, ${customer}, '[]', 'failed')`
    const gate: { open(): void } = { open() {} }
    const opened = new Promise<void>((resolve) => {
      gate.open = resolve
    })
    const late = shop.client.begin(async (tx) => {
      await insert(tx as never, 'slow')
      await insert(shop.client, 'quick')
      await opened
    })
    await until(
      async () => (await shop.client`SELECT 1 FROM outbox WHERE resource_id = ${`${ref}-quick`}`).length === 1,
    )
    // Long enough for several polls of the reader, so that an unsent event is held back on purpose.
    await sleep(300)
    t.same(heard.events, [], 'the later id waits for the earlier one')
    gate.open()
    await late
    await until(() => heard.events.length === 2)
    t.same(
      heard.events.map((one) => (one.data as { customer: string }).customer),
      ['slow', 'quick'],
    )
    heard.stop()
  })

  await t.test('booking, hold, stock and replacement: one event for every change, of its type', async (t) => {
    const ref = await shop.units('product', 10)
    const room = await shop.calendar('room')
    const heard = await listen(`${at()}/api/events?after=0-0`)
    const held = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 2 }], hold_seconds: 60 }, WAIT)
    await shop.command(held.body.id, 'confirm', WAIT)
    await shop.command(held.body.id, 'refund', WAIT)
    const stay = { resource: room, customer: 'ada', from: '2030-01-01', to: '2030-01-03' }
    const booked = await shop.book(stay, WAIT)
    await shop.book(stay, WAIT)
    await shop.move(booked.body.id, 'cancel', WAIT)
    await fetch(`${at()}/api/resources/${ref.replace(':', '/')}/restock`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"delta": 5, "reason": "delivery"}',
    })
    const of = (resource: string) => heard.events.filter((one) => one.resource === resource)
    await until(() => of(ref).length === 5 && of(room).length === 3)
    t.same(
      of(ref).map((one) => [one.sequence, one.type]),
      [
        [1, 'resource.restocked'],
        [2, 'purchase.held'],
        [3, 'purchase.confirmed'],
        [4, 'purchase.refunded'],
        [5, 'resource.restocked'],
      ],
    )
    t.match(of(ref)[1], {
      data: { purchase: held.body.id, customer: 'ada', amount: 200, lines: [{ resource: ref, units: 2 }] },
    })
    t.match(of(ref)[4], { data: { delta: 5, reason: 'delivery' } })
    t.same(
      of(room).map((one) => [one.sequence, one.type, (one.data as { reason: string | null }).reason]),
      [
        [1, 'booking.accepted', null],
        [2, 'booking.rejected', 'conflict'],
        [3, 'booking.cancelled', null],
      ],
    )
    t.match(of(room)[0], { data: { booking: booked.body.id, kind: 'stay', from: '2030-01-01T00:00:00.000Z' } })
    heard.stop()
    const confirmed = await listen(`${at()}/api/events?after=0-0&type=purchase.refunded&limit=1`)
    t.equal(await confirmed.over, 'ended', 'a limit ends the stream')
    t.same(
      confirmed.events.map((one) => one.id),
      [of(ref)[3]?.id],
      'the same event has the same id',
    )
  })

  await t.test('cart: an event for each of its resources, in the sequence of that resource', async (t) => {
    const [first = '', second = ''] = [await shop.units('product', 10), await shop.units('product', 10)].sort()
    const both = [second, first].map((resource) => ({ resource, units: 1 }))
    const heard = await listen(`${at()}/api/events?after=0-0&resource=${second}`)
    const all = await listen(`${at()}/api/events?after=0-0`)
    const cart = (await shop.buy({ customer: 'ada', lines: both, hold_seconds: 60 }, WAIT)).body.id
    await shop.command(cart, 'confirm', WAIT)
    const alone = (await shop.buy({ customer: 'bob', lines: [{ resource: second, units: 1 }] }, WAIT)).body.id
    const short = [
      { resource: first, units: 1 },
      { resource: second, units: 99 },
    ]
    const refused = (await shop.buy({ customer: 'eve', lines: short }, WAIT)).body.purchase.id
    await shop.command(cart, 'refund', WAIT)
    // A replacement paid by late money is inserted with its final status.
    const [again] = await shop.client<{ id: string }[]>`
      INSERT INTO purchases (queue, items, status) VALUES (${first}, ${JSON.stringify(both)}::text::jsonb, 'failed') RETURNING id`
    const told = (events: readonly Event[], resource: string) =>
      events.flatMap((one) => {
        const { purchase } = one.data as { purchase?: string }
        return one.resource === resource ? [[one.sequence, one.type, purchase]] : []
      })
    await until(() => heard.events.length >= 7 && told(all.events, first).length >= 6)
    t.same(told(heard.events, second), [
      [1, 'resource.restocked', undefined],
      [2, 'purchase.held', cart],
      [3, 'purchase.confirmed', cart],
      [4, 'purchase.confirmed', alone],
      [5, 'purchase.rejected', refused],
      [6, 'purchase.refunded', cart],
      [7, 'purchase.failed', again?.id],
    ])
    t.same(told(all.events, first), [
      [1, 'resource.restocked', undefined],
      [2, 'purchase.held', cart],
      [3, 'purchase.confirmed', cart],
      [4, 'purchase.rejected', refused],
      [5, 'purchase.refunded', cart],
      [6, 'purchase.failed', again?.id],
    ])
    const held = all.events.filter((one) => one.change === `${cart}/held`)
    t.same(held.map((one) => one.resource).sort(), [first, second], 'one change, told by both, by one name')
    t.equal(new Set(all.events.map((one) => one.id)).size, all.events.length, 'each telling has an id of its own')
    heard.stop()
    all.stop()
  })

  await t.test('client that reconnects too late: 410, no silent gap', async (t) => {
    const call = contract(at())
    await shop.client`UPDATE outbox_retention SET pruned_through_id = 3`
    const refused = await call('GET', '/api/events', { headers: { 'last-event-id': '2-1' } })
    t.same([refused.status, refused.body.code], [410, 'events_gone'])
    await shop.client`UPDATE outbox_retention SET pruned_through_id = 0`
  })

  await t.test('API that stops: ends its streams and exits at once', async (t) => {
    const api = await world.startApi({ SHUTDOWN_MS: '20000' })
    const heard = await listen(`${api.url}/api/events`)
    await until(heard.last)
    const since = performance.now()
    api.kill('SIGTERM')
    t.equal(await heard.over, 'ended')
    t.equal(await api.exited, 'code 0')
    t.ok(performance.now() - since < 5_000, 'without waiting for the deadline')
  })

  await t.test('all events: every sequence number of a resource once, in log order', async (t) => {
    const gaps = await shop.client`
      SELECT resource_id, last_sequence FROM (
        SELECT resource_id, last_sequence, cardinality(statuses) AS n,
               lag(last_sequence, 1, 0::bigint) OVER (PARTITION BY resource_id ORDER BY id) AS before FROM outbox
      ) x WHERE last_sequence - n <> before`
    t.same(gaps, [])
    const ask = async () => (await verify(shop.client)).find(({ invariant }) => invariant.startsWith('no event'))
    t.same((await ask())?.offenders, [], 'verify says so')
    const [any] = await shop.client`
      UPDATE outbox_sequences SET last_sequence = last_sequence + 1 WHERE resource_id = (SELECT min(resource_id) FROM outbox_sequences) RETURNING resource_id`
    t.same((await ask())?.offenders, [any?.resource_id], 'and names the resource that has lost one')
    await shop.client`UPDATE outbox_sequences SET last_sequence = last_sequence - 1 WHERE resource_id = ${any?.resource_id}`
    const wrong = await shop.client`
      SELECT h.resource_id FROM outbox_sequences h WHERE last_sequence <> (SELECT max(last_sequence) FROM outbox o WHERE o.resource_id = h.resource_id)`
    t.same(wrong, [])
  })
})
