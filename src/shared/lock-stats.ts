/**
 * Statistics of the locks of the whole fleet. Invariant: counting is an addition in memory and never waits, so an outage of
 * Redis costs figures, not locks. Each process adds its counts to one Redis hash per hour, once a second; a reader sums the
 * hashes of several hours.
 */
import type { Redis } from 'ioredis'
import type { LockEvents } from './locks/api.ts'
import { every, withTimeout } from './timeout.ts'

const FLUSH_MS = 1_000
/** Milliseconds within which Redis must answer. */
const ANSWER_MS = 1_000
const HOUR_MS = 3_600_000
/** Hours for which Redis keeps the statistics: a week shows what is usual at this time of the week. */
export const MAX_HOURS = 168

/**
 * Buckets of waits and holds: bucket n ends at 2^(n/4) ms, from 2^-3 ms to a day. A quantile is reported as the end of
 * its bucket, so it is never too low and at most 19 % (a factor of 2^(1/4)) too high. The processes report histograms, because
 * histograms can be added up and quantiles cannot.
 */
const STEPS = 4
const [FIRST, LAST] = [-12, 106]
const bucketOf = (ms: number) => Math.min(Math.max(Math.ceil(STEPS * Math.log2(ms)), FIRST), LAST)
const endOf = (bucket: number) => Math.round(1000 * 2 ** (bucket / STEPS)) / 1000

export interface Quantiles {
  /** Milliseconds; null when nothing was counted. */
  p50: number | null
  p95: number | null
  p99: number | null
}

export interface LockStatistics {
  /** Milliseconds since 1970: the full hour at which counting begins. */
  since_ms: number
  acquisitions: number
  /** The sum of the three reasons below. */
  failures: number
  timeouts: number
  aborted: number
  unreachable: number
  contentions: number
  lost: number
  fencing_rejections: number
  /** acquisitions / (acquisitions + failures); null when no lock was requested. */
  success_rate: number | null
  wait_ms: Quantiles
  hold_ms: Quantiles
}

export interface LockStats {
  /** Counts these events. */
  readonly events: Required<Pick<LockEvents, 'acquired' | 'failed' | 'contended' | 'lost' | 'released'>>
  /** Counts a write of a superseded holder that the database refused. */
  onStaleWrite(): void
  /** Writes the counts to Redis. If Redis does not answer, it rejects and keeps the counts for the next flush. */
  flush(): Promise<void>
  /**
   * Returns the figures of the whole fleet for the last hours, including those of this process up to now.
   * @throws the error of Redis
   */
  read(hours: number): Promise<LockStatistics>
  close(): Promise<void>
}

/**
 * reason of a failure → its counter. A wait that ends because its process stops counts as aborted, as if its caller had
 * disconnected.
 */
const FAILURES = { lock_busy: 'timeouts', aborted: 'aborted', closed: 'aborted', unreachable: 'unreachable' } as const

/** Starts to count and to flush. The caller closes `redis`. */
export function createLockStats({ redis, prefix }: { redis: Redis; prefix: string }): LockStats {
  let counts = new Map<string, number>()
  let sending: Promise<void> | undefined
  const keyOf = (hour: number) => `${prefix}lock:stats:${hour}`
  const hourNow = () => Math.floor(Date.now() / HOUR_MS)

  function add(field: string, by = 1): void {
    counts.set(field, (counts.get(field) ?? 0) + by)
  }

  async function send(): Promise<void> {
    const flushed = counts
    counts = new Map()
    try {
      await addCounts(redis, keyOf(hourNow()), flushed)
    } catch (error) {
      // If only the answer was lost, the counts of one second count twice. That is better than a gap at each failover of Redis.
      for (const [field, count] of flushed) add(field, count)
      throw error
    }
  }

  async function flush(): Promise<void> {
    if (!sending && counts.size > 0) {
      sending = send().finally(() => {
        sending = undefined
      })
    }
    // Send one request at a time: if Redis hangs, one request waits for it and further counts wait in memory.
    if (sending) await withTimeout(sending, ANSWER_MS)
  }

  // A flush that fails keeps its counts for the next one.
  const stopFlushing = every(FLUSH_MS, flush, () => {})

  return {
    events: {
      acquired(_resource, waited_ms) {
        add('acquisitions')
        add(`wait:${bucketOf(waited_ms)}`)
      },
      failed: (_resource, reason) => add(FAILURES[reason]),
      contended: () => add('contentions'),
      lost: () => add('lost'),
      released: (_resource, held_ms) => add(`hold:${bucketOf(held_ms)}`),
    },

    onStaleWrite: () => add('fencing_rejections'),

    flush,

    async read(hours) {
      await flush()
      // Flush again: events may have been counted while an earlier flush was running.
      await flush()
      const last = hourNow()
      const first = last - hours + 1
      const keys = Array.from({ length: hours }, (_, n) => keyOf(first + n))
      return { since_ms: first * HOUR_MS, ...summary(await withTimeout(sumCounts(redis, keys), ANSWER_MS)) }
    },

    async close() {
      void stopFlushing()
      await flush().catch(() => {})
    },
  }
}

/** Adds all counts or none: a partly counted hour would report a wrong success rate. */
async function addCounts(redis: Redis, key: string, counts: ReadonlyMap<string, number>): Promise<void> {
  const transaction = redis.multi()
  for (const [field, count] of counts) transaction.hincrby(key, field, count)
  transaction.expire(key, ((MAX_HOURS + 1) * HOUR_MS) / 1000)
  await transaction.exec()
}

/** Returns the sums of the counts of these hours, by field. */
async function sumCounts(redis: Redis, keys: readonly string[]): Promise<Map<string, number>> {
  const hashes = await Promise.all(keys.map((key) => redis.hgetall(key)))
  const sums = new Map<string, number>()
  for (const [field, count] of hashes.flatMap((hash) => Object.entries(hash))) {
    sums.set(field, (sums.get(field) ?? 0) + Number(count))
  }
  return sums
}

function summary(sums: ReadonlyMap<string, number>): Omit<LockStatistics, 'since_ms'> {
  const of = (field: string) => sums.get(field) ?? 0
  const acquisitions = of('acquisitions')
  const [timeouts, aborted, unreachable] = [of('timeouts'), of('aborted'), of('unreachable')]
  const failures = timeouts + aborted + unreachable
  const attempts = acquisitions + failures
  return {
    acquisitions,
    failures,
    timeouts,
    aborted,
    unreachable,
    contentions: of('contentions'),
    lost: of('lost'),
    fencing_rejections: of('fencing_rejections'),
    success_rate: attempts === 0 ? null : acquisitions / attempts,
    wait_ms: quantiles(sums, 'wait:'),
    hold_ms: quantiles(sums, 'hold:'),
  }
}

function quantiles(sums: ReadonlyMap<string, number>, start: string): Quantiles {
  const buckets = [...sums]
    .filter(([field]) => field.startsWith(start))
    .map(([field, count]): [bucket: number, count: number] => [Number(field.slice(start.length)), count])
    .sort(([a], [b]) => a - b)
  const total = buckets.reduce((sum, [, count]) => sum + count, 0)
  const at = (share: number): number | null => {
    let rest = Math.ceil(share * total)
    for (const [bucket, count] of buckets) {
      rest -= count
      if (rest <= 0) return endOf(bucket)
    }
    return null
  }
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}
