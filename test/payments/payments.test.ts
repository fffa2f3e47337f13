/**
 * Card payments end to end, with the sandbox as the provider: the outcome of each token, and the payments at the
 * provider.
 */
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { createBreaker } from '../../src/shared/breaker.ts'
import { readConfig, SANDBOX_KEY, SANDBOX_WEBHOOK_SECRET } from '../../src/shared/config.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { verify } from '../../src/shared/invariants.ts'
import { createChargeQueue } from '../../src/shared/jobs/charge-queue.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { createSandbox } from '../../src/shared/payments/sandbox.ts'
import { createStripe } from '../../src/shared/payments/stripe.ts'
import { openRedis } from '../../src/shared/redis.ts'
import { startPaymentJobs } from '../../src/workers/payments/charge-worker.ts'
import { card, openShop, provider, tally, webhook } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const WAIT = { prefer: 'wait=30' }

t.test('a provider that answers', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox({ SANDBOX_SLOW_MS: '700' })
  const env = { SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '1000' }
  const [api, ...workers] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  const buy = (resource: string, token: string, more: object = {}) =>
    shop.buy({ customer: 'ada', lines: [{ resource, units: 1 }], payment: card(token), ...more }, WAIT)

  await t.test('each token: the outcome that its name says', async (t) => {
    const ref = await shop.units('product', 20, 500)
    const outcomes: Record<string, [status: number, code: string]> = {
      tok_visa: [201, 'confirmed'],
      pm_card_visa: [201, 'confirmed'],
      tok_slow: [201, 'confirmed'],
      tok_errorOnce: [201, 'confirmed'],
      tok_timeout: [201, 'confirmed'],
      tok_chargeDeclined: [402, 'payment_declined'],
      pm_card_visa_chargeDeclined: [402, 'payment_declined'],
      tok_chargeDeclinedInsufficientFunds: [402, 'payment_declined'],
      tok_authenticationRequired: [402, 'payment_declined'],
      tok_unheard_of: [402, 'payment_declined'],
      tok_error: [402, 'payment_unavailable'],
    }
    await Promise.all(
      Object.entries(outcomes).map(async ([token, expected]) => {
        const { status, body } = await buy(ref, token)
        t.same([status, body.code ?? body.status], expected, token)
      }),
    )
    t.match(await shop.resource(ref), { available: 15, held: 0, sold: 5 }, 'what was not paid for is on sale')
    await shop.charged()
    t.equal((await bank.captured()).length, 5)
    t.same(await bank.open(), [], 'no reservation is left on a card')
  })

  await t.test('hold confirmed by the buyer: charged then; a card declined on confirm: 402', async (t) => {
    const ref = await shop.units('product', 5, 500)
    const held = await buy(ref, 'tok_visa', { hold_seconds: 60 })
    t.match([held.status, held.body.status], [201, 'held'])
    t.same(await bank.of(held.body.id), [], 'nothing is asked of the card before the confirm')
    const answers = await Promise.all([1, 2, 3].map(() => shop.command(held.body.id, 'confirm')))
    const { '200 confirmed': joined = 0, '409 wrong_status': late = 0 } = tally(answers)
    t.ok(joined > 0, 'a confirm sent three times is one: the others join it')
    t.equal(joined + late, 3, 'or come when it is done')
    const bad = await buy(ref, 'tok_chargeDeclined', { hold_seconds: 60 })
    t.match(await shop.command(bad.body.id, 'confirm'), { status: 402, body: { code: 'payment_declined' } })
    t.match(await shop.resource(ref), { available: 3, held: 1, sold: 1 }, 'held for another card')
    t.match(await shop.command(bad.body.id, 'cancel'), { status: 200 })
    t.match(await shop.resource(ref), { available: 4, held: 0, sold: 1 })
    await shop.charged()
    t.equal((await bank.of(held.body.id)).length, 1)
  })

  await t.test('cancel during the card charge: the units are back, and no money is kept', async (t) => {
    const ref = await shop.units('product', 1, 500)
    const { body } = await shop.buy({
      customer: 'ada',
      lines: [{ resource: ref, units: 1 }],
      payment: card('tok_slow'),
    })
    await until(async () => (await shop.statuses(ref)).held === 1)
    t.match(await shop.command(body.id, 'cancel'), { status: 200, body: { status: 'cancelled' } })
    t.match(await shop.resource(ref), { available: 1, held: 0, sold: 0 })
    await shop.charged()
    t.same(await bank.kept(body.id), 0)
  })

  await t.test('card for a price of zero: not charged', async (t) => {
    const ref = await shop.units('product', 1, 0)
    const { status, body } = await buy(ref, 'tok_chargeDeclined')
    t.match([status, body.status], [201, 'confirmed'])
    t.same(await bank.of(body.id), [])
  })

  await t.test('refund that the provider answers with an error: requested again, and made once', async (t) => {
    const ref = await shop.units('product', 1, 500)
    const { body } = await buy(ref, 'tok_refundErrorOnce')
    await shop.charged()
    t.equal(await bank.kept(body.id), 500)
    t.match(await shop.command(body.id, 'refund'), { status: 200 })
    await until(async () => (await bank.kept(body.id)) === 0, { what: 'the money to go back' })
    await shop.charged()
    t.equal((await bank.refunds(body.id)).length, 1)
  })

  await t.test('50 refunds of 60 on a capture of 100: the provider gives one back (hyperswitch#13182)', async (t) => {
    const gateway = createStripe({
      secret_key: SANDBOX_KEY,
      webhook_secret: SANDBOX_WEBHOOK_SECRET,
      url: sandbox.url,
      timeout_ms: 1_000,
    })
    const id = 'fifty-of-60'
    const ask = { id, key: id, of: 'purchase' as const, amount: 100, currency: 'USD', token: 'tok_visa' }
    const [intent, again] = await Promise.all([
      gateway.create(ask),
      gateway.create(ask).catch(() => gateway.create(ask)),
    ])
    t.equal(again.id, intent.id, 'the same key is the same intent')
    await t.rejects(gateway.create({ ...ask, amount: 101 }), { code: 'payment_refused' }, 'and nothing else')
    await gateway.confirm(intent.id)
    t.match(await gateway.confirm(intent.id), { status: 'authorized' }, 'confirming twice reserves once')
    await gateway.capture(intent.id)
    t.match(await gateway.capture(intent.id), { status: 'captured' }, 'capturing twice takes once')
    t.match(await gateway.cancel(intent.id), { status: 'captured' }, 'what is captured cannot be cancelled')
    const keys = Array.from({ length: 50 }, (_, n) => `key-${n}`)
    const all = await Promise.allSettled(keys.map((key) => gateway.refund(intent.id, 60, key)))
    t.equal(all.filter((one) => one.status === 'fulfilled').length, 1)
    await gateway.refund(intent.id, 60, keys[all.findIndex((one) => one.status === 'fulfilled')] ?? '')
    t.equal((await bank.refunds(id)).length, 1, 'the same key is the same refund')
  })

  await t.test('webhook without the provider’s signature: refused', async (t) => {
    const answer = await webhook(api.url, 'payment_intent.succeeded', 'x', 'purchase', 'whsec_of_somebody_else')
    t.match([answer.status, answer.body.code], [400, 'bad_signature'])
  })

  await shop.verified()

  await t.test('npm run verify: names wrong money, holds and limits', async (t) => {
    const sql = shop.client
    const [sold, given, late] = [await shop.units('product', 9, 500), await shop.units('product', 9, 500), 'p:late']
    const limited = await shop.units('product', 9, 0, { max_per_customer: 2 })
    const [kept, back, twin, idle] = await Promise.all([
      buy(sold, 'tok_visa'),
      buy(given, 'tok_visa'),
      buy(given, 'tok_visa'),
      buy(sold, 'tok_visa', { hold_seconds: 600 }),
      shop.buy({ customer: 'ada', lines: [{ resource: limited, units: 2 }] }, WAIT),
    ])
    await shop.command(back.body.id, 'refund')
    await shop.charged()
    // Write around all triggers and checks. No worker may sweep what is written late before verify has read it.
    for (const worker of workers) worker.kill('SIGSTOP')
    await sql.begin(async (tx) => {
      await tx`SET LOCAL session_replication_role = replica`
      await tx`UPDATE charges SET amount = 499 WHERE purchase_id = ${kept.body.id}`
      await tx`UPDATE charges SET amount = 501 WHERE purchase_id = ${back.body.id} AND kind = 'refund'`
      await tx`UPDATE charges SET status = 'authorization_lost' WHERE purchase_id = ${twin.body.id}`
      await tx`UPDATE purchases SET expires_at = now() - interval '2 min' WHERE id = ${idle.body.id}`
      await tx`UPDATE resources SET max_per_customer = 1, limit_set_at = now() - interval '1 h' WHERE id = ${limited}`
      await tx`UPDATE customer_holdings SET units = 3 WHERE resource_id = ${limited}`
      await tx`INSERT INTO charges (id, purchase_id, kind, amount, next_attempt_at)
               VALUES (gen_random_uuid(), ${idle.body.id}, 'charge', 500, now() - interval '2 min')`
      await tx`INSERT INTO resources (id, kind, total, available, held) VALUES (${late}, 'units', 5, 4, 1)`
    })
    const found = new Map((await verify(sql)).map(({ invariant, offenders }) => [invariant, offenders]))
    for (const worker of workers) worker.kill('SIGCONT')
    const named = (start: string) => [...found].find(([invariant]) => invariant.startsWith(start))?.[1].toSorted()
    t.same(named('charges match'), [kept.body.id, twin.body.id].sort(), 'another amount, and money that is not there')
    t.same(named('refunds never exceed'), [back.body.id])
    t.same(named('no reservation is left'), [twin.body.id])
    t.same(named('no charge and no refund is left'), [idle.body.id])
    t.same(named('nothing is undersold'), [idle.body.id])
    t.same(named('the holdings of customers'), [`${limited} ada`])
    t.same(named('no customer bought more than'), [`${limited} ada`])
    t.same(named('the ledger gives'), [late], 'a unit that is held for no purchase')
  })
})

