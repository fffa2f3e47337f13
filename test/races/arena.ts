/**
 * Where races are run: API processes, three workers, the payment provider, and hands on Redis. Without locking, the
 * workers' leases lock nobody out, and they are far from the database, so that what they read is old when they write.
 */
import type { Redis } from 'ioredis'
import type { Test } from 'tap'
import { createLocks } from '../../src/shared/locks/redis.ts'
import { createLog } from '../../src/shared/log.ts'
import { createNudger, openRedis } from '../../src/shared/queues.ts'
import { openShop, provider, type Shop, TTL } from '../shop.ts'
import { openWorld } from '../world.ts'
import { withLag } from './lag.ts'

const WORKERS = 3
/** Milliseconds from a worker to the database, without locking. */
const LAG_MS = 3
/** What wakes a line past deduplication does so this often, in ms. */
const STORM_MS = 15

export interface Arena {
  readonly locking: boolean
  readonly shop: Shop
  readonly bank: ReturnType<typeof provider>
  readonly api: string
  readonly redis: Redis
  /** the key of a resource's lock */
  lockOf(ref: string): string
  /** Runs the body while every worker is told of these lines again and again, as if their jobs had stalled. */
  storm<T>(refs: readonly string[], body: () => Promise<T>): Promise<T>
  /** Takes these leases, and waits for them three times more, as a process that is gone at once without a word. */
  dieHolding(refs: readonly string[], ttl_ms: number): Promise<void>
}

/** `env`: for the workers. */
export async function openArena(t: Test, locking: boolean, env: Record<string, string> = {}): Promise<Arena> {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const shared = { ...TTL, SANDBOX_URL: sandbox.url, PAYMENT_TIMEOUT_MS: '2000', BOOKING_ACCEPT_SECONDS: '60' }
  let far: Record<string, string> = { ...shared, ...env }
  if (!locking) {
    const lag = await withLag(world.env.DATABASE_URL, LAG_MS)
    t.teardown(() => lag.stop())
    far = { ...far, DATABASE_URL: lag.url }
  }
  const entry = locking ? undefined : 'test/races/unlocked-worker.ts'
  const [first, second] = await Promise.all([
    world.startApi(shared),
    world.startApi(shared),
    ...Array.from({ length: WORKERS }, () => world.startWorker(far, entry)),
  ])
  const { REDIS_URL, REDIS_PREFIX, DATABASE_URL } = world.env
  const log = createLog('silent', 'test')
  const redis = openRedis(REDIS_URL, log, { enableOfflineQueue: true })
  const nudger = createNudger(REDIS_URL, REDIS_PREFIX, log)
  t.teardown(async () => {
    await nudger.close()
    redis.disconnect()
  })
  const urls = [first, second].flatMap((one) => (one ? [one.url] : []))
  return {
    locking,
    shop: openShop(t, urls, DATABASE_URL),
    bank: provider(sandbox.url),
    api: urls[0] ?? '',
    redis,
    lockOf: (ref) => `${REDIS_PREFIX}lock:{${ref}}`,
    async storm(refs, body) {
      const timer = setInterval(() => {
        for (const ref of refs) nudger.insist([ref])
      }, STORM_MS)
      try {
        return await body()
      } finally {
        clearInterval(timer)
      }
    },
    async dieHolding(refs, ttl_ms) {
      const own = openRedis(REDIS_URL, log, { enableOfflineQueue: true })
      const locks = createLocks({ redis: own, prefix: REDIS_PREFIX, ttl_ms, instance: 'dead' })
      await Promise.all(refs.map((ref) => locks.acquire(ref, { wait_ms: 10_000 })))
      for (const ref of refs) {
        for (let n = 0; n < 3; n++) locks.acquire(ref, { wait_ms: 60_000 }).catch(() => {})
      }
      // They stand in line once the server has answered what was sent after them.
      await own.ping()
      own.disconnect()
      t.teardown(() => locks.close())
    },
  }
}
