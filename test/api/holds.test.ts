/**
 * Held units, until the card charge ends or the buyer confirms: each unit ends sold or available, even when the provider or
 * the buyer is late or fails. TEST_BUYERS=1000 and TEST_INSTANTS=1000 are the long modes.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { card, metric, openShop, provider, quantile, stopSweeper, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

const BUYERS = Number(process.env.TEST_BUYERS ?? 150)
const UNITS = BUYERS / 5
/** Number of concurrent buyers. */
const AT_ONCE = 32
const INSTANTS = Number(process.env.TEST_INSTANTS ?? 60)
const INSTANTS_AT_ONCE = 60
const WAIT = { prefer: 'wait=30' }

/** Share of the buyers with such a card; all other cards succeed. */
const CARDS = { tok_chargeDeclined: 0.2, tok_error: 0.1, tok_slow: 0.1, tok_timeout: 0.05 }

/** Returns every buyer's card, in a mixed but fixed order. */
function cards(): string[] {
  const all = Object.entries(CARDS).flatMap(([token, share]) => Array<string>(Math.round(BUYERS * share)).fill(token))
  while (all.length < BUYERS) all.push('tok_visa')
  const mixed = all.map((token, n) => ({ token, at: (n * 7_919 + 13) % 1_009 }))
  return mixed.sort((a, b) => a.at - b.at).map(({ token }) => token)
}

