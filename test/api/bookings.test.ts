/** Stays and rides through real API and worker processes: each time is booked once, and ends in one status. */
import t from 'tap'
import { type Answer, openShop, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)

t.test('two APIs, three workers', async (t) => {
  const world = await openWorld(t)
  const apis = await Promise.all([world.startApi(), world.startApi(), ...[1, 2, 3].map(() => world.startWorker())])
  const urls = apis.slice(0, 2).map((api) => api.url)
  const shop = openShop(t, urls, world.env.DATABASE_URL)
  const stay = (resource: string, from: number, to: number, more: object = {}) =>
    shop.book({ resource, customer: 'ada', from: day(from), to: day(to), ...more }, WAIT)
  const ride = async (driver: string, rider: string) =>
    await shop.book(
      { driver_id: driver.replace('driver:', ''), rider_id: rider, pickup_lat: 52.52, pickup_lng: 13.4 },
      WAIT,
    )
  const free = async (resource: string, from: number, to: number) => {
    const path = `/api/resources/${resource.replace(':', '/')}/availability?from=${day(from)}&to=${day(to)}`
    const { free } = (await (await fetch(`${urls[0]}${path}`)).json()) as { free: { from: string; to: string }[] }
    return free.map((range) => [range.from.slice(0, 10), range.to.slice(0, 10)])
  }

  await t.test('one ride requested twice at once: one driver, one 409 that names it (nammayatri#8111)', async (t) => {
    const driver = await shop.calendar('driver')
    const answers = await Promise.all([ride(driver, 'ann'), ride(driver, 'bob')])
    t.same(tally(answers), { '201 requested': 1, '409 conflict': 1 })
    const [won, lost] = [...answers].sort((a, b) => a.status - b.status) as [Answer, Answer]
    t.same(lost.body.conflicting_ids, [won.body.id])
    t.match(won.body, { kind: 'ride', resource: driver, to: null, pickup: { lat: 52.52, lng: 13.4 } })
    t.match(await shop.move(won.body.id, 'accept'), { status: 200, body: { status: 'accepted' } })
    t.match(await ride(driver, 'cem'), { status: 409, body: { conflicting_ids: [won.body.id] } })
    const done = await shop.move(won.body.id, 'complete')
    t.match(done, { status: 200, body: { status: 'completed' } })
    t.ok(done.body.to > done.body.from, 'the ride has an end')
    t.match(await ride(driver, 'cem'), { status: 201, body: { status: 'requested' } })
  })

  await t.test('64 clients for one slot: one gets it (cal.diy#13397, LibreBooking#147)', async (t) => {
    const room = await shop.calendar('room')
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, n) => stay(room, 3, 4 + (n % 5), { customer: `c${n}` })),
    )
    t.same(tally(answers), { '201 accepted': 1, '409 conflict': 63 })
    const won = answers.find((answer) => answer.status === 201)?.body
    t.ok(answers.every(({ status, body }) => status === 201 || body.conflicting_ids[0] === won.id))
    t.same(await free(room, 0, 20), [
      [day(0), day(3)],
      [won.to.slice(0, 10), day(20)],
    ])
  })

  await t.test('half-open ranges: a stay may begin on the day on which another ends', async (t) => {
    const room = await shop.calendar('room')
    t.match(await stay(room, 5, 8), { status: 201 })
    t.match([await stay(room, 2, 5), await stay(room, 8, 9)], [{ status: 201 }, { status: 201 }])
    t.match([await stay(room, 4, 6), await stay(room, 0, 30)], [{ status: 409 }, { status: 409 }])
    const late = { resource: room, customer: 'x', from: '2030-01-11T01:00:00+02:00', to: '2030-01-12T00:00:00Z' }
    const answer = await shop.book(late, WAIT)
    t.match(answer, { status: 201, body: { from: '2030-01-10T23:00:00.000Z' } }, 'offsets are read')
    t.match(await stay(room, 8, 11), { status: 409, body: { conflicting_ids: { length: 2 } } })
  })

  await t.test('held stay: only its accept books the dates; decline and cancel free them', async (t) => {
    const room = await shop.calendar('room')
    const held = await stay(room, 0, 5, { hold_seconds: 60 })
    t.match(held, { status: 201, body: { status: 'requested' } })
    t.match(await stay(room, 4, 6), { status: 409, body: { conflicting_ids: [held.body.id] } }, 'cal.diy#23974')
    t.match(await shop.move(held.body.id, 'accept'), { status: 200, body: { status: 'accepted' } }, 'woocommerce#67354')
    for (const [command, status] of [
      ['accept', 'accepted'],
      ['decline', 'accepted'],
    ] as const) {
      const answer = await shop.move(held.body.id, command)
      t.match(answer, { status: 409, body: { code: 'wrong_status', current_status: status } })
    }
    t.match(await shop.move(held.body.id, 'cancel'), { status: 200, body: { status: 'cancelled' } })
    const other = await stay(room, 4, 6, { hold_seconds: 60 })
    t.match(await shop.move(other.body.id, 'decline'), { status: 200, body: { status: 'declined' } })
    t.same(await free(room, 0, 9), [[day(0), day(9)]])
  })

  await t.test(
    'accepted stay, then cancelled: a replay of the accept answers 200 with the present booking',
    async (t) => {
      const room = await shop.calendar('room')
      const { body } = await stay(room, 0, 1, { hold_seconds: 60 })
      const key = { 'idempotency-key': `accept-${room}` }
      t.match(await shop.move(body.id, 'accept', key), { status: 200, body: { status: 'accepted' } })
      t.match(await shop.move(body.id, 'cancel'), { status: 200, body: { status: 'cancelled' } })
      t.match(await shop.move(body.id, 'accept', key), { status: 200, body: { status: 'cancelled' } })
      t.match(await shop.move(body.id, 'accept'), { status: 409, body: { code: 'wrong_status' } }, 'another accept')
    },
  )

  await t.test('accept, decline, cancel at once, ten times each: one wins, the others get 409', async (t) => {
    const room = await shop.calendar('room')
    const { body } = await stay(room, 0, 1, { hold_seconds: 60 })
    const answers = await Promise.all(
      Array.from({ length: 30 }, (_, n) => shop.move(body.id, ['decline', 'cancel', 'decline'][n % 3] ?? '')),
    )
    t.equal(answers.filter((answer) => answer.status === 200).length, 1)
    t.equal(answers.filter((answer) => answer.status === 409 && answer.body.code === 'wrong_status').length, 29)
  })

  await t.test('wallet: pays price × nights once, and is refunded once', async (t) => {
    const room = await shop.calendar('room', 300)
    const account = await shop.units('account', 1_000, 1)
    const pay = { payment: { method: 'wallet', account } }
    const answers = await Promise.all([0, 3, 6].map((n) => stay(room, n, n + 2, pay)))
    t.same(tally(answers), { '201 accepted': 1, '402 payment_declined': 2 })
    t.match(await shop.resource(account), { available: 400, sold: 600 })
    const paid = answers.find((answer) => answer.status === 201)?.body
    t.match(paid, { amount: 600, currency: 'USD' })
    await Promise.all(Array.from({ length: 5 }, () => shop.move(paid.id, 'cancel')))
    t.match(await shop.resource(account), { available: 1_000, sold: 0 })
    const held = await stay(room, 0, 3, { ...pay, hold_seconds: 60 })
    t.match(await shop.resource(account), { available: 100, held: 900 })
    await shop.move(held.body.id, 'accept')
    t.match(await shop.resource(account), { available: 100, held: 0, sold: 900 })
  })

  await t.test('nights by the local clock: 25 or 23 hours are one night', async (t) => {
    const stays: [from: string, to: string, nights: number, where: string][] = [
      ['2030-10-26T15:00:00+02:00', '2030-10-27T15:00:00+01:00', 1, 'Berlin, the clock goes back'],
      ['2030-10-24T15:00:00+02:00', '2030-10-29T15:00:00+01:00', 5, 'Berlin, five nights'],
      ['2030-03-30T15:00:00+01:00', '2030-03-31T15:00:00+02:00', 1, 'Berlin, the clock goes forward'],
      ['2030-03-30T15:00:00+01:00', '2030-04-01T15:30:00+02:00', 3, 'Berlin, and half an hour of a third day'],
      ['2030-11-02T15:00:00-04:00', '2030-11-04T15:00:00-05:00', 2, 'New York, the clock goes back'],
      ['2030-11-02T15:00-04:00', '2030-11-04T11:00-05:00', 2, 'New York, gone by eleven'],
      ['2030-03-09T16:00:00-05:00', '2030-03-11T16:00:00-04:00', 2, 'New York, the clock goes forward'],
      ['2030-04-06T15:00:00+11:00', '2030-04-07T15:00:00+10:30', 1, 'Lord Howe, half an hour'],
      ['2030-10-27T02:30:00+02:00', '2030-10-27T02:10:00+01:00', 1, 'Berlin, within the hour that comes twice'],
      ['2030-06-01', '2030-06-05', 4, 'dates alone'],
      ['2030-06-01T15:00:00+02:00', '2030-06-04T11:00:00+02:00', 3, 'no change of the clock'],
      // No clock change explains these offsets: real time counts.
      ['2030-07-01T00:00:00+14:00', '2030-07-01T23:00:00-12:00', 3, 'offsets of two places'],
    ]
    const rooms = await Promise.all(stays.map(() => shop.calendar('room', 100)))
    const answers = await Promise.all(
      stays.map(([from, to], n) => shop.book({ resource: rooms[n], customer: 'ada', from, to }, WAIT)),
    )
    for (const [n, [from, to, nights, where]] of stays.entries()) {
      t.equal(answers[n]?.body.amount, nights * 100, `${where}: ${from} to ${to}`)
    }
  })

  await t.test('stay in the past: refused, by the clock of the database', async (t) => {
    const room = await shop.calendar('room', 100)
    const iso = (ms: number) => new Date(Date.now() + ms).toISOString()
    const add = async (from_ms: number, to_ms: number) => {
      const [row] = await shop.client<{ id: string }[]>`
        INSERT INTO bookings (resource_id, customer, period)
        VALUES (${room}, 'ada', tstzrange(${iso(from_ms)}, ${iso(to_ms)})) RETURNING id`
      return row?.id ?? ''
    }
    const [over, under_way] = [await add(-7_200_000, -1_000), await add(-7_200_000, 7_200_000)]
    await until(async () => (await shop.queued()) === 0)
    t.match(await shop.booking(over), { status: 'rejected', reason: 'too_late' })
    t.match(await shop.booking(under_way), { status: 'accepted', amount: 100 }, 'one that is under way is')
  })

  await t.test('Idempotency-Key after the end of the stay: replays its booking', async (t) => {
    const room = await shop.calendar('room')
    const to = new Date(Date.now() + 8_000).toISOString()
    const body = { resource: room, customer: 'ada', from: '2026-01-01', to }
    const key = { ...WAIT, 'idempotency-key': `over-${room}` }
    const first = await shop.book(body, key)
    t.equal(first.status, 201)
    await until(async () => (await shop.book(body)).status === 400, { what: 'the stay to be over', timeout_ms: 60_000 })
    const again = await shop.book(body, key)
    t.match([again.status, again.body.id, again.headers.get('idempotent-replayed')], [201, first.body.id, 'true'])
    t.match(await shop.book({ ...body, customer: 'bob' }, key), {
      status: 422,
      body: { code: 'idempotency_key_reused' },
    })
    const other = await shop.book(body, { ...key, 'idempotency-key': `other-${room}` })
    t.match(other, { status: 400, body: { errors: [{ field: 'to' }] } })
  })

  await t.test('availability: past time is not free', async (t) => {
    const room = await shop.calendar('room')
    const iso = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString()
    const free = async (from: string, to: string) => {
      const path = `/api/resources/${room.replace(':', '/')}/availability?${new URLSearchParams({ from, to })}`
      return ((await (await fetch(`${urls[0]}${path}`)).json()) as { free: { from: string; to: string }[] }).free
    }
    const [last, yesterday, tomorrow, next] = [iso(-7), iso(-1), iso(1), iso(7)] as const
    t.same(await free(last, yesterday), [])
    t.same(await free(yesterday, tomorrow), [{ from: yesterday, to: tomorrow }], 'a stay may have begun')
    await shop.client`
      INSERT INTO bookings (resource_id, period, status)
      VALUES (${room}, tstzrange(${iso(-2)}, ${yesterday}), 'accepted'), (${room}, tstzrange(${tomorrow}, ${next}), 'accepted')`
    t.same(await free(last, next), [{ from: yesterday, to: tomorrow }])
  })

  await t.test('one Idempotency-Key, sent ten times to both APIs: one booking', async (t) => {
    const room = await shop.calendar('room')
    const body = { resource: room, customer: 'ada', from: day(0), to: day(2) }
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => shop.book(body, { ...WAIT, 'idempotency-key': `once-${room}` })),
    )
    t.same(tally(answers), { '201 accepted': 10 })
    t.equal(new Set(answers.map((answer) => answer.body.id)).size, 1)
    const other = await shop.book({ ...body, to: day(3) }, { 'idempotency-key': `once-${room}` })
    t.match(other, { status: 422, body: { code: 'idempotency_key_reused' } })
  })

  await t.test('300 random ranges on 20 properties: no overlap, and every request is settled', async (t) => {
    const rooms = await Promise.all(Array.from({ length: 20 }, () => shop.calendar('property')))
    const answers = await Promise.all(
      Array.from({ length: 300 }, () => {
        const from = Math.floor(Math.random() * 60)
        return stay(rooms[Math.floor(Math.random() * 20)] ?? '', from, from + 1 + Math.floor(Math.random() * 7))
      }),
    )
    const counts = tally(answers)
    t.equal((counts['201 accepted'] ?? 0) + (counts['409 conflict'] ?? 0), 300)
    t.ok((counts['201 accepted'] ?? 0) >= 20)
  })

  await shop.verified()
})
