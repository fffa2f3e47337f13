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
  const redis = openProducerRedis(redis_url, log)
  const queue = openQueue<NudgeJob>(QUEUES.nudges, redis, redis_prefix, {
    attempts: 5,
    backoff: { type: 'exponential', delay: 200, jitter: 0.5 },
    removeOnComplete: true,
    // Kept for operators: a week, and not without bound.
    removeOnFail: { age: 7 * 24 * 3600, count: 5_000 },
  })
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
      redis.disconnect()
    },
  }
}
