/** Statistics and warnings of locks: summed over the fleet, and never a delay for an acquire. */
import { Writable } from 'node:stream'
import { Redis } from 'ioredis'
import { pino } from 'pino'
import t from 'tap'
import { createLockStats } from '../../src/shared/lock-stats.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createMetrics, lockEvents } from '../../src/shared/metrics.ts'
import { openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const redis = new Redis(world.env.REDIS_URL)
t.teardown(async () => redis.disconnect())

t.test('each process counts for itself, any API process returns the sum', async (t) => {
  const [api, other] = await Promise.all([world.startApi(), world.startApi(), world.startWorker()])
  const [call, elsewhere] = [contract(api.url), contract(other.url)]
  const stats = async () => (await call('GET', '/api/locks/stats')).body
  const shop = openShop(t, [api.url, other.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 5)
  await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] }, { prefer: 'wait=10' })
  // The worker's own: the lease of the queue, and the sweeper's each second.
  const before = await until(async () => {
    const now = await stats()
    return now.acquisitions >= 1 && now
  })
  t.equal(Date.parse(before.since) % 3_600_000, 0, 'since a full hour')

  const body = (change: object = {}) => ({
    resource: 'stats:1',
    mode: 'exclusive',
    ttl_ms: 30_000,
    owner: 'a',
    ...change,
  })
  const first = await call('POST', '/api/leases', { body: body() })
  t.equal((await elsewhere('POST', '/api/leases', { body: body() })).status, 409)
  t.equal((await elsewhere('POST', '/api/leases', { body: body({ wait_ms: 20 }) })).status, 409)
  await call('DELETE', `/api/leases/${first.body.lease_id}`)
  const second = await elsewhere('POST', '/api/leases', { body: body({ resource: 'stats:2', ttl_ms: 1_000 }) })
  await until(async () => (await call('GET', '/api/locks/stats:2')).body.holders.length === 0)
  t.equal((await elsewhere('PUT', `/api/leases/${second.body.lease_id}`)).status, 410)

  const after = await until(async () => {
    const now = await stats()
    return now.lost === before.lost + 1 && now.timeouts === before.timeouts + 2 && now
  })
  t.equal(after.contentions - before.contentions, 2)
  t.ok(after.acquisitions - before.acquisitions >= 2)
  t.equal(after.failures, after.timeouts + after.aborted + after.unreachable)
  t.equal(after.success_rate, after.acquisitions / (after.acquisitions + after.failures))
  for (const { p50, p95, p99 } of [after.wait_ms, after.hold_ms]) {
    t.ok(0 < p50 && p50 <= p95 && p95 <= p99 && p99 < 10_000, `p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms`)
  }
  t.match(await elsewhere('GET', '/api/locks/stats?hours=1'), { status: 200 })
  for (const name of NAMES) {
    t.match((await call('GET', '/metrics')).body, new RegExp(`^# TYPE ${name} `, 'm'), name)
  }
})

/** API.md, "Operating", and the three warnings. */
const NAMES =
  `holdfast_lock_acquire_seconds holdfast_lock_hold_seconds holdfast_lock_contentions_total holdfast_lock_acquisition_failures_total holdfast_lock_lost_total
  holdfast_fencing_token_rejections_total holdfast_purchases_total holdfast_bookings_total holdfast_settlement_batch_rows holdfast_settlement_latency_seconds holdfast_circuit_breaker_state
  holdfast_lock_long_holds_total holdfast_lock_late_renewals_total`.split(/\s+/)

t.test('quantiles of many processes: at most a fifth too high, never too low', async (t) => {
  const fleet = [1, 2, 3].map(() => createLockStats({ redis, prefix: `${world.env.REDIS_PREFIX}quantiles:` }))
  const waits = Array.from({ length: 3_000 }, (_, n) => 0.2 * 1.004 ** n)
  waits.forEach((ms, n) => {
    fleet[n % 3]?.events.acquired('product:1', ms)
    if (n % 10 === 0) fleet[n % 3]?.events.failed('product:1', 'unreachable')
  })
  fleet[0]?.onStaleWrite()
  fleet[1]?.onStaleWrite()
  await Promise.all(fleet.map((one) => one.close()))
  const [reader] = fleet
  const notified = await reader?.read(2)
  t.match(notified, { acquisitions: 3_000, failures: 300, unreachable: 300, fencing_rejections: 2 })
  for (const [name, share] of [
    ['p50', 0.5],
    ['p95', 0.95],
    ['p99', 0.99],
  ] as const) {
    const [exact = 0, is = 0] = [waits[Math.ceil(share * waits.length) - 1], notified?.wait_ms[name] ?? 0]
    t.ok(is >= exact * 0.999 && is <= exact * 1.19, `${name} is ${exact.toFixed(2)} ms, reported as ${is} ms`)
  }
  t.same(notified?.hold_ms, { p50: null, p95: null, p99: null }, 'no release')
})

