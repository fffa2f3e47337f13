/**
 * Schedules deliveries: one worker at a time (under a lease) polls for streams with undelivered events and adds a
 * BullMQ job for each. Invariant: jobs are only hints. The state is in Postgres, and the next poll adds another job for
 * a lost one.
 */
import type { Queue } from 'bullmq'
import type { Config } from '../../shared/config.ts'
import { type Client, CONNECTIONS, openDb } from '../../shared/db/client.ts'
import { openProducerRedis, openQueue, openWorker, QUEUES } from '../../shared/jobs/bullmq.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { createHorizon } from '../../shared/outbox.ts'
import { every } from '../../shared/timeout.ts'
import { Deliveries } from './delivery.ts'
import { createPoster } from './http-sender.ts'
import { advanceStreams, type DeliveryStream, dueStreams, hasEndpoints, prune } from './streams.ts'

/** Milliseconds between polls: the longest delay that polling adds to a webhook. */
const POLL_MS = 250
/** Milliseconds between deletions of old events. */
const PRUNE_MS = 60_000
/** Time limit of one statement, and of one step of a poll, after which another worker may poll; in milliseconds. */
const STATEMENT_MS = 8_000
const STEP_MS = 12_000
/** Most streams that one worker delivers concurrently. */
const CONCURRENT_STREAMS = 32

export interface WebhookJobsDeps {
  config: Pick<Config, 'database_url' | 'redis_url' | 'redis_prefix' | 'lease_ttl_ms' | 'webhooks'>
  locks: Locks
  metrics: Metrics
  log: Log
}

interface Poll {
  client: Client
  locks: Locks
  horizon: ReturnType<typeof createHorizon>
  queue: Queue<DeliveryStream>
}

/** Polls once, if this worker gets the lease. */
async function scheduleDue({ client, locks, horizon, queue }: Poll): Promise<void> {
  if (!(await hasEndpoints(client))) return
  const lease = await locks.tryAcquire('sweep:webhooks', { progress_ms: STEP_MS })
  if (!lease) return
  try {
    const final = await horizon.poll()
    lease.progress()
    if (final !== undefined) await advanceStreams(client, final)
    lease.progress()
    const streams = await dueStreams(client)
    // Add one job per stream: while a job waits or runs, BullMQ adds no other job with its id. An id must not contain a
    // colon.
    await queue.addBulk(
      streams.map((stream) => ({
        name: 'deliver',
        data: stream,
        opts: { jobId: `${stream.endpoint}/${stream.resource.replace(':', '/')}` },
      })),
    )
  } finally {
    await lease.release()
  }
}

async function pruneOld(client: Client, locks: Locks, keep_days: number): Promise<void> {
  const lease = await locks.tryAcquire('sweep:outbox', { progress_ms: 2 * STEP_MS })
  if (!lease) return
  try {
    while (await prune(client, keep_days)) {
      lease.assertValid()
      lease.progress()
    }
  } finally {
    await lease.release()
  }
}

export function startWebhookJobs({ config, locks, metrics, log }: WebhookJobsDeps) {
  const { redis_url, redis_prefix, lease_ttl_ms: ttl_ms, webhooks: limits } = config
  const db = openDb(config.database_url, {
    max: CONNECTIONS.worker.webhooks,
    name: 'holdfast-webhooks',
    idle_in_transaction_ms: ttl_ms,
    statement_ms: STATEMENT_MS,
    // If a crash of Postgres loses progress, an event is delivered twice. That costs less than an fsync for every
    // event.
    settings: { synchronous_commit: 'off' },
  })
  const { client } = db
  const poster = createPoster(limits)
  const webhooks = new Deliveries({ client, locks, poster, config: limits, metrics, log })
  const horizon = createHorizon(client)
  const redis = openProducerRedis(redis_url, log)
  // Remove a failed job at once: the next poll adds it again for its stream, and its id must be free by then.
  const job_options = { attempts: 1, removeOnComplete: true, removeOnFail: true }
  const queue = openQueue<DeliveryStream>(QUEUES.webhooks, redis, redis_prefix, job_options)
  const jobs = openWorker<DeliveryStream>(QUEUES.webhooks, async ({ data }) => await webhooks.process(data), {
    redis_url,
    redis_prefix,
    log,
    concurrency: CONCURRENT_STREAMS,
    ttl_ms,
    onFailed: (job, error) =>
      log.debug({ stream: job?.data, error }, 'webhook job failed; the next poll adds it again'),
  })

  const stopScheduling = every(
    POLL_MS,
    () => scheduleDue({ client, locks, horizon, queue }),
    (error) => log.debug({ error }, 'poll of the delivery streams failed; will retry'),
  )
  const stopPruning = every(
    PRUNE_MS,
    () => pruneOld(client, locks, limits.keep_days),
    (error) => log.debug({ error }, 'deletion of old events failed; will retry'),
  )

  return {
    async close() {
      await Promise.all([stopScheduling(), stopPruning()])
      webhooks.stop()
      await jobs.close()
      await queue.close()
      poster.close()
      redis.disconnect()
      await db.close()
    },
  }
}
