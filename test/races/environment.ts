/**
 * The environment of the races: API processes, three workers, the payment provider, and direct access to Redis. Without
 * locking, every worker gets every lease, and a delay between workers and database makes rows stale between read and
 * write.
 */
import type { Redis } from 'ioredis'
import type { Test } from 'tap'
import { createNudger } from '../../src/shared/jobs/nudges.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createLog } from '../../src/shared/log.ts'
import { openRedis } from '../../src/shared/redis.ts'
import { openShop, provider, type Shop, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { withLag } from './lag.ts'

const WORKERS = 3
/** Longer than a race takes, even on a busy machine. */
const ACCEPT = { RIDE_ACCEPT_TIMEOUT_S: '60' }
/** Delay between worker and database in milliseconds, in the races without locking. */
const LAG_MS = 3
/** Interval, in milliseconds, at which a storm adds jobs that bypass deduplication, and their number. */
const STORM_MS = 20
const STORM_JOBS = 25

export interface Environment {
  readonly locking: boolean
  readonly shop: Shop
  readonly bank: ReturnType<typeof provider>
  readonly api: string
  readonly redis: Redis
  /** returns the key of a resource's lock */
  lockOf(ref: string): string
  /**
   * Runs the body while jobs for these queues are added again and again, as if BullMQ had found the earlier ones
   * stalled.
   */
  storm<T>(refs: readonly string[], body: () => Promise<T>): Promise<T>
  /**
   * Runs bodies while this table is missing. The table is renamed once this number of bodies is ready, and restored
   * when all have ended.
   */
  without<T>(table: string, bodies: number, body: () => Promise<T>): Promise<T>
  /** Takes these leases and joins each wait queue three times, then disappears as a killed process does. */
  dieHolding(refs: readonly string[], ttl_ms: number): Promise<void>
}

/** Opens the environment. `env`: variables of the API and the workers. */
export async function openEnvironment(
  t: Test,
  locking: boolean,
  env: Record<string, string> = {},
): Promise<Environment> {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const shared = { ...TTL, SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '2000', ...ACCEPT, ...env }
  let far: Record<string, string> = shared
  if (!locking) {
    const lag = await withLag(world.env.DATABASE_URL, LAG_MS)
    t.teardown(() => lag.stop())
    far = { ...far, DATABASE_URL: lag.url }
  }
  const entry = locking ? undefined : 'test/races/unlocked-worker.ts'
  // Start a few processes at a time: on two cores, seven at once would each be as late as the last.
  const apis = await Promise.all([world.startApi(shared), world.startApi(shared)])
  await Promise.all(Array.from({ length: WORKERS }, () => world.startWorker(far, entry)))
  const { REDIS_URL, REDIS_PREFIX, DATABASE_URL } = world.env
  const log = createLog('silent', 'test')
  const redis = openRedis(REDIS_URL, log, { enableOfflineQueue: true })
  const nudger = createNudger(REDIS_URL, REDIS_PREFIX, log)
  t.teardown(async () => {
    await nudger.close()
    redis.disconnect()
  })
  let ready = 0
  let away: Promise<unknown> | undefined
  let back: Promise<unknown> | undefined
  const urls = apis.map((one) => one.url)
  const shop = openShop(t, urls, DATABASE_URL)
  return {
    locking,
    shop,
    bank: provider(sandbox.url),
    api: urls[0] ?? '',
    redis,
    lockOf: (ref) => `${REDIS_PREFIX}lock:{${ref}}`,
    async storm(refs, body) {
      let jobs = 0
      const timer = setInterval(() => {
        nudger.nudge(refs, { force: true })
        if (++jobs === STORM_JOBS) clearInterval(timer)
      }, STORM_MS)
      try {
        return await body()
      } finally {
        clearInterval(timer)
      }
    },
    async without(table, bodies, body) {
      const move = (from: string, to: string) => shop.client.unsafe(`ALTER TABLE ${from} RENAME TO ${to}`)
      if (++ready === bodies) away = move(table, `${table}_away`)
      await await until(() => away, { what: 'the others to be ready', timeout_ms: 60_000 })
      try {
        return await body()
      } finally {
        if (--ready === 0) back = move(`${table}_away`, table)
        await await until(() => back, { what: 'the others to be over', timeout_ms: 60_000 })
      }
    },
    async dieHolding(refs, ttl_ms) {
      const own = openRedis(REDIS_URL, log, { enableOfflineQueue: true })
      const locks = createLocks({ redis: own, prefix: REDIS_PREFIX, ttl_ms, instance: 'dead' })
      const taken = (ref: string) => locks.acquire(ref, { wait_ms: 10_000 }).catch(() => undefined)
      await Promise.all(refs.map((ref) => until(() => taken(ref), { what: `the lease on ${ref}` })))
      for (const ref of refs) {
        for (let n = 0; n < 3; n++) locks.acquire(ref, { wait_ms: 60_000 }).catch(() => {})
      }
      // They are in the queue once the server has answered this later request.
      await own.ping()
      own.disconnect()
      t.teardown(() => locks.close())
    },
  }
}
