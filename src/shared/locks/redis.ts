/**
 * Leases on one Redis, or on a Redis Cluster, where every resource has its node. The invariant: every verb is one Lua
 * script over the keys of one resource, which share a Cluster slot by their braces; `lock:{type:id}` itself exists
 * exactly while somebody has the lock exclusively.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type { Answer, Asker, Backend, BusyAnswer, Heard } from './backend.ts'
import type { LockState, Locks, Mode } from './lease.ts'
import { createLocksOn, type LocksOptions } from './locks.ts'
import { indexOf, type RedisIndex } from './redis-index.ts'

interface Script {
  lua: string
  sha: string
}

function script(...files: string[]): Script {
  const lua = files.map((file) => readFileSync(new URL(`./${file}.lua`, import.meta.url), 'utf8')).join('')
  return { lua, sha: createHash('sha1').update(lua).digest('hex') }
}

const ACQUIRE = script('acquire-free', 'line', 'acquire')
const ACQUIRE_ALL = script('line', 'acquire-all')
const EXTEND = script('line', 'extend')
const RELEASE = script('release-alone', 'line', 'release')
const CANCEL = script('line', 'cancel')
const FORCE = script('line', 'force')
const INSPECT = script('line', 'inspect')

/** So many replicas must have a lock before it is given out. */
export interface Replication {
  replicas: number
  timeout_ms: number
}

export interface RedisLocksOptions extends Omit<LocksOptions, 'instance'> {
  /** For commands; stays the caller's to close. It is duplicated for the one subscriber. Sentinel and Cluster are its own. */
  redis: Redis | Cluster
  /** In front of every key and channel. */
  prefix?: string
  /** Shown as the holder when an acquire names no owner. Default host:pid. */
  instance?: string
  /**
   * Each grant WAITs until so many replicas have it, else it is given back: a failover then loses a lock only if all of
   * them are lost with it. Costs a connection of its own, since WAIT holds up what is behind it. Not for a Cluster.
   */
  replication?: Replication
}

export function createLocks({ redis, prefix = '', instance, replication, ...options }: RedisLocksOptions): Locks {
  const backend = createRedisBackend(redis, prefix, replication)
  return createLocksOn(backend, { ...options, instance: instance ?? `${hostname()}:${process.pid}` })
}

/** One Redis as a part of something larger: see redlock.ts. @public */
export function createRedisBackend(redis: Redis | Cluster, prefix: string, replication?: Replication): Backend {
  if (replication && redis.isCluster) throw new RangeError('replication is not for a Redis Cluster')
  // Every createLocks has a channel of its own, so that a message reaches the one process that it is for.
  const channel = `${prefix}lock:wake:${randomUUID().slice(0, 13)}`
  const index: RedisIndex = indexOf(redis, prefix)
  let subscriber: Redis | Cluster | undefined
  const gather = gatherer(redis)
  let unanswered = 0

  function run<T>({ sha, lua }: Script, read: (answer: unknown) => T, keys: string[], ...args: (string | number)[]) {
    const answer = redis.evalsha(sha, keys.length, ...keys, ...args)
    unanswered += 1
    if (unanswered > 1) gather()
    return answer.then(
      (value) => {
        unanswered -= 1
        return read(value)
      },
      (error) => {
        unanswered -= 1
        // A restarted or failed over server does not know the script; sending it once teaches it.
        if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error
        return redis.eval(lua, keys.length, ...keys, ...args).then(read)
      },
    )
  }

  const keysOf = (resource: string) => {
    const lock = lockKey(prefix, resource)
    return index.keyOf ? [lock, index.keyOf(resource)] : [lock]
  }

  const backend: Backend = {
    newId: ({ seat, owner, mode, limit, ttl_ms }: Asker) =>
      `${mode === 'permit' ? `p${limit}` : mode === 'shared' ? 's' : 'x'} ${ttl_ms} ${channel}/${seat}-${randomUUID()} ${owner}`,

    attempt({ resource, id, ttl_ms, above, place_ttl_ms, ticket }) {
      const keys = keysOf(resource)
      // The usual attempt is short: every argument costs both sides as much as a key.
      if (above > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms, ticket, above)
      if (ticket > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms, ticket)
      if (place_ttl_ms > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms)
      return run(ACQUIRE, readAttempt, keys, id, ttl_ms)
    },

    together: index.together,

    attemptAll(attempts) {
      const [first = [], ...others] = attempts.map(({ resource }) => keysOf(resource))
      const keys = [...first, ...others.flatMap(([lock = '']) => lock)]
      const above = Math.max(0, ...attempts.map((one) => one.above))
      const asked = attempts.flatMap(({ id, ttl_ms }) => [id, ttl_ms])
      return run(ACQUIRE_ALL, readAll, keys, above, first.length + 1, ...asked)
    },

    extend: (resource, id, ttl_ms) => run(EXTEND, readExtend, keysOf(resource), id, ttl_ms),
    release(resource, id, known) {
      const keys = keysOf(resource)
      return known ? run(RELEASE, readRelease, keys, id, 1) : run(RELEASE, readRelease, keys, id)
    },
    cancel: (resource, id) => run(CANCEL, () => {}, keysOf(resource), id),
    force: (resource, above) => run(FORCE, readForce, keysOf(resource), above),
    inspect: (resources) =>
      Promise.all(resources.map((one) => run(INSPECT, (answer) => readState(one, answer), keysOf(one)))),
    list: () => index.list(),

    listen(heard) {
      subscriber ??= subscribe(redis, channel, heard)
    },

    async close() {
      subscriber?.disconnect()
    },
  }
  return replication ? replicated(redis as Redis, backend, replication) : backend
}

