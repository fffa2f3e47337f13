/**
 * Events at the payment provider outside Holdfast: refunds made there; refunds refused, pending or failed later; lost
 * answers; disputes; cancelled intents. The worker finds and records each one, the API reports it, and money goes back
 * once.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { SANDBOX_KEY, SANDBOX_WEBHOOK_SECRET } from '../../src/shared/config.ts'
import { verify } from '../../src/shared/invariants.ts'
import { createSandbox } from '../../src/shared/payments/sandbox.ts'
import { card, event, metric, openShop, provider } from '../support/api-client.ts'
import { openWorld, until, type World } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }
const PRICE = 500

/**
 * Starts a sandbox in this process, an API and a worker. The sandbox records the keys of refund requests and can lose
 * answers.
 */
async function openBank(t: Test, world: World, port: number | undefined) {
  const server = createSandbox({
    secret_key: SANDBOX_KEY,
    webhook_url: port === undefined ? undefined : `http://127.0.0.1:${port}/api/webhooks/stripe`,
    webhook_secret: SANDBOX_WEBHOOK_SECRET,
    slow_ms: 100,
  })
  const keys: string[] = []
  let losing = 0
  let canceling = 0
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const key = request.headers['idempotency-key']
    if (canceling > 0 && request.url?.endsWith('/capture')) {
      canceling--
      request.url = request.url.replace('/capture', '/cancel')
    }
    if (request.method !== 'POST' || request.url !== '/v1/refunds' || typeof key !== 'string') return
    keys.push(key)
    if (losing === 0) return
    losing--
    response.end = () => response
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const env = { SANDBOX_URL: url, PAYMENT_TIMEOUT_MS: '3000' }
  const [api, worker] = await Promise.all([
    world.startApi(port === undefined ? env : { ...env, PORT: String(port) }),
    world.startWorker(env),
  ])
  return {
    api,
    worker,
    shop: openShop(t, [api.url], world.env.DATABASE_URL),
    bank: provider(url),
    /** returns the idempotency keys of the refund requests since the last call */
    keys: () => keys.splice(0),
    /** Loses the answer to the next refund after the refund was made. */
    loseNext() {
      losing++
    },
    /** Cancels the next intent at the moment of its capture. */
    cancelNext() {
      canceling++
    },
  }
}

