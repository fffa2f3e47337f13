/**
 * Payment at confirm (purchases) and accept (stays): by a card that the command names, by another card after a decline,
 * or from a wallet. At most one charge counts, whatever requests are concurrent and whichever process dies.
 */
import t from 'tap'
import { recordOutcome } from '../../src/workers/payments/charge-store.ts'
import { type Answer, card, inTransaction, openShop, provider, type Shop, TTL, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { openGate } from '../support/provider-proxy.ts'

const WAIT = { prefer: 'wait=30' }
const NOW = { prefer: 'wait=0' }
const PRICE = 500
const wallet = (account: string) => ({ method: 'wallet', account })
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)

/** Operations that this file needs of both kinds, purchases and stays. */
interface Sort {
  noun: 'purchase' | 'booking'
  pay: 'confirm' | 'accept'
  aside: string
  paid: string
  hold(shop: Shop, more?: object): Promise<string>
  row(shop: Shop, id: string): Promise<Answer['body']>
  command(shop: Shop, id: string, command: string, payment?: object, headers?: Record<string, string>): Promise<Answer>
}

const SORTS: Sort[] = [
  {
    noun: 'purchase',
    pay: 'confirm',
    aside: 'held',
    paid: 'confirmed',
    async hold(shop, more) {
      const lines = [{ resource: await shop.units('product', 1, PRICE), units: 1 }]
      const { status, body } = await shop.buy({ customer: 'ada', lines, hold_seconds: 600, ...more }, WAIT)
      if (status !== 201) throw new Error(JSON.stringify(body))
      return body.id
    },
    row: (shop, id) => shop.purchase(id),
    command: (shop, id, command, payment, headers) =>
      shop.command(id, command, headers, payment === undefined ? undefined : { payment }),
  },
  {
    noun: 'booking',
    pay: 'accept',
    aside: 'requested',
    paid: 'accepted',
    async hold(shop, more) {
      const resource = await shop.calendar('room', PRICE)
      const stay = { resource, customer: 'ada', from: day(0), to: day(1), hold_seconds: 600 }
      const { status, body } = await shop.book({ ...stay, ...more }, WAIT)
      if (status !== 201) throw new Error(JSON.stringify(body))
      return body.id
    },
    row: (shop, id) => shop.booking(id),
    command: (shop, id, command, payment, headers) =>
      shop.move(id, command, headers, payment === undefined ? undefined : { payment }),
  },
]

