/**
 * The reports of the fleet: each API and worker process writes what it is and does to one Redis hash, once a second, and any
 * process can read them. Invariants: a process waits for the answer to one report before it sends the next, so a Redis that
 * hangs costs one pending command; times are by the clock of Redis, because the clocks of the processes may differ.
 */
import { hostname } from 'node:os'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Redis } from 'ioredis'
import packageJson from '../../package.json' with { type: 'json' }
import type { Breaker, BreakerState, Failing } from './breaker.ts'
import type { Metrics } from './metrics.ts'
import { every, withTimeout } from './timeout.ts'

/** Milliseconds between two reports of a process. */
const REPORT_MS = 1_000
/** Milliseconds that a process waits for the removal of its report while it stops. */
const REMOVE_MS = 500
/** Milliseconds after which Redis drops the reports of a fleet that has stopped as a whole. */
const KEPT_MS = 600_000

const { version } = packageJson
/** host:pid, as the owner of a lease begins */
export const PROCESS_ID = `${hostname()}:${process.pid}`

export type Role = 'api' | 'worker'

/** What a process reports about itself. Counters begin with its start. */
export interface ProcessReport {
  role: Role
  host: string
  version: string
  started_at: string
  /** milliseconds since its start, so that a reader knows its start by the clock of Redis */
  uptime_ms: number
  event_loop_p99_ms: number
  /** the queues that it drains now */
  queues: string[]
  breakers: Record<string, BreakerState>
  /** breaker → for how long its calls have failed; without those whose newest call has succeeded */
  failing: Record<string, Failing>
  errors_per_minute: number
  /** rows that it has settled since its start */
  settled: number
  /** number of these rows that waited at most SECONDS[n] (metrics.ts) from insert to settlement; the last counts all */
  waits: number[]
}

/** A report as a reader finds it. */
export interface SeenProcess extends ProcessReport {
  /** host:pid */
  id: string
  /** time of the report in milliseconds since 1970, by the clock of Redis */
  seen_ms: number
}

const keyOf = (prefix: string) => `${prefix}fleet:processes`

/** Stores the report with the time of Redis in front. A script, because a separate TIME would cost a second round trip. */
const REPORT = `
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d%03d', time[1], math.floor(time[2] / 1000)) .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])`
/** Number of digits of a time in milliseconds since 1970, until the year 2286. */
const DIGITS = 13

export interface Reporter {
  close(): Promise<void>
}

interface ReporterOptions {
  role: Role
  /** a connection that the process has anyway; the caller closes it */
  redis: Redis
  prefix: string
  metrics: Pick<Metrics, 'errors' | 'settlement_batch_rows' | 'settlement_latency_seconds'>
  breakers: readonly Breaker[]
  /** returns the queues that the process drains now */
  drained(): string[]
}

/** Most queues that a report names. */
const NAMED_QUEUES = 20
/** Milliseconds between two samples of the event loop: a delay is what a sample is late. */
const LOOP_SAMPLE_MS = 20
const MINUTE_MS = 60_000

/** Reports once a second until close(), which removes the report: a process that has stopped is not missed. */
export function startReporting(options: ReporterOptions): Reporter {
  const { redis, prefix } = options
  const key = keyOf(prefix)
  const { describe, close } = createDescription(options)
  let closed = false

  async function report(): Promise<void> {
    const text = JSON.stringify(await describe())
    if (!closed) await redis.eval(REPORT, 1, key, PROCESS_ID, text, KEPT_MS)
  }

  // A report that fails is followed by another one; watchDependencies logs that Redis is down.
  const ignore = () => {}
  void report().catch(ignore)
  const stop = every(REPORT_MS, report, ignore)
  return {
    async close() {
      closed = true
      close()
      void stop()
      // Redis answers in order: a report that is under way is stored, and then removed.
      await withTimeout(redis.hdel(key, PROCESS_ID), REMOVE_MS).catch(ignore)
    },
  }
}

/** Returns the function that describes this process now. It reads what the process counts anyway. */
function createDescription({ role, metrics, breakers, drained }: ReporterOptions) {
  const started_ms = Date.now()
  const loop = monitorEventLoopDelay({ resolution: LOOP_SAMPLE_MS })
  loop.enable()
  /** number of errors at each report of the last minute, oldest first */
  const errors = [0]

  async function describe(): Promise<ProcessReport> {
    // The histogram contains the intervals between the samples. It is empty at first: then the percentile is 0 or NaN.
    const p99_ms = loop.percentile(99) / 1e6 - LOOP_SAMPLE_MS
    loop.reset()
    const [all, batches, latencies] = await Promise.all([
      metrics.errors.get(),
      metrics.settlement_batch_rows.get(),
      metrics.settlement_latency_seconds.get(),
    ])
    errors.push(all.values.reduce((sum, { value }) => sum + value, 0))
    if (errors.length > 1 + MINUTE_MS / REPORT_MS) errors.shift()
    return {
      role,
      host: hostname(),
      version,
      started_at: new Date(started_ms).toISOString(),
      uptime_ms: Date.now() - started_ms,
      event_loop_p99_ms: p99_ms > 0 ? Math.round(p99_ms * 10) / 10 : 0,
      queues: drained().slice(0, NAMED_QUEUES),
      breakers: Object.fromEntries(breakers.map((breaker) => [breaker.name, breaker.state()])),
      failing: Object.fromEntries(
        breakers.flatMap((breaker) => {
          const failing = breaker.failing()
          return failing ? [[breaker.name, failing]] : []
        }),
      ),
      errors_per_minute: (errors.at(-1) ?? 0) - (errors[0] ?? 0),
      settled: batches.values.find(({ metricName }) => metricName?.endsWith('_sum'))?.value ?? 0,
      waits: latencies.values.flatMap(({ metricName, value }) => (metricName?.endsWith('_bucket') ? [value] : [])),
    }
  }

  return { describe, close: () => void loop.disable() }
}

/** Returns the reports of all processes, and the present time of Redis. */
export async function readReports(redis: Redis, prefix: string): Promise<{ now_ms: number; processes: SeenProcess[] }> {
  const [[seconds, micros], all] = await Promise.all([redis.time(), redis.hgetall(keyOf(prefix))])
  const processes = Object.entries(all).map(([id, text]) => ({
    id,
    seen_ms: Number(text.slice(0, DIGITS)),
    ...(JSON.parse(text.slice(DIGITS)) as ProcessReport),
  }))
  return { now_ms: Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000), processes }
}

/** Removes the reports of these processes. */
export async function removeReports(redis: Redis, prefix: string, ids: readonly string[]): Promise<void> {
  if (ids.length > 0) await redis.hdel(keyOf(prefix), ...ids)
}
