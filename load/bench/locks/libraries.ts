/**
 * The lock libraries behind one small interface. Each is configured as its README says, with its default delays between
 * attempts, and waits without a time limit.
 */
import { existsSync } from 'node:fs'
import { Redis } from 'ioredis'
import Redlock from 'redlock'
import { createLocks } from '../../../src/shared/locks/redis/locks.ts'
import { createRedlock } from '../../../src/shared/locks/redlock/locks.ts'

/** TTL of a lock in milliseconds: long enough that no renewal happens while single pairs are measured. */
const TTL_MS = 10_000
const FOREVER_MS = 3_600_000

const LIBRARIES = ['holdfast', 'node-redlock', 'redis-semaphore', 'redlock-universal'] as const
export type Library = (typeof LIBRARIES)[number]
/** redlock-universal needs Node 22, which Holdfast does not, so it is measured only where it is installed. */
export const INSTALLED: readonly Library[] = LIBRARIES.filter(
  (one) => one !== 'redlock-universal' || existsSync(new URL(`../../../node_modules/${one}`, import.meta.url)),
)

export interface Acquirer {
  /** Acquires the lock, without a time limit. Resolves with the function that releases it. */
  acquire(key: string): Promise<() => Promise<unknown>>
  close(): Promise<void>
}

/** Opens a library on one Redis, or as a quorum of several. */
export async function openLibrary(library: Library, urls: readonly string[]): Promise<Acquirer> {
  const nodes = urls.map((url) => new Redis(url))
  await Promise.all(nodes.map((node) => node.ping()))
  const disconnect = () => {
    for (const node of nodes) node.disconnect()
  }
  return { close: async () => disconnect(), ...(await OPEN[library](nodes, disconnect)) }
}

type Open = (nodes: Redis[], disconnect: () => void) => Promise<Pick<Acquirer, 'acquire'> & Partial<Acquirer>>

const OPEN: Record<Library, Open> = {
  async holdfast(nodes, disconnect) {
    const [redis] = nodes as [Redis]
    const locks = nodes.length > 1 ? createRedlock({ nodes, ttl_ms: TTL_MS }) : createLocks({ redis, ttl_ms: TTL_MS })
    return {
      async acquire(key) {
        const lease = await locks.acquire(key, { wait_ms: FOREVER_MS })
        return () => lease.release()
      },
      async close() {
        await locks.close()
        disconnect()
      },
    }
  },

  async 'node-redlock'(nodes) {
    const redlock = new Redlock(nodes, { driftFactor: 0.01, retryCount: -1, retryDelay: 200, retryJitter: 200 })
    redlock.on('error', () => {})
    return {
      async acquire(key) {
        const lock = await redlock.acquire([key], TTL_MS)
        return () => lock.release()
      },
    }
  },

  async 'redis-semaphore'(nodes) {
    const { Mutex, RedlockMutex } = await import('redis-semaphore')
    const [redis] = nodes as [Redis]
    const options = { lockTimeout: TTL_MS, acquireTimeout: FOREVER_MS }
    return {
      async acquire(key) {
        const mutex = nodes.length > 1 ? new RedlockMutex(nodes, key, options) : new Mutex(redis, key, options)
        await mutex.acquire()
        return () => mutex.release()
      },
    }
  },

  async 'redlock-universal'(nodes) {
    const { createLock, createRedlock, IoredisAdapter } = await import('redlock-universal')
    const adapters = nodes.map((node) => new IoredisAdapter(node))
    const [adapter] = adapters as [InstanceType<typeof IoredisAdapter>]
    return {
      async acquire(key) {
        const settings = { key, ttl: TTL_MS, retryAttempts: 1_000_000 }
        const lock =
          nodes.length > 1
            ? createRedlock({ ...settings, adapters })
            : createLock({ ...settings, adapter, performance: 'lean' })
        const handle = await lock.acquire()
        return () => lock.release(handle)
      },
    }
  },
}
