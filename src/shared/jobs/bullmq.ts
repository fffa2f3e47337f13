/**
 * The BullMQ queues and their workers. Invariant: a job is a hint. The state is in Postgres, the sweeper or the next poll makes
 * up for a lost job, and a job that runs twice does no harm.
 */
import { type DefaultJobOptions, type Job, Queue, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import type { Log } from '../log.ts'
import { openRedis } from '../redis.ts'

/** Names of the queues in Redis. The old and the new version share them during a deployment, so they must not change. */
export const QUEUES = {
  /** a job names the resources whose queues have rows */
  nudges: 'purchases',
  /** a job names a purchase or booking whose charge has a next step */
  charges: 'payments',
  /** a job names a delivery stream; only workers add and run these jobs */
  webhooks: 'webhooks',
} as const
type QueueName = (typeof QUEUES)[keyof typeof QUEUES]

export const bullPrefix = (redis_prefix: string) => `${redis_prefix}bull`

/** Time limit of one producer command, in milliseconds: a Redis that hangs must not block the one request in flight. */
const COMMAND_MS = 2_000

/** Opens a connection for adding jobs; its commands fail at once while Redis is away. */
export const openProducerRedis = (redis_url: string, log: Log): Redis =>
  openRedis(redis_url, log, { commandTimeout: COMMAND_MS })

/** Opens a queue for adding jobs, which sends no command by itself. The caller closes the queue, then the connection. */
export function openQueue<Data>(
  name: QueueName,
  redis: Redis,
  redis_prefix: string,
  defaultJobOptions: DefaultJobOptions = {},
): Queue<Data> {
  const queue = new Queue<Data>(name, {
    connection: redis,
    prefix: bullPrefix(redis_prefix),
    skipWaitingForReady: true,
    skipVersionCheck: true,
    skipMetasUpdate: true,
    defaultJobOptions,
  })
  // Ignore the queue's error events: openRedis logs why a connection failed, and each command rejects.
  queue.on('error', () => {})
  return queue
}

export interface WorkerOptions<Data> {
  redis_url: string
  redis_prefix: string
  log: Log
  /** jobs that this process runs at the same time */
  concurrency: number
  /** TTL of the leases that the jobs hold, in milliseconds */
  ttl_ms: number
  onFailed(job: Job<Data> | undefined, error: Error): void
}

/** Runs `handler` for each job of the queue until close(); close() waits for the running jobs. */
export function openWorker<Data>(
  name: QueueName,
  handler: (job: Job<Data>) => Promise<void>,
  { redis_url, redis_prefix, log, concurrency, ttl_ms, onFailed }: WorkerOptions<Data>,
): { close(): Promise<void> } {
  const redis = openRedis(redis_url, log, { maxRetriesPerRequest: null, enableOfflineQueue: true })
  const worker = new Worker<Data>(name, handler, {
    connection: redis,
    prefix: bullPrefix(redis_prefix),
    concurrency,
    // With the TTL, the job of a killed worker comes back about when the worker's leases end, not after BullMQ's 30 seconds.
    lockDuration: ttl_ms,
    stalledInterval: Math.ceil(ttl_ms / 2),
    // Retry a job however often its worker dies: that does no harm. With BullMQ's default of 1, the second crash would fail it.
    maxStalledCount: 1_000,
  })
  worker.on('error', (error) => log.debug({ error }, 'bullmq worker error'))
  worker.on('failed', onFailed)
  return {
    async close() {
      try {
        await worker.close()
      } finally {
        redis.disconnect()
      }
    },
  }
}