t.test('Redis away: counting continues, and the figures are written when it is back', async (t) => {
  const own = await world.ownRedis()
  const client = new Redis(own.url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, retryStrategy: () => 20 })
  client.on('error', () => {})
  await until(() => client.status === 'ready')
  const stats = createLockStats({ redis: client, prefix: '' })
  t.teardown(async () => {
    await stats.close()
    client.disconnect()
  })
  stats.events.contended('product:1')
  await stats.flush()
  await own.stop('SIGSTOP')
  const since = performance.now()
  stats.events.contended('product:1')
  await t.rejects(stats.read(2), 'a Redis that hangs')
  t.ok(performance.now() - since < 2_000, 'the limit is a second')
  await own.stop('SIGCONT')
  // Two hours, in case the test crosses a full hour.
  await until(async () => (await stats.read(2)).contentions === 2)
  await own.stop('SIGKILL')
  await until(() => client.status !== 'ready')
  for (let n = 0; n < 10; n++) stats.events.contended('product:1')
  await t.rejects(stats.flush(), 'a Redis that is gone')
  await own.restart({ empty: true })
  await until(async () => (await stats.read(2)).contentions === 10, { what: 'what was counted meanwhile' })
})

t.test('long hold, late renewal, loss: each is a warning that names the lease, and a metric', async (t) => {
  const lines: Record<string, unknown>[] = []
  const sink = new Writable({
    write(chunk, _encoding, done) {
      lines.push(JSON.parse(String(chunk)))
      done()
    },
  })
  const metrics = createMetrics()
  const stats = createLockStats({ redis, prefix: `${world.env.REDIS_PREFIX}watch:` })
  const events = lockEvents(metrics, pino({ base: null }, sink), stats, new Map([['product', 20]]))
  const locks = createLocks({
    redis,
    prefix: world.env.REDIS_PREFIX,
    ttl_ms: 30_000,
    instance: 'host:1',
    events,
    expected_hold_ms: () => 20,
  })
  t.teardown(async () => {
    await locks.close()
    await stats.close()
  })
  const [named, other] = await Promise.all([locks.acquire('product:9', { job: 'job 4' }), locks.acquire('odd:9')])
  const valid_until = () => performance.now() + named.remaining_ms
  const granted_until = valid_until()
  const owner = 'host:1 job 4'
  const warningOf = (resource: string, msg: RegExp) =>
    until(() => lines.find((line) => line.resource === resource && msg.test(String(line.msg))))
  t.match(await warningOf('product:9', /held longer/), { level: 40, owner, token: named.token, held_ms: Number })
  await warningOf('odd:9', /held longer/)
  // After it has subscribed, the holder verifies its leases by renewing them. A verification after the forced release
  // finds no lock, and cannot know why. If it had verified before granted_until was read, its next renewal counts.
  await until(() => valid_until() > granted_until + 1, { what: 'a renewal', timeout_ms: 20_000 })
  await locks.forceRelease('product:9')
  t.match(await warningOf('product:9', /lost/), { level: 40, owner, token: named.token, held_ms: Number, why: 'taken' })
  events.lateRenewal?.('odd:9', 12)
  t.match(await warningOf('odd:9', /just in time/), { level: 40, slack_ms: 12 })
  await other.release()
  t.equal(lines.length, 4, 'each once')
  const page = await metrics.registry.metrics()
  t.match(page, /^holdfast_lock_long_holds_total\{type="product"\} 1$/m)
  t.match(page, /^holdfast_lock_long_holds_total\{type="\*"\} 1$/m, 'types without a limit of their own share a label')
  t.match(page, /^holdfast_lock_late_renewals_total 1$/m)
  t.match(page, /^holdfast_lock_lost_total\{reason="taken"\} 1$/m)
})
