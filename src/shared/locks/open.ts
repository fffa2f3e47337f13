/**
 * Opens the locks on the servers that the configuration names. The invariant: API and workers lock in one place, so
 * both come here, and what is opened here is closed here.
 */
import type { Redis } from 'ioredis'
import type { Config } from '../config.ts'
import type { LockEvents, Locks } from './lease.ts'
import { createLocks } from './redis.ts'

interface OpenLocksDeps {
  config: Pick<Config, 'lock' | 'redis_prefix' | 'lease_ttl_ms'>
  /** On REDIS_URL: where the locks are unless they have servers of their own. Stays the caller's to close. */
  redis: Redis
  events: LockEvents
}

export interface OpenedLocks {
  locks: Locks
  /** For /readyz: questions that reject when the locks cannot be had. Empty when they are where `redis` is. */
  checks: Readonly<Record<string, () => Promise<unknown>>>
  /** Gives back what is held and closes the connections of its own. */
  close(): Promise<void>
}

export async function openLocks({ config, redis, events }: OpenLocksDeps): Promise<OpenedLocks> {
  const { lock, redis_prefix: prefix, lease_ttl_ms: ttl_ms } = config
  switch (lock.backend) {
    case 'redis': {
      const locks = createLocks({ redis, prefix, ttl_ms, events })
      return { locks, checks: {}, close: () => locks.close() }
    }
    case 'etcd': {
      // A process without etcd need not load gRPC: a tenth of a second at its start.
      const { createEtcdLocks } = await import('./etcd.ts')
      const locks = createEtcdLocks({ hosts: lock.hosts, prefix: `holdfast/${prefix}`, ttl_ms, events })
      return { locks, checks: { etcd: () => locks.inspect('readyz') }, close: () => locks.close() }
    }
  }
}