t.test('two workers', async (t) => {
  const world = await openWorld(t)
  const port = await anyFreePort()
  const sandbox = await world.startSandbox({
    SANDBOX_SLOW_MS: '900',
    SANDBOX_WEBHOOK_URL: `http://127.0.0.1:${port}/api/webhooks/stripe`,
  })
  const env = { SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '1000' }
  const [api, ...workers] = await Promise.all([
    world.startApi({ PORT: String(port) }),
    world.startWorker(env),
    world.startWorker(env),
  ])
  const urls = workers.map((worker) => worker.url)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  const one = (resource: string) => [{ resource, units: 1 }]
  const breaker = async (event: string) => {
    const sample = `holdfast_circuit_breaker_transitions_total{breaker="payments",event="${event}"}`
    const counts = await Promise.all(urls.map((url) => metric(url, sample)))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  await t.test(
    `${UNITS} units, ${BUYERS} buyers, a provider that declines, fails, is slow, never answers, and hangs`,
    async (t) => {
      const ref = await shop.units('product', UNITS, 500)
      const left = cards()
      const buyer = async () => {
        for (let token = left.pop(); token; token = left.pop()) {
          const { status, body } = await shop.buy({ customer: 'c', lines: one(ref), payment: card(token) }, WAIT)
          if (![201, 202, 402].includes(status) && body.code !== 'sold_out')
            t.same(body, {}, 'an answer of the contract')
        }
      }
      const buyers = Array.from({ length: AT_ONCE }, buyer)
      await until(async () => (await shop.resource(ref)).sold >= UNITS / 10, {
        timeout_ms: 30_000,
        what: 'first sales',
      })
      sandbox.kill('SIGSTOP')
      // Earlier errors may have opened the breaker too, and it closed again. Now it stays open.
      const open = async () => {
        const ready = await Promise.all(urls.map(async (url) => await (await fetch(`${url}/readyz`)).text()))
        return /"payments":"(half_)?open"/.test(ready.join())
      }
      await until(open, { timeout_ms: 30_000, what: 'the breaker to open, as readyz shows it' })
      t.ok((await breaker('open')) > 0, 'and the metrics')
      const { status, body } = await shop.buy({ customer: 'd', lines: one(ref) }, WAIT)
      t.ok(status === 201 || body.code === 'sold_out', 'who pays otherwise is served while it stands still')
      sandbox.kill('SIGCONT')
      await Promise.all(buyers)
      const ended = async () => {
        const { queued = 0, held = 0 } = await shop.statuses(ref)
        return queued + held === 0
      }
      await until(ended, { timeout_ms: 60_000, what: 'every purchase to be terminal' })
      await shop.charged()
      await until(async () => (await breaker('close')) > 0, { what: 'the breaker to close' })

      const rows = await shop.client<{ id: string; status: string; reason: string | null; charge: string | null }[]>`
        SELECT coalesce(p.replaces_id, p.id) AS id, p.status, p.reason, c.status AS charge
        FROM purchases p LEFT JOIN charges c ON c.purchase_id = p.id AND c.kind = 'charge'
        WHERE p.queue = ${ref} AND p.payment ->> 'method' = 'card'`
      const paid = rows.filter((row) => row.status === 'confirmed').map((row) => row.id)
      t.same((await bank.captured()).sort(), paid.sort(), 'charges match confirmed purchases one to one')
      t.same(await bank.open(), [], 'nothing is reserved on a card')
      const counts = tally(
        rows.map(({ status, reason }) => ({ status: 0, headers: new Headers(), body: { code: reason, status } })),
      )
      t.comment(JSON.stringify(counts))
      const { available, sold, held } = await shop.resource(ref)
      t.same([available + sold, held], [UNITS, 0], 'every unit is sold or for sale')
      for (let n = 0; n < available; n++)
        t.match(await shop.buy({ customer: 'e', lines: one(ref) }, WAIT), { status: 201 })
      t.match(await shop.buy({ customer: 'e', lines: one(ref) }, WAIT), { status: 409, body: { code: 'sold_out' } })
      const [p99, charge] = await Promise.all([
        quantile(urls, 'holdfast_settlement_latency_seconds', 0.99),
        quantile(urls, 'holdfast_charge_job_duration_seconds', 0.99),
      ])
      t.ok(
        p99 < charge,
        `the line never waited for the provider: 99 % within ${p99} s, of the payment jobs ${charge} s`,
      )
    },
  )

  await t.test('confirm at the instant of expiry: exactly one of them wins (eventyay#1359)', async (t) => {
    const once = async (n: number, ref: string) => {
      const held = await shop.buy({ customer: 'slow', lines: one(ref), hold_seconds: 2 }, WAIT)
      // A busy machine settles a confirm long after it was sent, so send them from well before the end to just after
      // it.
      const late_ms = ((n * 37) % 1_500) - 1_400
      await sleep(Math.max(0, new Date(held.body.expires_at).getTime() - Date.now() + late_ms))
      const [confirmed, rival] = await Promise.all([
        shop.command(held.body.id, 'confirm'),
        shop.buy({ customer: 'rival', lines: one(ref) }, WAIT),
      ])
      return { confirmed, rival, after: await shop.resource(ref) }
    }
    const outcomes: Awaited<ReturnType<typeof once>>[] = []
    while (outcomes.length < INSTANTS) {
      const refs: string[] = []
      while (refs.length < INSTANTS_AT_ONCE) refs.push(await shop.units('ticket', 1))
      const wave = refs.map((ref, n) => once(outcomes.length + n, ref))
      outcomes.push(...(await Promise.all(wave)))
    }
    for (const { confirmed, rival, after } of outcomes) {
      if (confirmed.status === 200) {
        t.match(
          [rival, after],
          [
            { status: 409, body: { code: 'sold_out' } },
            { available: 0, held: 0, sold: 1 },
          ],
        )
      } else {
        t.match(confirmed, { status: 409, body: { code: 'wrong_status', current_status: 'expired' } })
        const sold = rival.status === 201 ? 1 : 0
        t.match(after, { available: 1 - sold, held: 0, sold }, 'its unit went to the rival, or is for sale')
      }
    }
    const confirms = tally(outcomes.map(({ confirmed }) => confirmed))
    t.same(Object.keys(confirms).sort(), ['200 confirmed', '409 wrong_status'], `both: ${JSON.stringify(confirms)}`)
  })

  await t.test('sweeper stopped: units of overdue holds are still sold', async (t) => {
    await stopSweeper(t, world)
    const [a, b, c] = [
      await shop.units('product', 1),
      await shop.units('product', 1, 500),
      await shop.units('product', 1),
    ]
    const cart = { customer: 'slow', lines: [...one(a), ...one(c)], hold_seconds: 1 }
    const [cart_hold, card_hold] = await Promise.all([
      shop.buy(cart, WAIT),
      shop.buy({ customer: 'slow', lines: one(b), payment: card('tok_visa'), hold_seconds: 1 }, WAIT),
    ])
    for (const ref of [a, b, c]) {
      await until(async () => (await shop.resource(ref)).available === 1, { what: `the hold on ${ref} to be over` })
    }
    const ids = [cart_hold.body.id, card_hold.body.id]
    const statuses = async () =>
      (await shop.client<{ status: string }[]>`SELECT status FROM purchases WHERE id IN ${shop.client(ids)}`).map(
        (row) => row.status,
      )
    t.same(await statuses(), ['held', 'held'], 'no process has changed the rows')
    // Start with a resource of the cart other than the one whose queue contains it.
    for (const ref of [c, b, a]) {
      t.match(await shop.buy({ customer: 'next', lines: one(ref) }, WAIT), { status: 201 }, `${ref} is bought`)
    }
    t.same(await statuses(), ['expired', 'expired'])
  })

  await shop.verified()
})