t.test('provider with webhooks', async (t) => {
  const world = await openWorld(t)
  const { api, shop, bank, keys, loseNext, cancelNext } = await openBank(t, world, await anyFreePort())

  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  const get = async (path: string): Promise<any> => (await fetch(`${api.url}/api/${path}`)).json()
  const read = (id: string) => get(`purchases/${id}`)
  /** Creates a confirmed purchase whose money the provider has captured. */
  const paid = async (token = 'tok_visa') => {
    const ref = await shop.units('product', 1, PRICE)
    const { status, body } = await shop.buy(
      { customer: 'ada', lines: [{ resource: ref, units: 1 }], payment: card(token) },
      WAIT,
    )
    t.match([status, body.status], [201, 'confirmed'])
    await shop.charged(body.id)
    keys()
    return { id: body.id as string, ref }
  }
  /** Returns the first event of this type. */
  const told = async (type: string) => {
    const page = await fetch(`${api.url}/api/events?after=0-0&limit=1&type=${type}`, {
      signal: AbortSignal.timeout(10_000),
    })
    const data = (await page.text()).split('\n').findLast((line) => line.startsWith('data: ')) ?? ''
    return JSON.parse(data.slice('data: '.length) || '{}')
  }
  /** Waits until the purchase shows exactly these refunds, and returns them. */
  const refunds = (id: string, ...wanted: object[]) =>
    until(
      async () => {
        const found = (await read(id)).payment.refunds
        const same = wanted.every((one, n) => Object.entries(one).every(([key, value]) => found[n]?.[key] === value))
        if (found.length !== wanted.length || !same) throw new Error(JSON.stringify(found))
        return found
      },
      { what: JSON.stringify(wanted), timeout_ms: 30_000 },
    )

  await t.test('full refund at the provider: the sale is undone, and Holdfast refunds nothing more', async (t) => {
    const { id, ref } = await paid()
    await bank.giveBack(id)
    await until(async () => (await read(id)).status === 'refunded', { what: 'the purchase to be refunded' })
    t.match(await shop.resource(ref), { available: 1, sold: 0 }, 'its unit is for sale again')
    await refunds(id, { status: 'succeeded', amount: PRICE, at_provider: true })
    t.match((await read(id)).payment.charge, { status: 'captured', amount: PRICE, currency: 'USD', reason: null })
    t.match(await shop.command(id, 'refund'), { status: 409, body: { code: 'wrong_status' } })
    t.same([await bank.kept(id), (await bank.refunds(id)).length, keys()], [0, 1, []])
    await shop.verified()
  })

  await t.test('full refund of a stay at the provider: the stay is cancelled, and its nights are free', async (t) => {
    const room = await shop.calendar('room', PRICE)
    const stay = { resource: room, customer: 'ada', from: '2030-01-01', to: '2030-01-02', payment: card('tok_visa') }
    const { body } = await shop.book(stay, WAIT)
    await shop.charged(body.id)
    await bank.giveBack(body.id)
    await until(async () => (await shop.booking(body.id)).status === 'cancelled', { what: 'the stay to be cancelled' })
    t.match((await shop.booking(body.id)).payment.refunds, [{ status: 'succeeded', at_provider: true }])
    t.equal((await shop.book({ ...stay, payment: { method: 'none' } }, WAIT)).status, 201)
    t.same([await bank.kept(body.id), (await bank.refunds(body.id)).length], [0, 1])
  })

  await t.test(
    'two equal partial refunds: count as two (chobble/tickets#1367); ours refunds the rest once',
    async (t) => {
      const { id, ref } = await paid()
      await bank.giveBack(id, 200)
      await refunds(id, { status: 'succeeded', amount: 200, at_provider: true })
      await bank.giveBack(id, 200)
      await refunds(id, { amount: 200, at_provider: true }, { amount: 200, at_provider: true })
      t.equal((await read(id)).status, 'confirmed', 'a refund in part undoes no sale')
      const answer = await shop.command(id, 'refund')
      t.match(answer, { status: 200, body: { status: 'refunded' } })
      t.match(answer.body.payment.refunds[2]?.amount, 100)
      await refunds(id, { amount: 200 }, { amount: 200 }, { amount: 100, status: 'succeeded', at_provider: false })
      t.same([await bank.kept(id), (await bank.refunds(id)).map((one) => one.amount)], [0, [200, 200, 100]])
      t.match(await shop.resource(ref), { available: 1, sold: 0 })
      await shop.verified()
    },
  )

  await t.test('refund refused: recorded with its reason, and requested again with another key', async (t) => {
    const { id } = await paid('tok_refundRefusedOnce')
    const { body } = await shop.command(id, 'refund')
    t.not(body.payment.refunds[0].status, 'succeeded', 'the answer does not say that money has moved')
    await refunds(id, { status: 'failed', reason: 'balance_insufficient', attempts: 1, at_provider: false })
    await refunds(id, { status: 'succeeded', reason: null, attempts: 2 })
    const asked = keys()
    t.equal(new Set(asked).size, 2, `${asked}`)
    t.same([await bank.kept(id), (await bank.refunds(id)).length], [0, 1])
  })

  await t.test('answer to a refund lost: the worker finds the refund, and does not request it again', async (t) => {
    const { id } = await paid()
    loseNext()
    await shop.command(id, 'refund')
    await refunds(id, { status: 'succeeded', attempts: 1 })
    t.same([keys().length, await bank.kept(id), (await bank.refunds(id)).length], [1, 0, 1])
  })

  await t.test('partial refund at the provider between two attempts of ours: ours requests less', async (t) => {
    const { id } = await paid('tok_refundRefusedOnce')
    await shop.command(id, 'refund')
    await until(async () => keys().length > 0, { what: 'our refund to be asked for' })
    await bank.giveBack(id, 300)
    await until(async () => (await bank.kept(id)) === 0, { what: 'the rest to go back' })
    t.same(
      (await bank.refunds(id)).map((one) => one.amount),
      [300, 200],
    )
    const told = (await until(async () => {
      const all = (await read(id)).payment.refunds
      return all.every((one: { status: string }) => one.status === 'succeeded') && all
    })) as { amount: number; at_provider: boolean }[]
    t.same(new Set(told.map((one) => `${one.amount} ${one.at_provider}`)), new Set(['300 true', '200 false']))
    await shop.verified()
  })

  await t.test('refund pending at the provider: then made, or failed days later and requested again', async (t) => {
    const [good, bad] = [await paid('tok_pendingRefund'), await paid('tok_pendingRefund')]
    for (const { id } of [good, bad]) {
      t.match(await shop.command(id, 'refund'), { status: 200 })
      await until(async () => (await bank.refunds(id)).length === 1)
      await refunds(id, { status: 'pending', attempts: 1 })
      const [made] = await bank.refunds(id)
      await bank.decide('refunds', made?.id ?? '', 'succeeded')
      await refunds(id, { status: 'succeeded', attempts: 1 })
    }
    const [made] = await bank.refunds(bad.id)
    await bank.decide('refunds', made?.id ?? '', 'failed', { failure_reason: 'expired_or_canceled_card' })
    await refunds(bad.id, { status: 'failed', reason: 'expired_or_canceled_card', attempts: 1 })
    const again = await until(async () => (await bank.refunds(bad.id))[1], { what: 'it to be asked for again' })
    await bank.decide('refunds', again.id, 'succeeded')
    await refunds(bad.id, { status: 'succeeded', attempts: 2 })
    t.equal(await bank.kept(bad.id), 0)
    await shop.charged()
  })

  await t.test(
    'dispute: reported, no refund meanwhile; won: refunded; lost: no refund, the money is back already',
    async (t) => {
      const [won, lost] = [await paid(), await paid()]
      const disputes = new Map<string, string>()
      for (const { id } of [won, lost]) {
        disputes.set(id, await bank.dispute(id))
        await until(async () => (await read(id)).payment.dispute?.status === 'open', {
          what: 'the dispute to be known',
        })
        t.match(await read(id), { status: 'confirmed', payment: { dispute: { reason: 'fraudulent', amount: PRICE } } })
        t.match(await shop.command(id, 'refund'), { status: 200 })
        await refunds(id, { status: 'failed', reason: 'charge_disputed' })
      }
      await bank.decide('disputes', disputes.get(won.id) ?? '', 'won')
      await bank.decide('disputes', disputes.get(lost.id) ?? '', 'lost')
      await refunds(won.id, { status: 'succeeded' })
      await refunds(lost.id, { status: 'canceled', reason: 'dispute_lost' })
      t.match((await read(won.id)).payment.dispute, { status: 'won' })
      t.match((await read(lost.id)).payment.dispute, { status: 'lost' })
      t.same([await bank.kept(won.id), (await bank.refunds(lost.id)).length], [0, 0])
      await shop.charged()
    },
  )

  await t.test('declined card: its reason is in the answer and on the row', async (t) => {
    const ref = await shop.units('product', 1, PRICE)
    const reasons = {
      tok_chargeDeclinedInsufficientFunds: 'insufficient_funds',
      tok_chargeDeclinedExpiredCard: 'expired_card',
    }
    for (const [token, reason] of Object.entries(reasons)) {
      const buy = { customer: 'ada', lines: [{ resource: ref, units: 1 }], payment: card(token) }
      const { status, body } = await shop.buy(buy, WAIT)
      t.match({ status, body }, { status: 402, body: { code: 'payment_declined', decline_code: reason } })
      t.match((await read(body.purchase.id)).payment.charge, { status: 'declined', reason })
    }
    const room = await shop.calendar('room', PRICE)
    const token = 'tok_chargeDeclinedInsufficientFunds'
    const stay = { resource: room, customer: 'ada', from: '2030-01-01', to: '2030-01-02', payment: card(token) }
    t.match(await shop.book(stay, WAIT), { status: 402, body: { decline_code: 'insufficient_funds' } })
  })

  await t.test('events of the provider twice, late or out of order: change nothing', async (t) => {
    const { id } = await paid()
    const [intent] = await bank.of(id)
    const refund = { object: 'refund', id: 're_x', payment_intent: intent?.id, metadata: {}, status: 'failed' }
    const charge = { object: 'charge', id: 'ch_x', payment_intent: intent?.id, metadata: {}, refunded: true }
    await event(api.url, 'charge.refunded', charge)
    await event(api.url, 'refund.failed', refund)
    await bank.giveBack(id, 200)
    await refunds(id, { amount: 200 })
    for (let n = 0; n < 3; n++) {
      await event(api.url, 'refund.failed', refund)
      await event(api.url, 'charge.refunded', charge)
      await event(api.url, 'charge.dispute.closed', { object: 'dispute', payment_intent: intent?.id, status: 'lost' })
    }
    await until(
      async () => (await shop.client`SELECT 1 FROM charges WHERE recheck_at <= clock_timestamp()`).length === 0,
    )
    await refunds(id, { amount: 200, status: 'succeeded' })
    t.match(await read(id), { status: 'confirmed', payment: { dispute: null } }, 'an event is looked up, not believed')
  })

  await t.test(
    'reservation cancelled at the provider before the capture: authorization_lost, and verify names it',
    async (t) => {
      const ref = await shop.units('product', 1, PRICE)
      cancelNext()
      const { body } = await shop.buy(
        { customer: 'ada', lines: [{ resource: ref, units: 1 }], payment: card('tok_visa') },
        WAIT,
      )
      await shop.charged(body.id)
      t.match(await read(body.id), {
        status: 'confirmed',
        payment: { charge: { status: 'authorization_lost', reason: 'cancelled' } },
      })
      const found = await verify(shop.client)
      t.same(found.find((one) => one.invariant.startsWith('no reservation is left'))?.offenders, [body.id])
      const event = await told('payment.authorization_lost')
      t.match(event.data, { purchase: body.id, customer: 'ada', amount: PRICE, currency: 'USD', reason: 'cancelled' })
      await shop.command(body.id, 'refund')
      await refunds(body.id, { status: 'canceled' })
    },
  )

  await t.test('findings: published as events, in the sequence of the resource', async (t) => {
    t.match(await told('payment.refunded'), { data: { amount: PRICE, at_provider: true, status: 'refunded' } })
    t.match(await told('payment.refund_failed'), { data: { at_provider: false, reason: 'balance_insufficient' } })
    t.match(await told('payment.dispute_opened'), { data: { amount: PRICE, reason: 'fraudulent' } })
    t.match(await told('payment.dispute_won'), { data: { amount: PRICE } })
    t.match(await told('payment.dispute_lost'), { data: { amount: PRICE } })
  })
})

