/**
 * Opens the locks on the servers that the configuration names. Invariants: API and workers lock in the same place, so both
 * use this function; close() closes every connection that this file opens.
 */
import { Cluster, Redis } from 'ioredis'
import type { Config, LockRedis } from './config.ts'
import { typeOf } from './domain/resource.ts'
import type { LockEvents, Locks, Mode } from './locks/api.ts'
import { createLocks } from './locks/redis/locks.ts'
import { createRedlock } from './locks/redlock/locks.ts'
import type { Log } from './log.ts'
import { openRedis } from './redis.ts'

interface OpenLocksDeps {
  config: Pick<Config, 'lock' | 'redis_prefix' | 'lease_ttl_ms' | 'expected_hold_ms'>
  /**
   * Client of REDIS_URL. The locks use it unless LOCK_REDIS_URLS or etcd is configured, or they WAIT for replicas. The caller
   * closes it.
   */
  redis: Redis
  log: Log
  events: LockEvents
}

export interface OpenedLocks {
  locks: Locks
  /** The modes that these lock servers support: a quorum has no permits. */
  modes: readonly Mode[]
  /** Checks for /readyz that reject when the locks are unavailable. Empty when the locks are on REDIS_URL. */
  checks: Readonly<Record<string, () => Promise<unknown>>>
  /** Releases held leases and closes the connections that openLocks opened. */
  close(): Promise<void>
}

const ALL: readonly Mode[] = ['exclusive', 'shared', 'permit']
const WITHOUT_PERMITS: readonly Mode[] = ['exclusive', 'shared']

/** Milliseconds between attempts to reconnect to a lock server. */
const RECONNECT_MS = 200

export async function openLocks({ config, redis, log, events }: OpenLocksDeps): Promise<OpenedLocks> {
  const { lock, redis_prefix: prefix, lease_ttl_ms: ttl_ms, expected_hold_ms: expected } = config
  const expected_hold_ms = (resource: string) => expected.get(typeOf(resource)) ?? expected.get('*')
  const options = { ttl_ms, events, expected_hold_ms }
  switch (lock.backend) {
    case 'redis': {
      // Locks that WAIT for replicas do not share `redis`, because WAIT delays the commands behind it on its connection.
      const second = () => redis.duplicate().on('error', onError(log))
      const lockRedis = lock.servers ? openServers(lock.servers, log) : lock.wait_replicas ? second() : undefined
      // Wait for replicas for a tenth of the TTL at most: a heartbeat may be that late for other reasons, too.
      const replication = lock.wait_replicas && { replicas: lock.wait_replicas, timeout_ms: Math.floor(ttl_ms / 10) }
      const locks = createLocks({ redis: lockRedis ?? redis, prefix, ...options, ...(replication && { replication }) })
      const close = async () => {
        await locks.close()
        lockRedis?.disconnect()
      }
      return { locks, modes: ALL, checks: lock.servers ? { locks: () => locks.inspect('readyz') } : {}, close }
    }
    case 'redlock': {
      // Log a warning for each server that fails: the others may still be a quorum, and then nothing else reports the failure.
      const nodes = lock.urls.map((url) => openRedis(url, log, { autoResendUnfulfilledCommands: false }, 'warn'))
      const { max_ttl_ms } = lock
      // The type of createRedlock excludes permits; callers check `modes` before they request one.
      const locks: Locks = createRedlock({ nodes, prefix, ...options, ...(max_ttl_ms && { max_ttl_ms }) })
      const close = async () => {
        await locks.close()
        for (const node of nodes) node.disconnect()
      }
      return { locks, modes: WITHOUT_PERMITS, checks: { locks: () => locks.inspect('readyz') }, close }
    }
    case 'etcd': {
      // A process without etcd does not load gRPC, which takes a tenth of a second at start.
      const { createEtcdLocks } = await import('./locks/etcd/locks.ts')
      const locks = createEtcdLocks({ hosts: lock.hosts, prefix: `holdfast/${prefix}`, ...options })
      return { locks, modes: ALL, checks: { etcd: () => locks.inspect('readyz') }, close: () => locks.close() }
    }
  }
}

function openServers(servers: LockRedis, log: Log): Redis | Cluster {
  const [first = '', ...others] = servers.urls
  if (servers.kind === 'single') return openRedis(first, log)
  const at = [first, ...others].map((url) => {
    const { hostname: host, port } = new URL(url)
    return { host, port: Number(port || (servers.kind === 'sentinel' ? 26_379 : 6379)) }
  })
  const { username, password } = new URL(first)
  const login = { ...(username && { username }), ...(password && { password: decodeURIComponent(password) }) }
  const failFast = { enableOfflineQueue: false, connectTimeout: 2_000, autoResubscribe: false, ...login }
  const lockRedis =
    servers.kind === 'cluster'
      ? new Cluster(at, {
          enableOfflineQueue: false,
          clusterRetryStrategy: () => RECONNECT_MS,
          redisOptions: { ...failFast, autoResendUnfulfilledCommands: false },
        })
      : new Redis({
          ...failFast,
          sentinels: at,
          name: servers.master,
          maxRetriesPerRequest: 0,
          retryStrategy: () => RECONNECT_MS,
          sentinelRetryStrategy: () => RECONNECT_MS,
        })
  return lockRedis.on('error', onError(log))
}

const onError = (log: Log) => (error: Error) =>
  log.debug({ error: error.message }, 'connection to the Redis of the locks failed')
