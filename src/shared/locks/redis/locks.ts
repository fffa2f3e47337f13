/**
 * Leases on one Redis, or on a Redis Cluster, where every resource has its node. Invariant: every operation on a resource
 * is one Lua script over its keys; the hash tag `{type:id}` in these keys puts them into one Cluster slot. The key
 * `lock:{type:id}` itself exists exactly while there is an exclusive holder.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Cluster, Redis } from 'ioredis'
import type { LockEvents, LockState, Locks } from '../api.ts'
import type { LocksOptions } from '../core/acquisitions.ts'
import { checkNumber, checkRedis, checkSetting } from '../core/arguments.ts'
import type { Answer, Backend, BusyAnswer, OnLockMessage, Requester } from '../core/backend.ts'
import { createLocksOn } from '../core/locks.ts'
import { lockKey, openIndex, type RedisIndex } from './lock-index.ts'
import { createRights } from './rights.ts'
import { createRun, script } from './script.ts'
import { type Subscription, subscribe } from './subscription.ts'
import { kindOf, readHolder, readId } from './wire-format.ts'

// biome-ignore lint/performance/noBarrelFile: an entry point of the package: its callers branch on these errors
export { type Lease, LeaseLostError, LockBusyError, type Locks } from '../api.ts'

const ACQUIRE = script('redis/acquire-fast', 'redis/prelude', 'redis/acquire')
const ACQUIRE_ALL = script('redis/prelude', 'redis/acquire-all')
const EXTEND = script('redis/prelude', 'redis/extend')
const RELEASE = script('redis/release-fast', 'redis/prelude', 'redis/release')
const CANCEL = script('redis/prelude', 'redis/cancel')
const FORCE = script('redis/prelude', 'redis/force')
const INSPECT = script('redis/prelude', 'redis/inspect')

export interface Replication {
  /** number of replicas that must acknowledge a lock before the caller gets it */
  replicas: number
  /** milliseconds that the client waits for them */
  timeout_ms: number
}

export interface RedisLocksOptions extends Omit<LocksOptions, 'instance'> {
  /**
   * Client for commands; the caller closes it. The locks duplicate it once, for the subscription. The client handles Sentinel
   * and Cluster.
   */
  redis: Redis | Cluster
  /** Prefix of every key and channel. */
  prefix?: string
  /** The holder's name if an acquire names no owner. Default: host:pid. */
  instance?: string
  /**
   * After each grant the client WAITs for this many replicas; if too few have the lock at the timeout, it releases the lock.
   * A failover keeps the lock if it promotes one of the replicas that have acknowledged it. Renewals do not wait. WAIT blocks
   * the commands behind it on `redis`, so use `redis` for nothing but these locks. Not for a Cluster.
   */
  replication?: Replication
}

/** Creates locks on one Redis or a Redis Cluster. @throws TypeError or RangeError for an invalid option */
export function createLocks(all: RedisLocksOptions): Locks {
  checkSetting(all)
  const { redis, prefix = '', instance, replication, ...options } = all
  checkRedis('redis', redis, all)
  if (replication !== undefined) checkReplication(replication)
  const backend = createRedisBackend(redis, prefix, replication, options.events)
  return createLocksOn(backend, { ...options, instance: instance ?? `${hostname()}:${process.pid}` })
}

/** Checks the options of replication: WAIT with a timeout of 0 would wait for ever. */
function checkReplication({ replicas, timeout_ms }: Replication): void {
  checkNumber('replication.replicas', replicas ?? Number.NaN, { min: 1 })
  checkNumber('replication.timeout_ms', timeout_ms ?? Number.NaN, { min: 1 })
}

/** Creates only the backend on Redis; the core, which waits and renews, is not included. */
export function createRedisBackend(
  redis: Redis | Cluster,
  prefix: string,
  replication?: Replication,
  events: LockEvents = {},
): Backend {
  if (replication && redis.isCluster) throw new RangeError('replication is not for a Redis Cluster')
  // Each createLocks has a separate channel, so that a message reaches only the process that it is for.
  const channel = `${prefix}lock:wake:${randomUUID().slice(0, 13)}`
  const index: RedisIndex = openIndex(redis, prefix)
  const run = createRun(redis)
  let subscription: Subscription | undefined
  const rights = createRights(redis, run, { prefix, channel, kind: '', events })
  rights.check()
  const { keysOf } = index

  const backend: Backend = {
    newOwnerId: ({ waiter_id, owner, mode, limit, ttl_ms }: Requester) =>
      `${kindOf(mode, limit)} ${ttl_ms} ${channel}/${waiter_id}-${randomUUID()} ${owner}`,

    attempt({ resource, id, ttl_ms, above, slot_ttl_ms, ticket }) {
      const keys = keysOf(resource)
      // Send few arguments in the usual case, because each argument costs client and server as much as a key.
      if (above > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, slot_ttl_ms, ticket, above)
      if (ticket > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, slot_ttl_ms, ticket)
      if (slot_ttl_ms > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, slot_ttl_ms)
      return run(ACQUIRE, readAttempt, keys, id, ttl_ms)
    },

    groupResources: index.groupResources,

    attemptAll(attempts) {
      const [first = '', ...others] = attempts.map(({ resource }) => resource)
      const keys = [lockKey(prefix, first), index.keyOf(first), ...others.map((one) => lockKey(prefix, one))]
      const above = Math.max(0, ...attempts.map((one) => one.above))
      const ownersAndTtls = attempts.flatMap(({ id, ttl_ms }) => [id, ttl_ms])
      return run(ACQUIRE_ALL, readAcquireAll, keys, above, ...ownersAndTtls)
    },

    extend: (resource, id, ttl_ms) => run(EXTEND, readExtend, keysOf(resource), id, ttl_ms),
    release(resource, id, indexed) {
      const keys = keysOf(resource)
      return indexed ? run(RELEASE, readRelease, keys, id, 1) : run(RELEASE, readRelease, keys, id)
    },
    cancel: (resource, id) => run(CANCEL, () => {}, keysOf(resource), id),
    force: (resource, above) => run(FORCE, readForce, keysOf(resource), above),
    inspect: (resources) =>
      Promise.all(resources.map((one) => run(INSPECT, (answer) => readState(one, answer), keysOf(one)))),
    list: () => index.list(),

    listen(onMessage) {
      subscription ??= subscribe(redis, channel, onMessage, rights.onError)
    },

    async close() {
      subscription?.disconnect()
      rights.close()
    },
  }
  return replication ? replicated(redis as Redis, backend, replication) : backend
}