t.test('provider without webhooks: the worker checks it', async (t) => {
  const world = await openWorld(t)
  const { api, worker, shop, bank } = await openBank(t, world, undefined)
  const paid = async () => {
    const ref = await shop.units('product', 1, PRICE)
    const lines = [{ resource: ref, units: 1 }]
    const { body } = await shop.buy({ customer: 'ada', lines, payment: card('tok_visa') }, WAIT)
    await shop.charged(body.id)
    return body.id as string
  }
  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  const read = async (id: string): Promise<any> => (await fetch(`${api.url}/api/purchases/${id}`)).json()
  /** Makes the next check due at once, without waiting an hour. */
  const look = (id: string) => shop.client`
    UPDATE charges SET recheck_at = clock_timestamp() WHERE purchase_id = ${id} AND kind = 'charge' AND recheck_at > now()`

  await t.test('refunds and disputes: found without a webhook, and checked again later', async (t) => {
    const [whole, part, disputed] = [await paid(), await paid(), await paid()]
    t.equal((await look(whole)).count, 1, 'a captured charge has a time at which it is looked at')
    await Promise.all([bank.giveBack(whole), bank.giveBack(part, 200), bank.dispute(disputed)])
    await Promise.all([look(whole), look(part), look(disputed)])
    await until(async () => (await read(whole)).status === 'refunded', { what: 'the sale to be undone' })
    await until(async () => (await read(part)).payment.refunds.length === 1, { what: 'the refund in part' })
    await until(async () => (await read(disputed)).payment.dispute?.status === 'open', { what: 'the dispute' })
    const again = () => shop.client`
      SELECT 1 FROM charges WHERE kind = 'charge' AND recheck_at BETWEEN now() + interval '50 min' AND now() + interval '2 h'`
    await until(async () => (await again()).length === 3, { what: 'the next looks' })
    await shop.verified()
  })

  await t.test(
    'refund at the provider returned by the bank after the sale was undone: Holdfast refunds it',
    async (t) => {
      const id = await paid()
      const made = await bank.giveBack(id)
      await look(id)
      await until(async () => (await read(id)).status === 'refunded', { what: 'the sale to be undone' })
      await bank.decide('refunds', made, 'failed', { failure_reason: 'lost_or_stolen_card' })
      t.equal(await bank.kept(id), PRICE)
      await look(id)
      await until(async () => (await bank.kept(id)) === 0, { what: 'the money to go back', timeout_ms: 30_000 })
      await shop.charged(id)
      t.match((await read(id)).payment.refunds, [
        { status: 'failed', reason: 'lost_or_stolen_card', at_provider: true },
        { status: 'succeeded', at_provider: false, amount: PRICE, attempts: 1 },
      ])
      await shop.verified()
    },
  )

  await t.test('charge stuck for an hour: named by verify and counted by a metric, while retries go on', async (t) => {
    const id = await paid()
    await bank.dispute(id)
    await shop.command(id, 'refund')
    await until(async () => (await read(id)).payment.refunds[0]?.reason === 'charge_disputed', {
      what: 'the refusal',
    })
    const named = async (start: string) =>
      (await verify(shop.client)).find((one) => one.invariant.startsWith(start))?.offenders ?? []
    t.same(await named('no charge, refund or check'), [])
    await shop.client`UPDATE charges SET created_at = now() - interval '61 min' WHERE purchase_id = ${id} AND kind = 'refund'`
    t.same(await named('no charge, refund or check'), [id])
    t.same(await named('no charge and no refund is left'), [], 'its next attempt is not overdue')
    await until(async () => (await metric(worker.url, 'holdfast_payments_stuck')) === 1, {
      what: 'the metric',
      timeout_ms: 30_000,
    })
  })

  await t.test('verify: names sales whose whole money went back, and money kept without a sale', async (t) => {
    const [sold, kept] = [await paid(), await paid()]
    await shop.command(kept, 'refund')
    await shop.charged(kept)
    // Write around all triggers.
    await shop.client.begin(async (tx) => {
      await tx`SET LOCAL session_replication_role = replica`
      await tx`INSERT INTO charges (purchase_id, kind, n, at_provider, provider_id, amount, status)
               VALUES (${sold}, 'refund', 2, true, 're_1', ${PRICE}, 'refunded')`
      await tx`UPDATE charges SET amount = 1 WHERE purchase_id = ${kept} AND kind = 'refund'`
    })
    const found = await verify(shop.client)
    const named = (start: string) => found.find((one) => one.invariant.startsWith(start))?.offenders
    t.same(named('a sale that was fully refunded'), [sold])
    t.same(named('captured money without'), [kept])
  })
})
