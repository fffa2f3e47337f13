/** Counts failed jobs without loading them: BullMQ keeps their ids in a sorted set, by the time of the failure. */
import type { Redis } from 'ioredis'
import { bullPrefix, QUEUES } from './bullmq.ts'

/** A failure counts as recent for this time, in milliseconds. */
const RECENT_MS = 60_000

export interface FailedJobs {
  queue: string
  /** jobs that BullMQ keeps for operators; only those of the queues of resources are kept */
  count: number
  recent: number
}

/** Returns the number of failed jobs of each queue. */
export async function readFailedJobs(redis: Redis, redis_prefix: string): Promise<FailedJobs[]> {
  return await Promise.all(
    Object.values(QUEUES).map(async (queue) => {
      const key = `${bullPrefix(redis_prefix)}:${queue}:failed`
      const since_ms = Date.now() - RECENT_MS
      const [count, recent] = await Promise.all([redis.zcard(key), redis.zcount(key, since_ms, '+inf')])
      return { queue, count, recent }
    }),
  )
}
