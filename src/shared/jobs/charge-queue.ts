/**
 * Jobs that tell the workers which charges have a next step. Invariant: a job is a hint. The step is in Postgres, and the
 * sweeper makes up for a lost job.
 */
import type { Log } from '../log.ts'
import { openProducerRedis, openQueue, QUEUES } from './bullmq.ts'

export interface ChargeJob {
  /** id of a purchase or booking */
  id: string
}

export interface ChargeQueue {
  /** Adds charge jobs for these purchases and bookings in the background. Never throws, never waits. */
  enqueue(ids: Iterable<string>): void
  close(): Promise<void>
}

/** Maximum number of jobs in one pipeline to Redis. */
const JOBS_PER_BULK = 500

/**
 * Creates the queue of charge jobs. The job id is the id of the purchase or booking, so BullMQ adds no second job while the
 * first one waits or runs. If a step is written while that job is about to end, the sweeper finds the step.
 */
export function createChargeQueue(redis_url: string, redis_prefix: string, log: Log): ChargeQueue {
  const redis = openProducerRedis(redis_url, log)
  // Remove finished jobs: the state is in the row, so the sweeper adds a failed job again, and the job id must be free by then.
  const job_options = { attempts: 1, removeOnComplete: true, removeOnFail: true }
  const queue = openQueue<ChargeJob>(QUEUES.charges, redis, redis_prefix, job_options)
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
      redis.disconnect()
    },
  }
}