t.test('a provider that answers', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox({ SANDBOX_SLOW_MS: '700' })
  const env = { SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '1000' }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)

  for (const { noun, pay, aside, paid, hold, row, command } of SORTS) {
    await t.test(`${noun} without a payment: ${pay} charges the card that it names`, async (t) => {
      const id = await hold(shop)
      t.same(await bank.of(id), [])
      const { status, body } = await command(shop, id, pay, card('tok_visa'))
      t.match({ status, body }, { status: 200, body: { status: paid, payment: { method: 'card' } } })
      t.notMatch(JSON.stringify(body), 'tok_visa', 'a token never leaves again')
      await shop.charged(id)
      t.equal(await bank.kept(id), PRICE, 'nothing is given away')
    })

    await t.test(`${noun} whose card is declined: keeps its hold, and another card pays`, async (t) => {
      const id = await hold(shop)
      const before = await row(shop, id)
      const declined = await command(shop, id, pay, card('tok_chargeDeclined'))
      t.match(declined, { status: 402, body: { code: 'payment_declined', [noun]: { status: aside } } })
      t.match(await row(shop, id), { status: aside, expires_at: before.expires_at }, 'set aside as long as before')
      const error = await command(shop, id, pay, card('tok_error'))
      t.match(error, { status: 402, body: { code: 'payment_unavailable' } })
      t.match(await row(shop, id), { status: aside, expires_at: before.expires_at })
      t.match(await command(shop, id, pay, card('tok_visa')), { status: 200, body: { status: paid } })
      await shop.charged(id)
      t.same([await bank.kept(id), await shop.verified()], [PRICE, undefined])
      const intents = (await bank.of(id)).map((one) => one.status).sort()
      t.same(intents, ['canceled', 'canceled', 'succeeded'], 'each intent that took nothing is cancelled')
    })

    await t.test(`${noun} created with a card: the same card again, or another one after a decline`, async (t) => {
      const id = await hold(shop, { payment: card('tok_chargeDeclined') })
      t.match(await command(shop, id, pay), { status: 402, body: { code: 'payment_declined' } })
      t.match(await command(shop, id, pay), { status: 402, body: { code: 'payment_declined' } }, 'the same card again')
      t.match(await command(shop, id, pay, { method: 'none' }), { status: 402 }, 'none is no way round it')
      t.match(await command(shop, id, pay, card('tok_visa')), { status: 200, body: { status: paid } })
      await shop.charged(id)
      t.equal(await bank.kept(id), PRICE)
      const other = await hold(shop, { payment: card('tok_chargeDeclined') })
      t.match(await command(shop, other, pay, card('tok_visa')), { status: 200 }, 'one that was not asked yet')
      await shop.charged(other)
      t.same([await bank.kept(other), (await bank.of(other)).length], [PRICE, 1])
    })

    await t.test(`${noun} paid from a wallet: in the same settlement, or not at all`, async (t) => {
      const [rich, poor] = [await shop.units('account', 1_000, 1), await shop.units('account', PRICE - 1, 1)]
      const id = await hold(shop)
      t.match(await command(shop, id, pay, wallet(poor)), { status: 402, body: { code: 'payment_declined' } })
      t.match([await row(shop, id), await shop.resource(poor)], [{ status: aside }, { available: PRICE - 1 }])
      t.match(await command(shop, id, pay, wallet('account:nowhere')), {
        status: 422,
        body: { code: 'unknown_resource' },
      })
      t.match(await command(shop, id, pay, card('tok_chargeDeclined')), { status: 402 })
      t.match(await command(shop, id, pay, wallet(rich)), {
        status: 200,
        body: { status: paid, payment: wallet(rich) },
      })
      t.match(await shop.resource(rich), { available: 1_000 - PRICE, sold: PRICE, held: 0 })
      t.match(await command(shop, id, noun === 'purchase' ? 'refund' : 'cancel'), { status: 200 })
      t.match(await shop.resource(rich), { available: 1_000 }, 'and it comes back')
      const own = await hold(shop, { payment: wallet(rich) })
      const conflict = await command(shop, own, pay, card('tok_visa'))
      t.match(conflict, { status: 409, body: { code: 'payment_conflict' } }, 'its money is set aside')
      t.match(await command(shop, own, pay, wallet(rich)), { status: 200, body: { status: paid } }, 'its own is')
      t.match(await shop.resource(rich), { available: 1_000 - PRICE })
      const foreign = await shop.units('account', 1_000, 1, { price: { amount: 1, currency: 'EUR' } })
      const euros = await command(shop, await hold(shop), pay, wallet(foreign))
      t.match(euros, { status: 409, body: { code: 'currency_mismatch' } })
    })

    await t.test(`${noun} without a payment, or with method none: ${pay} succeeds without a charge`, async (t) => {
      for (const payment of [undefined, { method: 'none' }]) {
        const id = await hold(shop)
        t.match(await command(shop, id, pay, payment), { status: 200, body: { status: paid } })
        t.same(await bank.of(id), [])
      }
    })

    await t.test(`20 concurrent requests to ${pay} a ${noun}, each with another card: one is charged`, async (t) => {
      const id = await hold(shop)
      const tokens = ['tok_visa', 'tok_mastercard', 'tok_amex', 'tok_discover', 'pm_card_visa']
      const all = Array.from({ length: 20 }, (_, n) => command(shop, id, pay, card(tokens[n % tokens.length] ?? '')))
      const counts = tally(await Promise.all(all))
      t.ok(counts[`200 ${paid}`], JSON.stringify(counts))
      const known = [`200 ${paid}`, '409 payment_in_progress', '409 wrong_status']
      t.same(
        Object.keys(counts).filter((one) => !known.includes(one)),
        [],
      )
      await shop.charged(id)
      t.same([await bank.kept(id), (await bank.of(id)).length], [PRICE, 1])
    })

    await t.test(`Idempotency-Key of a ${pay}: the same body is the same command, another body 422`, async (t) => {
      const id = await hold(shop)
      const key = { 'idempotency-key': `key of ${id}` }
      const first = await command(shop, id, pay, card('tok_chargeDeclined'), key)
      const again = await command(shop, id, pay, card('tok_chargeDeclined'), key)
      t.match([first, again], [{ status: 402 }, { status: 402 }])
      t.equal(again.headers.get('idempotent-replayed'), 'true')
      t.equal((await bank.of(id)).length, 1, 'the card was asked once')
      for (const other of [card('tok_visa'), wallet(await shop.units('account', 1_000, 1)), undefined]) {
        const answer = await command(shop, id, pay, other, key)
        t.match(answer, { status: 422, body: { code: 'idempotency_key_reused' } })
      }
      t.match(await row(shop, id), { status: aside })
    })

    await t.test(`${noun} cancelled during the card charge of its ${pay}: no money is kept`, async (t) => {
      const id = await hold(shop)
      await command(shop, id, pay, card('tok_slow'), NOW)
      await until(async () => (await row(shop, id)).payment.method === 'card')
      t.match(await command(shop, id, 'cancel'), { status: 200, body: { status: 'cancelled' } })
      await shop.charged(id)
      t.equal(await bank.kept(id), 0)
      const again = await command(shop, id, pay, card('tok_visa'))
      t.match(again, { status: 409, body: { code: 'wrong_status', current_status: 'cancelled' } })
    })
  }

  await t.test('invalid payment: the problem names the field', async (t) => {
    const id = await SORTS[0]?.hold(shop)
    for (const [body, field] of [
      [{ payment: { method: 'card' } }, 'payment.token'],
      [{ payment: { method: 'card', token: 'tok_visa', amount: 1 } }, 'payment.amount'],
      [{ payment: { method: 'cash' } }, 'payment.method'],
      [{ payment: null }, 'payment'],
    ] as const) {
      t.match(await shop.command(id ?? '', 'confirm', {}, body), { status: 400, body: { errors: [{ field }] } }, field)
    }
  })

  await t.test('ride with a payment: refused', async (t) => {
    const driver_id = (await shop.calendar('driver')).replace('driver:', '')
    const ride = { driver_id, rider_id: driver_id, pickup_lat: 1, pickup_lng: 1 }
    const { body } = await shop.book(ride, WAIT)
    const paying = await shop.move(body.id, 'accept', {}, { payment: card('tok_visa') })
    t.match(paying, { status: 402, body: { code: 'payment_unavailable' } })
    t.match(await shop.move(body.id, 'accept'), { status: 200, body: { status: 'accepted' } })
  })

  await shop.verified()
  t.same(await bank.open(), [], 'no card is held to')
})

