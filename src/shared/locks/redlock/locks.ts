/**
 * Locks on 3 or 5 independent Redis servers, which survive the loss of a minority of the servers. Guarantees and limits:
 * docs/decisions/0009-votes-give-way-locks-do-not.md. The design follows Antirez, "Distributed Locks with Redis", and M.
 * Kleppmann's answer to that article: a database can rely on the token, not on the lock.
 */
import { hostname } from 'node:os'
import type { Redis } from 'ioredis'
import type { LockEvents, Locks } from '../api.ts'
import type { LocksOptions } from '../core/acquisitions.ts'
import { checkRedis, checkSetting, checkTtl } from '../core/arguments.ts'
import { createLocksOn } from '../core/locks.ts'
import { createRedlockBackend } from './backend.ts'

// biome-ignore lint/performance/noBarrelFile: an entry point of the package: its callers branch on these errors
export { type Lease, LeaseLostError, LockBusyError, type Locks } from '../api.ts'

export interface RedlockOptions extends Omit<LocksOptions, 'instance'> {
  /**
   * Clients of 3 or 5 servers on separate machines; the caller closes them. They need enableOfflineQueue and
   * autoResendUnfulfilledCommands off and maxRetriesPerRequest 0, so that requests to a server that is away fail at once.
   */
  nodes: readonly Redis[]
  /** Prefix of every key and channel. */
  prefix?: string
  /** The holder's name if an acquire names no owner. Default: host:pid. */
  instance?: string
  events?: LockEvents | undefined
  /**
   * Longest TTL of all clients of these servers, in ms. A server that has lost its data does not vote for this long, because
   * leases that it has confirmed may still live. Default: a minute, or ttl_ms if that is longer.
   */
  max_ttl_ms?: number
}

/**
 * Creates locks on a quorum.
 * @throws TypeError or RangeError for an invalid option, RangeError for other numbers of servers: a second or fourth server
 * makes the quorum larger, but not safer
 */
export function createRedlock(options: RedlockOptions): Locks<'exclusive' | 'shared'> {
  checkSetting(options)
  const { nodes, prefix = '', instance, max_ttl_ms = Math.max(60_000, options.ttl_ms), ...rest } = options
  checkTtl('max_ttl_ms', max_ttl_ms)
  if (!Array.isArray(nodes)) throw new TypeError('nodes must be an array')
  for (const node of nodes) checkRedis('nodes', node, options)
  if (nodes.length !== 3 && nodes.length !== 5) {
    throw new RangeError(`Redlock needs 3 or 5 servers, not ${nodes.length}`)
  }
  if (new Set(nodes).size < nodes.length) throw new RangeError('Redlock needs different servers')
  if (options.ttl_ms > max_ttl_ms) throw new RangeError(`ttl_ms must not be above max_ttl_ms, ${max_ttl_ms}`)
  const backend = createRedlockBackend(nodes, {
    prefix,
    ttl_ms: options.ttl_ms,
    max_ttl_ms,
    events: options.events ?? {},
  })
  return createLocksOn(backend, { ...rest, instance: instance ?? `${hostname()}:${process.pid}` })
}
