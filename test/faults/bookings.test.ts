/**
 * Bookings at the instant of their expiry, while a worker is killed, and next to rows that were written without a
 * lease.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { inTransaction, openShop, stopSweeper, TTL, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }
/**
 * Number of requests that are accepted at the instant of their expiry, all at once. TEST_INSTANTS=1000 is the long
 * mode.
 */
const INSTANTS = Number(process.env.TEST_INSTANTS ?? 60)
const AT_ONCE = 60
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)
const ACCEPT = { RIDE_ACCEPT_TIMEOUT_S: '1' }
const ride = (driver: string, rider: string) => ({
  driver_id: driver.replace('driver:', ''),
  rider_id: rider,
  pickup_lat: 0,
  pickup_lng: 0,
})

t.test('requests at their expiry', async (t) => {
  const world = await openWorld(t)
  const [api] = await Promise.all([world.startApi(), world.startWorker(ACCEPT), world.startWorker(ACCEPT)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const hold = { hold_seconds: 1 }

  await t.test(
    'accept at the instant of expiry: one of them wins, and every reader sees the same status',
    async (t) => {
      const room = await shop.calendar('room')
      const once = async (n: number) => {
        const dates = { resource: room, from: day(n), to: day(n + 1) }
        const held = await shop.book({ ...dates, customer: 'slow', hold_seconds: 2 }, WAIT)
        // A busy machine settles an accept long after it was sent, so send them from well before the end to just after
        // it.
        const late_ms = ((n * 37) % 1_500) - 1_400
        await sleep(Math.max(0, new Date(held.body.expires_at).getTime() - Date.now() + late_ms))
        const [accepted, rival, seen] = await Promise.all([
          shop.move(held.body.id, 'accept'),
          shop.book({ ...dates, customer: 'rival' }, WAIT),
          shop.booking(held.body.id),
        ])
        return { accepted, rival, seen, after: await shop.booking(held.body.id) }
      }
      const outcomes: Awaited<ReturnType<typeof once>>[] = []
      while (outcomes.length < INSTANTS) {
        const wave = Array.from({ length: AT_ONCE }, (_, n) => once(outcomes.length + n))
        outcomes.push(...(await Promise.all(wave)))
      }
      for (const { accepted, rival, seen, after } of outcomes) {
        if (accepted.status === 200) {
          t.match(after, { status: 'accepted' })
          t.match(rival, { status: 409, body: { code: 'conflict', conflicting_ids: [after.id] } })
          t.not(seen.status, 'expired', 'who was told expired never sees it accepted')
        } else {
          t.match(accepted, { status: 409, body: { code: 'wrong_status', current_status: 'expired' } })
          t.match(after, { status: 'expired' })
          t.ok(rival.status === 201 || rival.body.conflicting_ids[0] === after.id)
        }
      }
      const accepts = tally(outcomes.map(({ accepted }) => accepted))
      t.same(
        Object.keys(accepts).sort(),
        ['200 accepted', '409 wrong_status'],
        `both happened: ${JSON.stringify(accepts)}`,
      )
    },
  )

  await t.test('ride that is not accepted: expires, and its driver gets the next one', async (t) => {
    const driver = await shop.calendar('driver')
    const { body } = await shop.book(ride(driver, 'ada'), WAIT)
    t.equal(body.status, 'requested')
    await until(async () => (await shop.booking(body.id)).status === 'expired')
    t.match(await shop.move(body.id, 'accept'), { status: 409, body: { current_status: 'expired' } })
    t.match(await shop.book(ride(driver, 'bob'), WAIT), { status: 201 })
  })

  await t.test('with the sweeper stopped', async (t) => {
    await stopSweeper(t, world)
    const room = await shop.calendar('room', 100)
    const account = await shop.units('account', 250, 1)
    const wallet = { payment: { method: 'wallet', account } }
    const [one, other] = [await shop.calendar('driver'), await shop.calendar('driver')]
    const dates = { resource: room, from: day(0), to: day(2) }
    const held = await shop.book({ ...dates, customer: 'slow', ...hold, ...wallet }, WAIT)
    const asked = await shop.book(ride(one, 'ada'), WAIT)
    t.match([held, asked], [{ status: 201 }, { status: 201 }])
    const path = `${api.url}/api/resources/${room.replace(':', '/')}/availability?from=${day(0)}&to=${day(2)}`
    await until(async () => ((await (await fetch(path)).json()) as { free: object[] }).free.length === 1)
    await until(async () => (await shop.booking(asked.body.id)).status === 'expired')
    const rows = await shop.client`SELECT 1 FROM bookings WHERE id IN ${shop.client([held.body.id, asked.body.id])}
      AND status = 'requested'`
    t.equal(rows.length, 2, 'no process has changed the rows')

    t.match(await shop.book({ ...dates, customer: 'next', ...wallet }, WAIT), { status: 201 }, 'the dates are booked')
    t.match(await shop.resource(account), { available: 50, held: 0, sold: 200 }, 'with the money that went back')
    t.match(await shop.book(ride(other, 'ada'), WAIT), { status: 201 }, 'the rider asks another driver')
    t.match(await shop.book(ride(one, 'bob'), WAIT), { status: 201 }, 'the driver takes another rider')
    const after = await shop.client`SELECT DISTINCT status FROM bookings
      WHERE id IN ${shop.client([held.body.id, asked.body.id])}`
    t.same(after, [{ status: 'expired' }])
  })

  await shop.verified()
})

t.test('rows written without the lease', async (t) => {
  const world = await openWorld(t)
  const [api] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)

  await t.test(
    'EXCLUDE violated: the booking is rejected with the conflicting id, and its batch settles',
    async (t) => {
      const room = await shop.calendar('room')
      let answers: Promise<unknown> = Promise.resolve()
      let id = ''
      await shop.client.begin(async (tx) => {
        const [row] = await tx<{ id: string }[]>`
        INSERT INTO bookings (resource_id, period, status) VALUES (${room}, ${`[${day(0)},${day(2)})`}, 'accepted')
        RETURNING id`
        id = row?.id ?? ''
        const from = [1, 5, 9]
        answers = Promise.all(
          from.map((n) => shop.book({ resource: room, customer: 'ada', from: day(n), to: day(n + 1) }, WAIT)),
        )
        await inTransaction(shop)
      })
      t.match(await answers, [
        { status: 409, body: { code: 'conflict', conflicting_ids: [id] } },
        { status: 201 },
        { status: 201 },
      ])
    },
  )

  await t.test('index of active rides violated: likewise (nammayatri PR#7866)', async (t) => {
    const [one, other] = [await shop.calendar('driver'), await shop.calendar('driver')]
    let answer: Promise<unknown> = Promise.resolve()
    let id = ''
    await shop.client.begin(async (tx) => {
      const [row] = await tx<{ id: string }[]>`
        INSERT INTO bookings (kind, resource_id, customer, period, status)
        VALUES ('ride', ${one}, 'ada', tstzrange(now(), NULL), 'accepted') RETURNING id`
      id = row?.id ?? ''
      answer = shop.book(ride(other, 'ada'), WAIT)
      await inTransaction(shop)
    })
    t.match(await answer, { status: 409, body: { code: 'conflict', conflicting_ids: [id] } })
  })

  await shop.verified()
})

t.test('worker killed inside a batch of bookings: every booking is settled once', async (t) => {
  const world = await openWorld(t)
  const [api, victim] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const room = await shop.calendar('room', 10)
  const account = await shop.units('account', 500, 1)
  const payment = { method: 'wallet', account }
  let ids: string[] = []
  // The row lock keeps the worker inside its transaction until it is killed.
  await shop.client.begin(async (tx) => {
    await tx`SELECT 1 FROM resources WHERE id = ${room} FOR UPDATE`
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, n) =>
        shop.book({ resource: room, customer: `c${n}`, from: day(n % 40), to: day((n % 40) + 2), payment }),
      ),
    )
    ids = answers.flatMap((answer) => (answer.status === 202 ? [answer.body.id] : []))
    await inTransaction(shop)
    victim.kill('SIGKILL')
    await victim.exited
  })
  t.equal(ids.length, 100)
  await world.startWorker(TTL)
  await until(async () => (await shop.queued()) === 0, { what: 'the queue to settle', timeout_ms: 20_000 })
  const rows = await shop.client<{ status: string; n: number }[]>`
    SELECT status, count(*)::int AS n FROM bookings WHERE id IN ${shop.client(ids)} GROUP BY status`
  const { accepted = 0, rejected = 0, ...others } = Object.fromEntries(rows.map((row) => [row.status, row.n]))
  t.same(others, {})
  t.ok(accepted > 0 && rejected > 0)
  t.equal(accepted + rejected, 100, 'nothing acknowledged is lost')
  t.match(await shop.resource(account), { sold: accepted * 20 })
  await shop.verified()
})