t.test('two cards for one hold, step by step', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const gate = await openGate(t, sandbox.url)
  const env = { ...TTL, PAYMENT_TIMEOUT_MS: '20000', SANDBOX_URL: gate.url }
  const [api, victim] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  /** Resolves when this number of its confirms or accepts has been executed, so that their charges are in progress. */
  const done = (id: string, n: number) =>
    until(async () => {
      const rows = await shop.client`
        SELECT 1 FROM commands WHERE coalesce(purchase_id, booking_id) = ${id} AND action IN ('confirm', 'accept')
        AND status = 'done'`
      return rows.length === n
    })

  for (const { noun, pay, paid, hold, row, command } of SORTS) {
    await t.test(`second card during the charge of the first of a ${noun}: refused; the same card joins`, async (t) => {
      const id = await hold(shop)
      gate.close('confirm', id, 'after')
      await command(shop, id, pay, card('tok_visa'), NOW)
      await until(() => gate.reached('confirm', id))
      const other = await command(shop, id, pay, card('tok_amex'))
      t.match(other, { status: 409, body: { code: 'payment_in_progress', retryable: false } })
      const joined = [command(shop, id, pay, card('tok_visa')), command(shop, id, pay)]
      await done(id, 3)
      gate.open()
      for (const one of await Promise.all(joined)) t.match(one, { status: 200, body: { status: paid } })
      await shop.charged(id)
      t.same([await bank.kept(id), (await bank.of(id)).length], [PRICE, 1])
    })

    await t.test(`card of a ${noun} declined after the original end of the hold: the hold expires`, async (t) => {
      const id = await hold(shop)
      gate.close('confirm', id, 'after')
      await command(shop, id, pay, card('tok_chargeDeclined'), NOW)
      await until(() => gate.reached('confirm', id))
      await shop.client`UPDATE charges SET hold_until = clock_timestamp() WHERE coalesce(purchase_id, booking_id) = ${id}`
      const joined = command(shop, id, pay)
      await done(id, 2)
      gate.open()
      t.match(await joined, { status: 402, body: { code: 'payment_declined' } })
      t.match(await row(shop, id), { status: 'expired' })
      const late = await command(shop, id, pay, card('tok_visa'))
      t.match(late, { status: 409, body: { code: 'wrong_status', current_status: 'expired' } })
    })

    await t.test(`late confirm of the declined card of a ${noun}: reserves nothing`, async (t) => {
      const id = await hold(shop)
      t.match(await command(shop, id, pay, card('tok_chargeDeclined')), { status: 402 })
      const [intent] = await bank.of(id)
      t.match(await bank.confirm(intent?.id ?? ''), 400, 'it is cancelled')
      t.match(await command(shop, id, pay, card('tok_visa')), { status: 200 })
      await shop.charged(id)
      t.match(await row(shop, id), { status: paid })
    })
  }

  await t.test('worker killed at every step of the second card: one charge', async (t) => {
    const killed: { id: string; sort: Sort; step: string }[] = []
    for (const sort of SORTS) {
      for (const [verb, when] of [
        ['create', 'before'],
        ['create', 'after'],
        ['confirm', 'before'],
        ['confirm', 'after'],
        ['capture', 'before'],
        ['capture', 'after'],
      ] as const) {
        const id = await sort.hold(shop)
        t.match(await sort.command(shop, id, sort.pay, card('tok_chargeDeclined')), { status: 402 })
        gate.close(verb, id, when)
        await sort.command(shop, id, sort.pay, card('tok_visa'), NOW)
        await until(() => gate.reached(verb, id), { what: `${when} ${verb}` })
        killed.push({ id, sort, step: `${when} ${verb}` })
      }
    }
    // And of the first card: its intent is being cancelled, because the card was declined.
    const declined: { id: string; sort: Sort }[] = []
    for (const sort of SORTS) {
      for (const when of ['before', 'after'] as const) {
        const id = await sort.hold(shop)
        gate.close('cancel', id, when)
        await sort.command(shop, id, sort.pay, card('tok_chargeDeclined'), NOW)
        await until(() => gate.reached('cancel', id))
        declined.push({ id, sort })
      }
    }
    victim.kill('SIGKILL')
    await victim.exited
    gate.open()
    await world.startWorker({ ...env, SANDBOX_URL: sandbox.url })
    await shop.charged()
    for (const { id, sort, step } of killed) {
      await until(async () => (await sort.row(shop, id)).status === sort.paid, { what: `${step}: ${sort.paid}` })
      const taken = (await bank.of(id)).filter((one) => one.status === 'succeeded')
      t.same([taken.length, await bank.kept(id)], [1, PRICE], `killed ${step}: one charge`)
    }
    for (const { id, sort } of declined) {
      t.match(await sort.row(shop, id), { status: sort.aside }, 'the hold goes on')
      t.match(await sort.command(shop, id, sort.pay, card('tok_visa')), { status: 200, body: { status: sort.paid } })
      await shop.charged(id)
      t.equal(await bank.kept(id), PRICE)
    }
    await until(async () => (await shop.queued()) === 0)
    await shop.verified()
    t.same(await bank.open(), [])
  })
})

