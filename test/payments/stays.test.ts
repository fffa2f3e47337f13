/**
 * Stays paid by card, with the sandbox as the provider: a stay has its dates if and only if its money is kept,
 * whichever process is late or dies.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { verify } from '../../src/shared/invariants.ts'
import { card, openShop, provider, type Shop, TTL, tally, webhook } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { openGate } from '../support/provider-proxy.ts'

const WAIT = { prefer: 'wait=30' }
const NOW = { prefer: 'wait=0' }
const NIGHT = 500
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)
const nights = (resource: string, from: number, token: string, more: object = {}) => ({
  resource,
  customer: 'ada',
  from: day(from),
  to: day(from + 2),
  payment: card(token),
  ...more,
})
const free = (shop: Shop, resource: string, from = 0) =>
  shop.book({ resource, customer: 'probe', from: day(from), to: day(from + 2) }, WAIT)

t.test('a provider that answers', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox({ SANDBOX_SLOW_MS: '700' })
  const env = { SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '1000' }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)

  await t.test('each token: the nights are paid or free again, as its name says', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const outcomes: [token: string, status: number, code: string][] = [
      ['tok_visa', 201, 'accepted'],
      ['tok_slow', 201, 'accepted'],
      ['tok_timeout', 201, 'accepted'],
      ['tok_chargeDeclined', 402, 'payment_declined'],
      ['tok_chargeDeclinedInsufficientFunds', 402, 'payment_declined'],
      ['tok_error', 402, 'payment_unavailable'],
    ]
    await Promise.all(
      outcomes.map(async ([token, ...expected], n) => {
        const { status, body } = await shop.book(nights(room, 3 * n, token), WAIT)
        t.same([status, body.code ?? body.status], expected, token)
        const id = body.id ?? body.booking.id
        await shop.charged(id)
        t.equal(await bank.kept(id), status === 201 ? 2 * NIGHT : 0)
        if (status === 201) t.equal((await bank.of(id)).length, 1, 'one intent, also when its answer never came')
        else t.equal((await free(shop, room, 3 * n)).status, 201, 'what was not paid for can be booked')
      }),
    )
    t.same(await bank.open(), [], 'no reservation is left on a card')
  })

  await t.test('held stay that is accepted: charged then; a card declined on accept: 402', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const [held, bad] = await Promise.all([
      shop.book(nights(room, 0, 'tok_visa', { hold_seconds: 60 }), WAIT),
      shop.book(nights(room, 3, 'tok_chargeDeclined', { hold_seconds: 60 }), WAIT),
    ])
    t.match([held.body.status, bad.body.status], ['requested', 'requested'])
    t.same(await bank.of(held.body.id), [], 'nothing is asked of the card before the accept')
    const [answers, declined] = await Promise.all([
      Promise.all([1, 2, 3].map(() => shop.move(held.body.id, 'accept'))),
      shop.move(bad.body.id, 'accept'),
    ])
    const { '200 accepted': joined = 0, '409 wrong_status': late = 0 } = tally(answers)
    t.ok(joined > 0, 'an accept sent three times is one: the others join it')
    t.equal(joined + late, 3, 'or come when it is done')
    t.match(declined, { status: 402, body: { code: 'payment_declined', booking: { status: 'requested' } } })
    t.match(await free(shop, room, 3), { status: 409 }, 'set aside for another card')
    t.match(await shop.move(bad.body.id, 'cancel'), { status: 200 })
    t.equal((await free(shop, room, 3)).status, 201)
    await shop.charged()
    t.equal((await bank.of(held.body.id)).length, 1)
    await shop.client`
      UPDATE bookings SET period = tstzrange(now() - interval '1 day', now() + interval '1 day') WHERE id = ${held.body.id}`
    t.match(await shop.move(held.body.id, 'complete'), { status: 200 })
    t.equal(await bank.kept(held.body.id), 2 * NIGHT, 'a stay that is over stays paid')
  })

  await t.test('20 clients by card for the same nights, many bad cards: one gets them and is charged', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const tokens = ['tok_chargeDeclined', 'tok_error', 'tok_timeout', 'tok_slow', 'tok_chargeDeclinedExpiredCard']
    /** Retries as long as the conflicting stays have not been paid. */
    async function insist(n: number) {
      for (;;) {
        const body = nights(room, 0, n < tokens.length ? (tokens[n] ?? '') : 'tok_visa', { customer: `c${n}` })
        const answer = await shop.book(body, WAIT)
        if (answer.status !== 409) return answer
        const rival = await shop.booking(answer.body.conflicting_ids[0])
        if (rival.status === 'accepted') return answer
        await sleep(Math.random() * 100)
      }
    }
    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => insist(n)))
    const won = answers.filter((answer) => answer.status === 201)
    t.match(won, [{ body: { status: 'accepted', amount: 2 * NIGHT } }], JSON.stringify(tally(answers)))
    await shop.charged()
    const rows = await shop.client<
      { id: string; status: string }[]
    >`SELECT id, status FROM bookings WHERE resource_id = ${room}`
    const [all, kept] = [
      rows.map((row) => row.id),
      (await bank.captured()).filter((id) => rows.some((r) => r.id === id)),
    ]
    t.same(
      kept,
      won.map((answer) => answer.body.id),
      'charges match accepted stays one to one',
    )
    t.equal(rows.filter((row) => row.status === 'accepted').length, 1)
    t.same(
      (await bank.open()).filter((id) => all.includes(id ?? '')),
      [],
      'nothing is reserved on the other cards',
    )
  })

  await t.test('20 concurrent cancels: the money goes back once, and the nights are free', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const { body } = await shop.book(nights(room, 0, 'tok_visa'), WAIT)
    await shop.charged(body.id)
    t.equal(await bank.kept(body.id), 2 * NIGHT)
    const answers = await Promise.all(Array.from({ length: 20 }, () => shop.move(body.id, 'cancel')))
    t.same(tally(answers), { '200 cancelled': 1, '409 wrong_status': 19 })
    await shop.charged(body.id)
    t.same([await bank.kept(body.id), (await bank.refunds(body.id)).length], [0, 1])
    t.equal((await free(shop, room)).status, 201)
  })

  await t.test('cancel during the card charge: the nights are free, and no money is kept', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const { body } = await shop.book(nights(room, 0, 'tok_slow'), NOW)
    await until(async () => (await shop.booking(body.id)).status === 'requested')
    t.match(await shop.move(body.id, 'cancel'), { status: 200, body: { status: 'cancelled' } })
    t.equal((await free(shop, room)).status, 201)
    await shop.charged(body.id)
    t.equal(await bank.kept(body.id), 0)
  })

  await t.test('charge whose job was lost: continues with a webhook; repeated webhooks change nothing', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const { body } = await shop.book(nights(room, 0, 'tok_visa', { hold_seconds: 600 }), WAIT)
    await shop.client`INSERT INTO charges (booking_id, kind, amount, next_attempt_at)
                      VALUES (${body.id}, 'charge', ${2 * NIGHT}, now() + interval '1 h')`
    t.equal((await webhook(api.url, 'payment_intent.created', body.id, 'booking')).status, 200)
    await until(async () => (await shop.booking(body.id)).status === 'accepted')
    for (const type of ['payment_intent.amount_capturable_updated', 'payment_intent.succeeded']) {
      await webhook(api.url, type, body.id, 'booking')
    }
    await shop.charged(body.id)
    t.same([(await bank.of(body.id)).length, await bank.kept(body.id)], [1, 2 * NIGHT])
  })

  await shop.verified()

  await t.test('npm run verify: names stays with wrong money', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const [kept, twin] = await Promise.all([0, 3].map((n) => shop.book(nights(room, n, 'tok_visa'), WAIT)))
    await shop.charged()
    // Write around all triggers.
    await shop.client.begin(async (tx) => {
      await tx`SET LOCAL session_replication_role = replica`
      await tx`UPDATE charges SET amount = 999 WHERE booking_id = ${kept?.body.id}`
      await tx`UPDATE charges SET status = 'authorization_lost' WHERE booking_id = ${twin?.body.id}`
    })
    const found = await verify(shop.client)
    const named = (start: string) => found.find((one) => one.invariant.startsWith(start))?.offenders.toSorted()
    t.same(named('charges match'), [kept?.body.id, twin?.body.id].sort())
    t.same(named('no reservation is left'), [twin?.body.id])
  })
})

