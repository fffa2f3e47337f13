/**
 * Connections to Redis, and the channels between API and workers. Invariant: a channel carries hints only. A lost message
 * only makes its receiver read Postgres once more, or send an unnecessary nudge.
 */
import { once } from 'node:events'
import { Redis, type RedisOptions } from 'ioredis'
import type { Log } from './log.ts'

/** Channel on which workers publish JSON arrays of settled ids (purchases, bookings and commands). */
export const settledChannel = (redis_prefix: string) => `${redis_prefix}settled`
/**
 * Channel on which a worker publishes whether a queue is hot, that is, whether the worker will poll it again without a
 * nudge.
 */
export const hotQueueChannel = (redis_prefix: string) => `${redis_prefix}hot`
export const formatHotQueue = (resource: string, hot: boolean) => `${hot ? '+' : '-'}${resource}`
export const parseHotQueue = (message: string) => ({ resource: message.slice(1), hot: message.startsWith('+') })

/** Milliseconds between attempts to reach Redis again: constant, so that recovery is not delayed by a long outage. */
const RECONNECT_MS = 200

const at = (url: string) => new URL(url).host
/** connection → why it is down: the error of a command does not say why */
const causes = new WeakMap<Redis, Error>()

/** Resolves when Redis answers; waits for a first connection that is still being made. @throws why Redis does not answer */
export async function pingRedis(redis: Redis): Promise<void> {
  const cause = causes.get(redis)
  if (cause) throw cause
  // once() rejects if the connection emits an error before it is ready.
  if (redis.status !== 'ready') await once(redis, 'ready')
  await redis.ping()
}

/**
 * Opens a connection for commands whose failure the caller handles: while Redis is down, commands fail at once and are not
 * queued. `level`: log level of the message about a failed connection. It is low by default, because a process has several
 * connections to one Redis, and watchDependencies reports once that Redis is down.
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
 * Calls `onMessage` with each message of a channel. It subscribes again each time the connection becomes ready: a subscription
 * ends with its connection, and messages published in between are lost.
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