t.test('hold and its paying command in one batch: both are settled, and the queue goes on', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const env = { SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '1000' }
  const api = await world.startApi(env)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const account = await shop.units('account', 10_000)
  const ids: string[] = []
  for (const payment of [card('tok_visa'), wallet(account)]) {
    const lines = [{ resource: await shop.units('product', 5, PRICE), units: 1 }]
    const held = await shop.buy({ customer: 'ada', lines, hold_seconds: 600 }, NOW)
    t.equal((await shop.command(held.body.id, 'confirm', NOW, { payment })).status, 202)
    ids.push(held.body.id)
    const resource = await shop.calendar('room', PRICE)
    const stay = { resource, customer: 'ada', from: day(0), to: day(1), hold_seconds: 600 }
    const booked = await shop.book(stay, NOW)
    t.equal((await shop.move(booked.body.id, 'accept', NOW, { payment })).status, 202)
    ids.push(booked.body.id)
  }
  await world.startWorker(env)
  const paid = async () => {
    const rows = await shop.client`
      SELECT 1 FROM purchases WHERE id IN ${shop.client(ids)} AND status = 'confirmed'
      UNION ALL SELECT 1 FROM bookings WHERE id IN ${shop.client(ids)} AND status = 'accepted'`
    return rows.length === ids.length
  }
  await until(paid, { what: 'all four to be paid', timeout_ms: 30_000 }).catch(async (error) => {
    const rows = await shop.client`SELECT action, status, reason, observed_status FROM commands`
    throw new Error(`${error.message}; ${JSON.stringify(rows)}`)
  })
  t.equal(await shop.queued(), 0)
  await shop.charged()
  await shop.verified()
})

