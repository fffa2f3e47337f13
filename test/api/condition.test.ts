/**
 * The condition in one sentence, right soon after a fault of each part, and green soon after its return. Real processes, frozen,
 * killed and stopped. The test prints how long each sentence took. On a quiet machine TEST_CONDITION_LIMITS=1 checks these
 * times: 3 s after a fault, 5 s after the return.
 */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Snapshot } from '../../src/api/dashboard/snapshot-schema.ts'
import { card, openShop } from '../support/api-client.ts'
import { type Owned, openWorld, type Running, signalAll, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const LIMITS = process.env.TEST_CONDITION_LIMITS === '1'
/** Milliseconds that a sentence may take on a machine that other tests keep busy. */
const BUSY_MS = 30_000
const FAULT_MS = 3_000
const RETURN_MS = 5_000
/** A provider that hangs is known once a request has timed out. */
const TIMEOUT_MS = 1_000

const world = await openWorld(t)
const [redis, postgres, sandbox] = await Promise.all([world.ownRedis(), world.ownPostgres(), world.startSandbox()])
const env = {
  REDIS_URL: redis.url,
  DATABASE_URL: postgres.url,
  SANDBOX_URL: sandbox.url,
  PAYMENT_TIMEOUT_MS: String(TIMEOUT_MS),
  // A killed worker's leases end soon, so that its queues go on.
  LEASE_TTL_MS: '2000',
}
const [api, only] = await Promise.all([world.startApi(env), world.startWorker(env)])
const shop = openShop(t, [api.url], postgres.url)
const { newest, closePage } = follow(api.url)
t.teardown(async () => closePage())

/** Follows the stream of the dashboard, as a page does; `newest` returns the newest snapshot. */
function follow(url: string): { newest(): Snapshot | undefined; closePage(): void } {
  const stop = new AbortController()
  let snapshot: Snapshot | undefined
  async function read(): Promise<void> {
    const response = await fetch(`${url}/api/dashboard`, {
      headers: { accept: 'text/event-stream' },
      signal: stop.signal,
    })
    let text = ''
    for await (const chunk of response.body ?? []) {
      text += Buffer.from(chunk).toString()
      const frames = text.split('\n\n')
      text = frames.pop() ?? ''
      for (const frame of frames) {
        const [, data] = /^event: snapshot\ndata: (.*)/m.exec(frame) ?? []
        if (data) snapshot = JSON.parse(data)
      }
    }
  }
  void read().catch(() => {})
  return { newest: () => snapshot, closePage: () => stop.abort() }
}

/** Waits until the sentence matches. With LIMITS it fails if that takes longer than limit_ms from the call. */
async function says(t: Test, level: string, sentence: RegExp, limit_ms: number): Promise<Snapshot> {
  const since = performance.now()
  const matches = () => {
    const one = newest()
    return one?.condition.level === level && sentence.test(one.condition.sentence) ? one : undefined
  }
  const what = `${level} ${sentence}`
  const seen = await until(matches, { what, timeout_ms: BUSY_MS }).catch((error) => {
    throw new Error(`${error.message}; the sentence: ${JSON.stringify(newest()?.condition)}`)
  })
  const took_ms = Math.round(performance.now() - since)
  t.comment(`${seen.condition.sentence}: after ${took_ms} ms`)
  if (LIMITS) t.ok(took_ms <= limit_ms, `within ${limit_ms} ms`)
  return seen
}
/** Waits until every row is settled: a worker that is killed earlier leaves rows that wait. */
const settled = () =>
  until(async () => (await shop.queued()) === 0, { what: 'the queues to be empty', timeout_ms: BUSY_MS })
const green = (t: Test, processes: number) =>
  says(t, 'green', new RegExp(`^All systems work: ${processes} processes, nothing waits`), RETURN_MS)

const idOf = ({ pid }: Running) => new RegExp(`:${pid}\\b`)

t.test('calm: all systems work', async (t) => {
  const { processes } = await says(t, 'green', /^All systems work: 2 processes, nothing waits$/, 15_000)
  t.match(processes, [{ event_loop_p99_ms: Number, version: /^\d/ }, { event_loop_p99_ms: Number }])
  t.same(processes?.map(({ role }) => role).sort(), ['api', 'worker'])
})

t.test('one of two workers frozen, killed, stopped: named within 3 s, unless it said good-bye', async (t) => {
  const second = await world.startWorker(env)
  await green(t, 3)
  second.kill('SIGSTOP')
  const { condition } = await says(t, 'amber', /^worker .+:\d+ has not answered for \d+ s/, FAULT_MS)
  t.match(condition.findings[0], { rule: 'process_silent', subject: idOf(second), since: String })
  second.kill('SIGCONT')
  await green(t, 3)
  second.kill('SIGKILL')
  await says(t, 'amber', idOf(second), FAULT_MS)
  const third = await world.startWorker(env)
  await green(t, 3)
  third.kill('SIGTERM')
  await third.exited
  await says(t, 'green', /^All systems work: 2 processes/, FAULT_MS)
})

t.test('the only worker frozen, killed, stopped: the queue that waits for it is named', async (t) => {
  const ref = await shop.units('product', 10)
  only.kill('SIGSTOP')
  await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
  const { queues } = await says(t, 'red', new RegExp(`^${ref} has waited \\d+ s: no worker answers; .+ ago$`), FAULT_MS)
  t.match(queues, [{ resource: ref, length: 1, holder: null }])
  only.kill('SIGCONT')
  await settled()
  await green(t, 2)

  only.kill('SIGKILL')
  await says(t, 'red', /^No worker answers; .+:\d+ was seen \d+ s ago$/, FAULT_MS)
  const next = await world.startWorker(env)
  await green(t, 2)
  next.kill('SIGTERM')
  await next.exited
  await says(t, 'red', /^No worker answers$/, FAULT_MS)
  await world.startWorker(env)
  await green(t, 2)
})

t.test('an API process frozen: named by the other one', async (t) => {
  const second = await world.startApi(env)
  await green(t, 3)
  second.kill('SIGSTOP')
  await says(t, 'amber', /^api .+ has not answered/, FAULT_MS)
  second.kill('SIGCONT')
  await green(t, 3)
  second.kill('SIGTERM')
  await second.exited
  await green(t, 2)
})

/** Freezes a server, then ends it with the signal; each time the sentence must name it, and end with its return. */
async function outages(t: Test, label: string, server: Owned, freeze: Freeze, end: 'SIGKILL' | 'SIGINT') {
  await freeze('SIGSTOP')
  const { condition } = await says(t, 'red', new RegExp(`^${label} has not answered for \\d+ s`), FAULT_MS)
  t.match(condition.findings[0], { rule: 'dependency_silent', subject: label.toLowerCase() })
  await freeze('SIGCONT')
  await green(t, 2)
  await server.stop(end)
  await says(t, 'red', new RegExp(`^${label} has not answered for \\d+ s`), FAULT_MS)
  await server.restart()
  await green(t, 2)
}
type Freeze = (signal: NodeJS.Signals) => unknown

t.test('Redis frozen, killed', (t) => outages(t, 'Redis', redis, (signal) => redis.stop(signal), 'SIGKILL'))

t.test('Postgres frozen, stopped', (t) =>
  outages(t, 'Postgres', postgres, (signal) => signalAll(postgres.pid, signal), 'SIGINT'),
)

t.test('provider frozen: said with the number of charges and refunds that wait', async (t) => {
  const ref = await shop.units('product', 10, 500)
  const order = { customer: 'ada', lines: [{ resource: ref, units: 1 }], payment: card('tok_visa') }
  const { body } = await shop.buy(order, { prefer: 'wait=10' })
  t.equal(body.status, 'confirmed')
  await shop.charged()
  sandbox.kill('SIGSTOP')
  await fetch(`${api.url}/api/purchases/${body.id}/refund`, { method: 'POST' })
  const sentence = /^Payments: the provider has not answered for \d+ s, 1 charge waits$/
  await says(t, 'red', sentence, FAULT_MS + 2 * TIMEOUT_MS)
  sandbox.kill('SIGCONT')
  await green(t, 2)
})

t.test('invariant broken, charge that does not move: said until the next verification', async (t) => {
  const ref = await shop.units('product', 10, 500)
  const { body } = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] }, { prefer: 'wait=10' })
  const commands = new Redis(redis.url)
  t.teardown(async () => commands.disconnect())
  // The fleet monitor looks in its turn: each minute, and every five seconds.
  const look = () => commands.unlink(`${world.env.REDIS_PREFIX}watched:turn:verification`)
  await shop.client`INSERT INTO charges (purchase_id, kind, n, amount, created_at, next_attempt_at)
    VALUES (${body.id}, 'charge', 1, 500, now() - interval '2 hours', now() + interval '1 hour')`
  await look()
  const { condition } = await says(t, 'red', /^An invariant is broken: .*is stuck for 60 minutes/, 2 * RETURN_MS)
  t.match(condition.findings[0], { rule: 'invariant_broken', subject: body.id })
  await until(() => newest()?.condition.findings.some(({ rule }) => rule === 'payments_stuck'))
  await shop.client`DELETE FROM charges WHERE purchase_id = ${body.id}`
  await look()
  await says(t, 'green', /./, 3 * RETURN_MS)
})

t.test('history: sampled while no page is open, and there after a restart of the API', async (t) => {
  const samples = async (url: string) => {
    const { status, body } = await contract(url)('GET', '/api/dashboard/history?range=5m')
    t.equal(status, 200)
    return body.samples as { at: string; level: string; sentence: string }[]
  }
  closePage()
  const closed_at = new Date().toISOString()
  const since = async () => (await samples(api.url)).filter(({ at }) => at > closed_at)
  const first = await until(async () => (await since())[0], { timeout_ms: 15_000 })
  t.match(first, { level: /^(green|amber|red)$/, sentence: /./ })
  const before = await samples(api.url)
  t.ok(before.length > 1)
  api.kill('SIGTERM')
  await api.exited
  const next = await world.startApi(env)
  t.same((await samples(next.url)).slice(0, before.length), before)
})
