/**
 * Connections to Redis, and the channels between API and workers. Invariant: a channel carries hints only. A lost message
 * costs its receiver a read of Postgres, or a nudge.
 */
import { once } from 'node:events'
import { Redis, type RedisOptions } from 'ioredis'
import type { Log } from './log.ts'

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

/**
 * Calls `onMessage` with the messages of a channel, from each time on that the connection is ready: a subscription ends with
 * its connection, and what is published in between is lost.
 */
export function subscribe(
  redis: Redis,
  channel: string,
  onMessage: (message: string) => void,
  onFailure: (error: unknown) => void,
): void {
  const send = () => void redis.subscribe(channel).catch(onFailure)
  redis.on('ready', send)
  if (redis.status === 'ready') send()
  redis.on('message', (from: string, message: string) => {
    if (from === channel) onMessage(message)
  })
}
