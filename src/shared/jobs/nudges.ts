/**
 * Jobs that tell the workers which queues have rows. Invariant: a nudge is a hint. The rows are in Postgres, and the sweeper
 * makes up for a lost job.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../log.ts'
import { openProducerRedis, openQueue, QUEUES } from './bullmq.ts'

const JOB = 'purchase'
export interface NudgeJob {
  resources: string[]
}

export type Nudge = (resources: Iterable<string>, options?: { force?: boolean }) => void

export interface Nudger {
  /**
   * Adds jobs for these queues, because they have rows, in the background. Never throws, never waits. `force` bypasses
   * deduplication: the job that holds a queue's deduplication id may belong to a killed worker.
   */
  nudge: Nudge
  close(): Promise<void>
}

/**
 * Maximum number of resources in one job: enough that cold queues share the cost of a job, few enough that workers share the
 * queues.
 */
const RESOURCES_PER_JOB = 128
/** Milliseconds between two jobs of a process: nudges that arrive meanwhile share the next job. */
const PACE_MS = 10

/**
 * Creates a nudger, which adds one job at a time; nudges that arrive meanwhile go into the next job, each resource once. The
 * job of a single resource has this resource as its deduplication id. A worker removes the deduplication id before it fetches
 * rows. So a hot queue has one waiting job at most, and when BullMQ drops a nudge as a duplicate, the waiting job fetches its
 * rows.
 */
export function createNudger(redis_url: string, redis_prefix: string, log: Log): Nudger {
  const redis = openProducerRedis(redis_url, log)
  const queue = openQueue<NudgeJob>(QUEUES.nudges, redis, redis_prefix, {
    attempts: 5,
    backoff: { type: 'exponential', delay: 200, jitter: 0.5 },
    removeOnComplete: true,
    // Keep failed jobs for operators: for a week, and only a limited number.
    removeOnFail: { age: 7 * 24 * 3600, count: 5_000 },
  })
  /** resource → true if its job must bypass deduplication */
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
      redis.disconnect()
    },
  }
}