t.test('three workers with 32 job slots each: 64 charges at once, because the fleet has 64 permits', async (t) => {
  const world = await openWorld(t)
  let [asking, most] = [0, 0]
  const options = { secret_key: SANDBOX_KEY, webhook_url: undefined, webhook_secret: SANDBOX_WEBHOOK_SECRET }
  const server = createSandbox({ ...options, slow_ms: 1_000 })
  server.on('request', (request, response) => {
    if (!request.url?.endsWith('/confirm')) return
    asking++
    most = Math.max(most, asking)
    response.on('close', () => asking--)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const config = readConfig({ ...world.env, SANDBOX_URL: url })
  const log = createLog('silent', 'test')
  const { client, close } = openDb(world.env.DATABASE_URL, { max: 8, name: 'test', idle_in_transaction_ms: 10_000 })
  const redis = openRedis(world.env.REDIS_URL, log)
  const payer = createChargeQueue(world.env.REDIS_URL, world.env.REDIS_PREFIX, log)
  const jobs = [1, 2, 3].map(() =>
    startPaymentJobs({ config, client, redis, metrics: createMetrics(), log, nudge: () => {} }),
  )
  t.teardown(async () => {
    await Promise.all([payer.close(), ...jobs.map((one) => one.close())])
    redis.disconnect()
    await close()
    server.closeAllConnections()
    server.close()
  })
  const rows = await client<{ purchase_id: string }[]>`
    WITH p AS (
      INSERT INTO purchases (queue, items, amount, currency, payment, status, expires_at)
      SELECT 'product:1', '[]', 500, 'USD', '{"method": "card", "token": "tok_slow"}', 'held', now() + interval '1 min'
      FROM generate_series(1, 100) RETURNING id
    ) INSERT INTO charges (purchase_id, kind, amount) SELECT id, 'charge', 500 FROM p RETURNING purchase_id`
  payer.enqueue(rows.map((row) => row.purchase_id))
  const reserved = async () => {
    const [row] = await client<{ n: number }[]>`SELECT count(*)::int AS n FROM charges WHERE status = 'authorized'`
    return row?.n === rows.length
  }
  await until(reserved, { what: 'every charge', timeout_ms: 30_000 })
  t.ok(most > 32 && most <= 64, `${most} at once: more than one worker may, and not more than the fleet`)
})

t.test('calls beyond the capacity of a breaker: refused and not sent', async (t) => {
  const isAnswer = () => false
  const options = { name: 'test', timeout_ms: 5_000, capacity: 2, isAnswer, metrics: createMetrics() }
  const breaker = createBreaker(options)
  let end = () => {}
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  let sent = 0
  const call = () =>
    breaker.run(() => {
      sent++
      return ended
    })
  const under_way = [call(), call()]
  await t.rejects(call(), { code: 'unavailable', attempted: false })
  end()
  await Promise.all(under_way)
  await call()
  t.equal(sent, 3)
  breaker.close()
})