function lockKey(prefix: string, resource: string): string {
  return `${prefix}lock:{${resource}}`
}

function subscribe(redis: Redis | Cluster, channel: string, heard: Heard): Redis | Cluster {
  // Subscribes by hand, because what matters is the moment after: who was told in the gap must ask.
  const options: Partial<RedisOptions> = {
    autoResubscribe: false,
    enableOfflineQueue: true,
    lazyConnect: false,
    maxRetriesPerRequest: null,
    // Soon again, because all the waiters of this process live by rechecks until then.
    retryStrategy: (times) => Math.min(times * 50, 1000),
  }
  // A Cluster looks after its subscriber itself.
  const own = redis.isCluster ? (redis as Cluster).duplicate() : (redis as Redis).duplicate(options)
  own.on('error', () => {}) // It reconnects by itself; until then waiters live by their rechecks.
  own.on('message', (_channel: string, message: string) => {
    const [seat, place, token] = message.split(' ') as [string, string, string]
    heard(Number(seat), place === 'taken' ? 'taken' : { place: Number(place), token: Number(token) })
  })
  own.on('ready', () => {
    own.subscribe(channel).then(
      () => heard('all'),
      () => {},
    )
  })
  return own
}

/** Every grant is confirmed by the replicas before anybody hears of it; one that is handed over is asked for again. */
function replicated(redis: Redis, backend: Backend, { replicas, timeout_ms }: Replication): Backend {
  async function confirmed(resource: string, id: string): Promise<void> {
    const acked = await redis.wait(replicas, timeout_ms)
    if (acked >= replicas) return
    await backend.cancel(resource, id)
    const error = new Error(`${acked} of ${replicas} replicas have the lock on ${resource}: it was given back`)
    throw Object.assign(error, { code: 'not_replicated' })
  }

  const { attemptAll: _none, together: _neither, ...others } = backend
  return {
    ...others,
    async attempt(attempt) {
      const answer = await backend.attempt(attempt)
      if (answer.granted) await confirmed(attempt.resource, attempt.id)
      return answer
    },
    listen(heard) {
      backend.listen(((seat: number, what?: 'taken' | object) => {
        heard(seat, what === 'taken' ? what : undefined)
      }) as Heard)
    },
  }
}

/** "<x | s | p and a limit> <ttl_ms> <channel>/<seat>-<uuid> <owner>", as in line.lua */
function readId(id: string): { owner: string; mode: Mode; limit?: number } {
  const [kind = '', _ttl_ms, _seat, ...owner] = id.split(' ')
  const mode = kind.startsWith('p') ? 'permit' : kind === 's' ? 'shared' : 'exclusive'
  return { owner: owner.join(' '), mode, ...(mode === 'permit' && { limit: Number(kind.slice(1)) }) }
}

/** An id with " token since_us" behind it; something else has the key if it does not look like one. */
function readHolder(value: string) {
  const [, id = value, token = 0, since_us = 0] = value.match(/^(.*) (\d+) (\d+)$/s) ?? []
  return { ...readId(id), token: Number(token), since_ms: Math.floor(Number(since_us) / 1000) }
}

function busy(numbers: unknown[], holder: unknown): BusyAnswer {
  const [ticket = 0, place = 0, ahead = 0, waiting = 0, free_in_ms = 0] = numbers.map(Number)
  const named = typeof holder === 'string' ? readHolder(holder).owner || holder : undefined
  return { granted: false, ticket, place, ahead, waiting, free_in_ms, holder: named }
}

function readAttempt(answer: unknown): Answer {
  if (!Array.isArray(answer)) return { granted: true, token: Number(answer) }
  return busy(answer.slice(0, 5), answer[5])
}

function readAll(answer: unknown): { granted: true; tokens: number[] } | { at: number; busy: BusyAnswer } {
  const [granted, ...rest] = answer as unknown[]
  if (Number(granted) === 1) return { granted: true, tokens: rest.map(Number) }
  const [at, waiting, free_in_ms, holder] = rest
  return { at: Number(at), busy: busy([0, 0, 0, waiting, free_in_ms], holder) }
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

function readForce(answer: unknown): { token: number; robbed: LockState['holders'] } {
  const [token, ...pairs] = answer as unknown[]
  return { token: Number(token), robbed: readHolders(pairs) }
}

function readState(resource: string, answer: unknown): LockState {
  const [fence, holders, line] = answer as [unknown, unknown[], string[]]
  const waiters: LockState['waiters'] = []
  for (let i = 0; i < line.length; i += 2) {
    waiters.push({ ...readId(line[i] ?? ''), since_ms: Math.floor(Number(line[i + 1]) / 1000) })
  }
  return { resource, fence: Number(fence), holders: readHolders(holders), waiters }
}

/**
 * Commands that are issued in one turn of the event loop leave the process in few writes instead of one write each:
 * half the CPU of a pair of acquire and release where hundreds run at once. 16 at a time, so that Redis already works
 * on the first ones while the next ones are written. A command that is alone is not held up for this.
 * @returns to be called after a command that is not alone
 */
function gatherer(redis: Redis | Cluster): () => void {
  if (redis.isCluster) return () => {}
  const single = redis as Redis
  let corked: Redis['stream'] | undefined
  let count = 0
  const flush = () => {
    corked?.uncork()
    corked = undefined
    count = 0
  }
  return () => {
    count += 1
    if (count >= 16) flush()
    if (corked || !single.stream) return
    corked = single.stream
    corked.cork()
    process.nextTick(flush)
  }
}
