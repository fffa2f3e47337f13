/**
 * The BullMQ queues and their workers. Invariant: a job is a hint. The state is in Postgres, a sweep or the next poll makes up
 * for a lost job, and a job that runs twice does no harm.
 */
import { type DefaultJobOptions, type Job, Queue, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import type { Log } from '../log.ts'
import { openRedis } from '../redis.ts'

/** Their names in Redis, which the old and the new version share during a deployment. */
export const QUEUES = {
  /** a job names the resources whose queues have rows */
  nudges: 'purchases',
  /** a job names a purchase or booking whose charge has a next step */
  charges: 'payments',
  /** a job names a delivery stream; between the workers alone */
  webhooks: 'webhooks',
} as const
type QueueName = (typeof QUEUES)[keyof typeof QUEUES]

const bullPrefix = (redis_prefix: string) => `${redis_prefix}bull`

/** Milliseconds for one command of a producer: a Redis that hangs must not block the one request in flight. */
const COMMAND_MS = 2_000

/** A connection for adding jobs: fails at once while Redis is away. */
export const openProducerRedis = (redis_url: string, log: Log): Redis =>
  openRedis(redis_url, log, { commandTimeout: COMMAND_MS })

/** Sends no command by itself. The caller closes the queue, then the connection. */
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
  // openRedis logs why a connection failed, and each command fails by itself.
  queue.on('error', () => {})
  return queue
}

export interface WorkerOptions<Data> {
  redis_url: string
  redis_prefix: string
  log: Log
  /** jobs that this process runs at the same time */
  concurrency: number
  /** of the leases that the jobs hold, in milliseconds */
  ttl_ms: number
  onFailed(job: Job<Data> | undefined, error: Error): void
}

/** Runs `handler` for each job of the queue until close(), which waits for the running ones. */
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
    // A killed worker's job comes back about when its leases end, not after BullMQ's 30 seconds.
    lockDuration: ttl_ms,
    stalledInterval: Math.ceil(ttl_ms / 2),
    // A job does no harm however often its worker dies; at 1, the second crash would fail it.
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