/**
 * Wraps a backend so that the replicas acknowledge every grant before the caller gets it. A waiter to which the lock was
 * handed off does not take the grant from the message: it attempts again, so that the replicas acknowledge that grant too.
 */
function replicated(redis: Redis, backend: Backend, { replicas, timeout_ms }: Replication): Backend {
  async function confirmed(resource: string, id: string): Promise<void> {
    const acked = await redis.wait(replicas, timeout_ms)
    if (acked >= replicas) return
    await backend.cancel(resource, id)
    const error = new Error(`${acked} of ${replicas} replicas have the lock on ${resource}: it was released`)
    throw Object.assign(error, { code: 'not_replicated' })
  }

  // Without these two the core acquires several locks one after the other, so that each grant is confirmed.
  const { attemptAll: _attemptAll, groupResources: _groupResources, ...others } = backend
  return {
    ...others,
    async attempt(attempt) {
      const answer = await backend.attempt(attempt)
      if (answer.granted) await confirmed(attempt.resource, attempt.id)
      return answer
    },
    listen(onMessage) {
      backend.listen(((waiter_id: number, what?: 'taken' | object) => {
        onMessage(waiter_id, what === 'taken' ? what : undefined)
      }) as OnLockMessage)
    },
  }
}

function busyAnswer(numbers: unknown[], holder: unknown): BusyAnswer {
  const [ticket = 0, slot = 0, ahead = 0, waiting = 0, free_in_ms = 0] = numbers.map(Number)
  const named = typeof holder === 'string' ? readHolder(holder).owner || holder : undefined
  return { granted: false, ticket, slot, ahead, waiting, free_in_ms, holder: named }
}

function readAttempt(answer: unknown): Answer {
  if (!Array.isArray(answer)) return { granted: true, token: Number(answer) }
  return busyAnswer(answer.slice(0, 5), answer[5])
}

function readAcquireAll(answer: unknown): { granted: true; tokens: number[] } | { at: number; busy: BusyAnswer } {
  const [granted, ...rest] = answer as unknown[]
  if (Number(granted) === 1) return { granted: true, tokens: rest.map(Number) }
  const [at, waiting, free_in_ms, holder] = rest
  return { at: Number(at), busy: busyAnswer([0, 0, 0, waiting, free_in_ms], holder) }
}

function readExtend(answer: unknown): number | 'expired' | 'taken' {
  const waiting = Number(answer)
  return waiting >= 0 ? waiting : waiting === -1 ? 'expired' : 'taken'
}

function readRelease(answer: unknown): 'released' | 'expired' | 'taken' {
  return Number(answer) === 1 ? 'released' : Number(answer) === 0 ? 'expired' : 'taken'
}

function readHolders(pairs: unknown[]): LockState['holders'] {
  const holders: LockState['holders'] = []
  for (let i = 0; i < pairs.length; i += 2) {
    holders.push({ ...readHolder(String(pairs[i])), ttl_left_ms: Number(pairs[i + 1]) })
  }
  return holders
}

function readForce(answer: unknown): { token: number; revoked_holders: LockState['holders'] } {
  const [token, ...pairs] = answer as unknown[]
  return { token: Number(token), revoked_holders: readHolders(pairs) }
}

function readState(resource: string, answer: unknown): LockState {
  const [fencing_token, holders, queue] = answer as [unknown, unknown[], string[]]
  const waiters: LockState['waiters'] = []
  for (let i = 0; i < queue.length; i += 2) {
    waiters.push({ ...readId(queue[i] ?? ''), since_ms: Math.floor(Number(queue[i + 1]) / 1000) })
  }
  return { resource, fencing_token: Number(fencing_token), holders: readHolders(holders), waiters }
}