t.test('killed workers, expired holds, late payments', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const gate = await openGate(t, sandbox.url)
  const env = { ...TTL, PAYMENT_TIMEOUT_MS: '20000', SANDBOX_URL: gate.url }
  const [api, victim] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  const hold = async (room: string, from = 0) =>
    (await shop.book(nights(room, from, 'tok_visa', { hold_seconds: 600 }), WAIT)).body.id as string

  await t.test('worker killed after the reservation, and after the capture: one charge each', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const ids = await Promise.all([hold(room, 0), hold(room, 3)])
    for (const [n, verb] of ['confirm', 'capture'].entries()) {
      gate.close(verb, ids[n] ?? '', 'after')
      await shop.move(ids[n] ?? '', 'accept', NOW)
      await until(() => gate.reached(verb, ids[n] ?? ''), { what: verb })
    }
    victim.kill('SIGKILL')
    await victim.exited
    gate.open()
    await world.startWorker(env)
    await shop.charged()
    for (const id of ids) {
      await until(async () => (await shop.booking(id)).status === 'accepted')
      t.same([(await bank.of(id)).length, await bank.kept(id)], [1, 2 * NIGHT])
    }
  })

  /** Creates a stay whose hold ends after the provider has charged the card and before the answer arrives. */
  const late = async (room: string) => {
    const id = await hold(room)
    gate.close('confirm', id, 'after')
    await shop.move(id, 'accept', NOW)
    await until(() => gate.reached('confirm', id))
    await shop.client`UPDATE bookings SET expires_at = clock_timestamp() WHERE id = ${id}`
    return id
  }

  await t.test('late payment, nights free: books them again as a new booking', async (t) => {
    const id = await late(await shop.calendar('room', NIGHT))
    gate.open()
    const { replaced_by } = await until(async () => {
      const old = await shop.booking(id)
      return old.replaced_by && old
    })
    t.match(await shop.booking(id), { status: 'expired' }, 'what has expired stays so')
    t.match(await shop.booking(replaced_by), { status: 'accepted', replaces: id, amount: 2 * NIGHT })
    await shop.charged()
    t.equal(await bank.kept(id), 2 * NIGHT)
    await shop.verified()
    t.match(await shop.move(replaced_by, 'cancel'), { status: 200 })
    await shop.charged()
    t.equal(await bank.kept(id), 0, 'and can be cancelled')
  })

  await t.test('late payment, nights booked by another customer: refunded once', async (t) => {
    const room = await shop.calendar('room', NIGHT)
    const id = await late(room)
    t.equal((await free(shop, room)).status, 201, 'they are free while the card is asked')
    gate.open()
    await shop.charged()
    t.match(await shop.booking(id), { status: 'expired', replaced_by: null })
    t.equal(await bank.kept(id), 0)
    t.same(await bank.open(), [])
  })

  await t.test(
    'accepts by card at the instant of expiry, each with a rival: the nights go with the money',
    async (t) => {
      const room = await shop.calendar('room', NIGHT)
      const ids = await Promise.all(Array.from({ length: 20 }, (_, n) => hold(room, 2 * n)))
      for (const [n, id] of ids.entries()) {
        const left_ms = n < 16 ? (n - 3) * 60 : 60_000
        await shop.client`UPDATE bookings SET expires_at = clock_timestamp() + ${left_ms} * interval '1 ms' WHERE id = ${id}`
      }
      const outcomes = await Promise.all(
        ids.map(async (id, n) => {
          const [accepted, rival] = await Promise.all([shop.move(id, 'accept'), free(shop, room, 2 * n)])
          return { id, accepted, rival }
        }),
      )
      await shop.charged()
      for (const { id, accepted, rival } of outcomes) {
        const has = accepted.status === 200
        if (has) t.match(rival, { status: 409, body: { conflicting_ids: [id] } })
        else t.match(accepted, { status: 409, body: { code: 'wrong_status', current_status: 'expired' } })
        t.match(await shop.booking(id), { status: has ? 'accepted' : 'expired' })
        t.equal(await bank.kept(id), has ? 2 * NIGHT : 0)
      }
      const counts = tally(outcomes.map((one) => one.accepted))
      t.same(
        Object.keys(counts).sort(),
        ['200 accepted', '409 wrong_status'],
        `both happened: ${JSON.stringify(counts)}`,
      )
    },
  )

  await shop.verified()
})
