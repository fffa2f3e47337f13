/**
 * Leases on one Redis. The invariant: every verb is one Lua script over the keys of one resource, which share a
 * Cluster slot by their braces; `lock:{type:id}` itself exists exactly while somebody has the lock.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { Redis, RedisOptions } from 'ioredis'
import type { Answer, Backend } from './backend.ts'
import type { LockEvents, Locks } from './lease.ts'
import { createLocksOn } from './locks.ts'

interface Script {
  lua: string
  sha: string
}

const line = readFileSync(new URL('./line.lua', import.meta.url), 'utf8')

function script(verb: string): Script {
  const lua = line + readFileSync(new URL(`./${verb}.lua`, import.meta.url), 'utf8')
  return { lua, sha: createHash('sha1').update(lua).digest('hex') }
}

const ACQUIRE = script('acquire')
const EXTEND = script('extend')
const RELEASE = script('release')
const CANCEL = script('cancel')

export interface RedisLocksOptions {
  /** For commands; stays the caller's to close. It is duplicated for the one subscriber. */
  redis: Redis
  /** In front of every key and channel. */
  prefix?: string
  ttl_ms: number
  /** Shown as the holder when an acquire names no owner. Default host:pid. */
  instance?: string
  events?: LockEvents
}

export function createLocks({ redis, prefix = '', ttl_ms, instance, events = {} }: RedisLocksOptions): Locks {
  const backend = redisBackend(redis, prefix)
  return createLocksOn(backend, { ttl_ms, instance: instance ?? `${hostname()}:${process.pid}`, events })
}

function redisBackend(redis: Redis, prefix: string): Backend {
  // Every createLocks has a channel of its own, so that a message reaches the one process that it is for.
  const channel = `${prefix}lock:wake:${randomUUID().slice(0, 13)}`
  let subscriber: Redis | undefined

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

  function keysOf(resource: string): [lock: string, fence: string, queue: string, alive: string] {
    const lock = `${prefix}lock:{${resource}}`
    return [lock, `${lock}:fence`, `${lock}:queue`, `${lock}:alive`]
  }

  return {
    newId: (seat, owner) => `${channel}/${seat}-${randomUUID()} ${owner}`,

    attempt({ resource, id, ttl_ms, above, place_ttl_ms, ticket }) {
      const keys = keysOf(resource)
      // The usual attempt is short: every argument costs both sides as much as a key.
      if (above > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms, ticket, above)
      if (ticket > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms, ticket)
      if (place_ttl_ms > 0) return run(ACQUIRE, readAttempt, keys, id, ttl_ms, place_ttl_ms)
      return run(ACQUIRE, readAttempt, keys, id, ttl_ms)
    },

    extend(resource, id, ttl_ms) {
      const [lock, , , alive] = keysOf(resource)
      return run(EXTEND, readExtend, [lock, alive], id, ttl_ms)
    },

    release: (resource, id) => run(RELEASE, readRelease, keysOf(resource), id),

    cancel: (resource, id) => run(CANCEL, () => {}, keysOf(resource), id),

    listen(heard) {
      if (subscriber) return
      // Subscribes by hand, because what matters is the moment after: who was told in the gap must ask.
      const own = redis.duplicate<Partial<RedisOptions>>({
        autoResubscribe: false,
        enableOfflineQueue: true,
        lazyConnect: false,
        maxRetriesPerRequest: null,
        // Soon again, because all the waiters of this process live by rechecks until then.
        retryStrategy: (times) => Math.min(times * 50, 1000),
      })
      subscriber = own
      own.on('error', () => {}) // It reconnects by itself; until then waiters live by their rechecks.
      own.on('message', (_channel, message) => {
        const seat = Number.parseInt(message.slice(channel.length + 1), 10)
        const [place, token] = message.split(' ').slice(-2).map(Number) as [number, number]
        heard(seat, { place, token })
      })
      own.on('ready', () => {
        own.subscribe(channel).then(
          () => heard('all'),
          () => {},
        )
      })
    },

    async close() {
      subscriber?.disconnect()
    },
  }
}

function readAttempt(answer: unknown): Answer {
  if (!Array.isArray(answer)) return { granted: true, token: Number(answer) }
  const [ticket = 0, place = 0, ahead = 0, waiting = 0, free_in_ms = 0] = answer.slice(0, 5).map(Number)
  return { granted: false, ticket, place, ahead, waiting, free_in_ms, holder: answer[5] || undefined }
}

function readExtend(answer: unknown): number | 'expired' | 'taken' {
  const waiting = Number(answer)
  return waiting >= 0 ? waiting : waiting === -1 ? 'expired' : 'taken'
}

function readRelease(answer: unknown): 'released' | 'expired' | 'taken' {
  return Number(answer) === 1 ? 'released' : Number(answer) === 0 ? 'expired' : 'taken'
}

/**
 * Commands that are issued in one turn of the event loop leave the process in few writes instead of one write each:
 * half the CPU of a pair of acquire and release where hundreds run at once. 16 at a time, so that Redis already works
 * on the first ones while the next ones are written. A command that is alone is not held up for this.
 * @returns to be called after a command that is not alone
 */
function gatherer(redis: Redis): () => void {
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
    if (corked || !redis.stream) return
    corked = redis.stream
    corked.cork()
    process.nextTick(flush)
  }
}