t.test('paying command that is overtaken: answers 200 only if the row is paid', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const gate = await openGate(t, sandbox.url)
  const env = { PAYMENT_TIMEOUT_MS: '20000', SANDBOX_URL: gate.url }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)

  for (const sort of SORTS) {
    const { noun, pay, aside, paid, hold, row, command } = sort
    await t.test(`card of a ${noun} declined during the decision about a second ${pay}: both answer 402`, async (t) => {
      const id = await hold(shop)
      gate.close('confirm', id, 'after')
      const first = command(shop, id, pay, card('tok_chargeDeclined'))
      await until(() => gate.reached('confirm', id))
      const [{ queue = '' } = {}] = await shop.client`
        SELECT queue FROM purchases WHERE id = ${id} UNION ALL SELECT resource_id FROM bookings WHERE id = ${id}`
      let joined: Promise<Answer> | undefined
      await shop.client.begin(async (tx) => {
        await tx`SELECT 1 FROM resources WHERE id = ${queue} FOR UPDATE`
        joined = command(shop, id, pay)
        // The batch has read the charge as in progress, and waits for the row lock of the resource.
        await inTransaction(shop)
        gate.open()
        await until(async () => (await row(shop, id)).payment.charge.status === 'declined')
      })
      const answers = await Promise.all([first, joined])
      const unpaid = { status: 402, body: { code: 'payment_declined', decline_code: 'generic_decline' } }
      t.match(answers, [unpaid, unpaid])
      t.match(await row(shop, id), { status: aside })
      t.match(await command(shop, id, pay, card('tok_visa')), { status: 200, body: { status: paid } })
      await shop.charged(id)
    })

    const ends = noun === 'booking' ? ['cancel', 'decline'] : ['cancel']
    for (const end of ends) {
      const ended = end === 'cancel' ? 'cancelled' : 'declined'
      await t.test(`${end} that overtakes the card charge of a ${noun}: the ${pay} answers 409 ${ended}`, async (t) => {
        const id = await hold(shop)
        gate.close('confirm', id, 'after')
        const key = { 'idempotency-key': `${end} of ${id}` }
        const paying = command(shop, id, pay, card('tok_visa'), key)
        await until(() => gate.reached('confirm', id))
        t.match(await command(shop, id, end), { status: 200, body: { status: ended } })
        const wrong = { status: 409, body: { code: 'wrong_status', current_status: ended } }
        t.match(await paying, wrong)
        // Hold the refund's first read, so that the charge is recorded as reserved before it.
        gate.close('find', id, 'before')
        gate.open('confirm', id)
        const told = async () => {
          const rows = await shop.client`
            SELECT status, reason FROM commands WHERE coalesce(purchase_id, booking_id) = ${id} AND action = 'paid'
            AND status <> 'queued'`
          return rows[0]
        }
        t.match(await until(told), { status: 'done', reason: null }, 'the message of the charge is not set apart')
        gate.open()
        await shop.charged(id)
        t.same([await bank.kept(id), await bank.open()], [0, []])
        t.match(await command(shop, id, pay, card('tok_visa'), key), wrong, 'and so does its replay')
      })
    }
  }
  await shop.verified()
})

t.test('cancel and late paid command in one batch: one refund, no row is quarantined', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const gate = await openGate(t, sandbox.url)
  const env = { PAYMENT_TIMEOUT_MS: '20000', SANDBOX_URL: gate.url }
  const [api, victim] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ids: string[] = []
  for (const { pay, hold, command } of SORTS) {
    const id = await hold(shop)
    gate.close('confirm', id, 'after')
    await command(shop, id, pay, card('tok_visa'), NOW)
    await until(() => gate.reached('confirm', id))
    ids.push(id)
  }
  victim.kill('SIGKILL')
  await victim.exited
  for (const [n, { command }] of SORTS.entries()) {
    const id = ids[n] ?? ''
    await command(shop, id, 'cancel', undefined, NOW)
    const [charge] = await shop.client<{ charge_id: string; queue: string }[]>`
      SELECT c.id AS charge_id, p.queue FROM charges c JOIN payable p ON p.id = ${id}
      WHERE coalesce(c.purchase_id, c.booking_id) = p.id`
    if (charge) await recordOutcome(shop.client, charge, 'confirming', 'authorized', null)
  }
  gate.open()
  await world.startWorker({ ...env, SANDBOX_URL: sandbox.url })
  await until(async () => (await shop.queued()) === 0, { what: 'all commands to be decided' })
  const commands = await shop.client`
    SELECT DISTINCT action, status, reason FROM commands WHERE action IN ('cancel', 'paid') ORDER BY action`
  t.same(commands, [
    { action: 'cancel', status: 'done', reason: null },
    { action: 'paid', status: 'done', reason: null },
  ])
  await shop.charged()
  const refunds = await shop.client`SELECT status FROM charges WHERE kind = 'refund'`
  t.same(refunds, [{ status: 'released' }, { status: 'released' }])
  t.same(await provider(sandbox.url).open(), [])
  await shop.verified()
})
