/**
 * The BullMQ queues and the pub/sub channels between API and workers. Invariant: both carry hints only. A purchase is a
 * Postgres row; the sweeper makes up for a lost job, the poll of the waiting request for a lost notice.
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis, type RedisOptions } from 'ioredis'
import type { Log } from './log.ts'

export const QUEUE = 'purchases'
const JOB = 'purchase'
export interface NudgeJob {
  resources: string[]
}

/** Delivery streams, between the workers alone. */
export const WEBHOOKS = 'webhooks'

export const PAYMENTS = 'payments'
export interface PaymentJob {
  /** a purchase or booking */
  id: string
}

export const bullPrefix = (redis_prefix: string) => `${redis_prefix}bull`
/** Carries JSON arrays of settled ids (purchases, bookings and commands). */
export const settledChannel = (redis_prefix: string) => `${redis_prefix}settled`
/** Carries whether a queue is hot: its worker will poll it again without a nudge. */
export const hotQueueChannel = (redis_prefix: string) => `${redis_prefix}flow`
export const formatHotQueue = (resource: string, flows: boolean) => `${flows ? '+' : '-'}${resource}`
export const parseHotQueue = (message: string) => ({ resource: message.slice(1), flows: message.startsWith('+') })

/** Milliseconds between attempts to reach Redis again: constant, so that recovery is not delayed by a long outage. */
const RECONNECT_MS = 200

const at = (url: string) => new URL(url).host
/** Why a connection is down: the error of a command does not say it. */
const causes = new WeakMap<Redis, Error>()

/** Resolves when Redis answers; waits for a first connection that is still being made. @throws the reason why it does not */
export async function pingRedis(redis: Redis): Promise<void> {
  const cause = causes.get(redis)
  if (cause) throw cause
  // Rejects when an error comes first.
  if (redis.status !== 'ready') await once(redis, 'ready')
  await redis.ping()
}

/**
 * For commands whose failure the caller handles: none is queued while Redis is down. `level`: of the log message about a
 * failed connection; a process has several to one Redis, and watchDependencies reports once that it is down.
 */
export function openRedis(
  url: string,
  log: Log,
  options: Omit<RedisOptions, 'replyMapping'> = {},
  level: 'debug' | 'warn' = 'debug',
): Redis {
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => RECONNECT_MS,
    connectTimeout: 2_000,
    // ioredis would subscribe again by itself after a reconnect, without catching the error: a connection that is reset at
    // that moment would end the process. Each subscriber subscribes at every `ready` instead.
    autoResubscribe: false,
    ...options,
  })
  let cause: Error | undefined
  redis.on('error', (error) => {
    if (error.message !== cause?.message)
      log[level]({ error: error.message, redis: at(url) }, 'redis: connection failed')
    cause = error
    causes.set(redis, error)
  })
  redis.on('ready', () => {
    cause = undefined
    causes.delete(redis)
  })
  return redis
}

export type Nudge = (resources: Iterable<string>, options?: { force?: boolean }) => void

export interface Nudger {
  /**
   * Adds jobs for these queues: they have rows. Never throws, never waits. `force` bypasses deduplication: the job that
   * holds a queue's id may belong to a killed worker.
   */
  nudge: Nudge
  close(): Promise<void>
}

/** Resources of one job: enough that cold queues share the cost of a job, few enough that workers share the queues. */
const RESOURCES_PER_JOB = 128
/** Milliseconds between two jobs of a process: nudges that arrive meanwhile share the next one. */
const PACE_MS = 10

/**
 * Adds one job at a time; nudges that arrive meanwhile go into the next, each resource once. The job of a single resource
 * has it as deduplication id, which the worker removes before it fetches rows: so a hot queue has one waiting job at most,
 * and a dropped nudge is for rows that this job will fetch.
 */
export function createNudger(redis_url: string, redis_prefix: string, log: Log): Nudger {
  // commandTimeout: a Redis that hangs must not block the one request in flight.
  const connection = openRedis(redis_url, log, { commandTimeout: 2_000 })
  const queue = new Queue<NudgeJob>(QUEUE, {
    connection,
    prefix: bullPrefix(redis_prefix),
    skipWaitingForReady: true,
    skipVersionCheck: true,
    skipMetasUpdate: true,
    defaultJobOptions: {
      attempts: 5,
      backoff: { type: 'exponential', delay: 200, jitter: 0.5 },
      removeOnComplete: true,
      // Kept for operators: a week, and not without bound.
      removeOnFail: { age: 7 * 24 * 3600, count: 5_000 },
    },
  })
  queue.on('error', () => {})
  /** resource → bypass deduplication */
  let waiting = new Map<string, boolean>()
  let sending: Promise<void> | undefined

  async function send(): Promise<void> {
    while (waiting.size > 0) {
      const all = [...waiting]
      waiting = new Map()
      try {
        for (let i = 0; i < all.length; i += RESOURCES_PER_JOB) {
          const part = all.slice(i, i + RESOURCES_PER_JOB)
          const resources = part.map(([resource]) => resource)
          const [only] = part
          const deduplication = part.length === 1 && only && !only[1] ? { id: only[0] } : undefined
          await queue.add(JOB, { resources }, deduplication ? { deduplication } : {})
        }
      } catch (error) {
        log.debug({ error, resources: all.length }, 'nudge lost; the sweeper makes up for it')
      }
      await sleep(PACE_MS)
    }
    sending = undefined
  }

  return {
    nudge(resources, { force = false } = {}) {
      for (const resource of resources) waiting.set(resource, force || waiting.get(resource) === true)
      sending ??= Promise.resolve().then(send)
    },
    async close() {
      await sending
      await queue.close()
      connection.disconnect()
    },
  }
}

export interface ChargeQueue {
  /** Adds charge jobs for these purchases and bookings. Never throws, never waits. */
  enqueue(ids: Iterable<string>): void
  close(): Promise<void>
}

/** Jobs of one pipeline to Redis. */
const JOBS_PER_BULK = 500

/**
 * One job for a purchase or booking, with its id: while it waits or runs, BullMQ adds no other. The sweeper finds a step that
 * was written while the job was about to end.
 */
export function createChargeQueue(redis_url: string, redis_prefix: string, log: Log): ChargeQueue {
  const connection = openRedis(redis_url, log, { commandTimeout: 2_000 })
  const queue = new Queue<PaymentJob>(PAYMENTS, {
    connection,
    prefix: bullPrefix(redis_prefix),
    skipWaitingForReady: true,
    skipVersionCheck: true,
    skipMetasUpdate: true,
    // The row is the state: the sweeper adds a failed job again, and its id must be free by then.
    defaultJobOptions: { attempts: 1, removeOnComplete: true, removeOnFail: true },
  })
  queue.on('error', () => {})
  let waiting = new Set<string>()
  let sending: Promise<void> | undefined

  async function send(): Promise<void> {
    while (waiting.size > 0) {
      const all = [...waiting]
      waiting = new Set()
      try {
        for (let i = 0; i < all.length; i += JOBS_PER_BULK) {
          const part = all.slice(i, i + JOBS_PER_BULK)
          await queue.addBulk(part.map((id) => ({ name: 'pay', data: { id }, opts: { jobId: id } })))
        }
      } catch (error) {
        log.debug({ error, charges: all.length }, 'charge jobs lost; the sweeper makes up for them')
      }
    }
    sending = undefined
  }

  return {
    enqueue(ids) {
      for (const id of ids) waiting.add(id)
      if (waiting.size > 0) sending ??= Promise.resolve().then(send)
    },
    async close() {
      await sending
      await queue.close()
      connection.disconnect()
    },
  }
}
