/**
 * The history of the fleet's figures: a sample every ten seconds, whether a page is open or not, for a day. Invariants: one API
 * process collects a sample for all of them, and two that do so at once write one row; an outage of Postgres leaves no gap,
 * because samples wait in memory until it is back.
 */
import { lt, type SQL, sql } from 'drizzle-orm'
import type { Redis } from 'ioredis'
import type { Client } from '../../shared/db/client.ts'
import { fleetSamples } from '../../shared/db/schema.ts'
import { build, listOf, prepare, type Statement, value } from '../../shared/db/statements.ts'
import { takeTurn } from '../../shared/fleet-status.ts'
import type { Log } from '../../shared/log.ts'
import { SECONDS } from '../../shared/metrics.ts'
import { shareRunning, withTimeout } from '../../shared/timeout.ts'
import type { Collected } from './collector.ts'
import type { FleetProcess } from './facts.ts'

/** Milliseconds between two samples: a day is 8,640 rows. */
const STEP_MS = 10_000
/** Hours for which samples are kept. */
const KEPT_H = 24
/** Most samples that wait in memory while Postgres is away: an hour. */
const WAITING = 360
/** Time limit for Redis, in milliseconds. Without its answer each process collects the sample. */
const REDIS_MS = 1_000
/** Milliseconds for which the counters of the last sample are kept: some samples, in case a process misses its turn. */
const COUNTED_MS = 60_000

type FleetSample = typeof fleetSamples.$inferSelect

/** What a process had counted at the last sample. */
interface Counted {
  seen_ms: number
  settled: number
  waits: number[]
}

export interface SamplerOptions {
  /** the dashboard's connection */
  client: Client
  redis: Redis
  prefix: string
  collect(): Promise<Collected>
  log: Log
}

/** Samples at each multiple of STEP_MS of the clock, until close(). */
export function startSampling(options: SamplerOptions): { close(): void } {
  const { log } = options
  const waiting: FleetSample[] = []
  const takesTurn = createTurns(options)
  let timer: NodeJS.Timeout | undefined
  let closed = false

  function schedule(): void {
    timer = setTimeout(() => void run(), STEP_MS - (Date.now() % STEP_MS)).unref()
  }

  async function run(): Promise<void> {
    // A timer may be early by a millisecond.
    const at = new Date(Math.round(Date.now() / STEP_MS) * STEP_MS)
    try {
      if (await takesTurn()) await sampleOnce(options, at, waiting)
    } catch (error) {
      log.debug({ error }, 'the sample of the fleet was not stored; will retry')
    }
    if (!closed) schedule()
  }

  schedule()
  return {
    close() {
      closed = true
      clearTimeout(timer)
    },
  }
}

/** The function returns true to one process per sample, and to each of them while Redis does not answer. */
function createTurns({ redis, prefix }: SamplerOptions): () => Promise<boolean> {
  // A Redis that hangs gets no further command.
  const takesTurn = shareRunning(() => takeTurn(redis, prefix, 'sample', STEP_MS))
  return () => withTimeout(takesTurn(), REDIS_MS).catch(() => true)
}

/** Collects a sample, and stores it with those that still wait. Rejects if Postgres does not answer; then they go on waiting. */
export async function sampleOnce(options: SamplerOptions, at: Date, waiting: FleetSample[]): Promise<void> {
  const { client, redis, prefix } = options
  const { facts, snapshot } = await options.collect()
  const { condition, throughput } = snapshot
  const processes = facts.processes ?? []
  const last = await exchangeCounted(redis, prefix, processes).catch(() => undefined)
  waiting.push({
    at: at.toISOString(),
    ...(last ? settledSince(last, processes) : { per_second: null, wait_p50_ms: null, wait_p95_ms: null }),
    queued: facts.queues && queuedRows(snapshot, facts.figures?.rows),
    oldest_s: facts.queues && Math.round((facts.queues[0]?.oldest_ms ?? 0) / 100) / 10,
    errors_per_minute: throughput.errors_per_minute,
    level: condition.level,
    sentence: condition.sentence,
  })
  if (waiting.length > WAITING) waiting.shift()
  if (facts.dependencies.some(({ name, down }) => name === 'postgres' && down !== undefined)) return
  const stored = [...waiting]
  await insertSql(client, sampleList.values(stored))
  waiting.splice(0, stored.length)
  await pruneSql(client)
}

/** Replaces the stored counters by those of the processes. Returns the former ones; undefined if there were none. */
async function exchangeCounted(
  redis: Redis,
  prefix: string,
  processes: readonly FleetProcess[],
): Promise<Record<string, Counted> | undefined> {
  if (processes.length === 0) return undefined
  const counted = processes.map(({ id, seen_ms, settled, waits }) => [id, { seen_ms, settled, waits }])
  const text = JSON.stringify(Object.fromEntries(counted))
  const last = await withTimeout(redis.set(`${prefix}fleet:counted`, text, 'PX', COUNTED_MS, 'GET'), REDIS_MS)
  return last === null ? undefined : (JSON.parse(last) as Record<string, Counted>)
}

/**
 * Returns what the processes have settled since they were last counted. What a process has counted after its last sample is lost
 * when it ends.
 */
export function settledSince(last: Readonly<Record<string, Counted>>, processes: readonly FleetProcess[]) {
  let per_second = 0
  const waits = SECONDS.map(() => 0)
  let counted = 0
  for (const { id, seen_ms, uptime_ms, settled, waits: now } of processes) {
    const before = last[id]
    // A process that has started since, perhaps under the id of an earlier one, has counted all of it since then.
    const isNew = !before || settled < before.settled
    const seconds = (isNew ? uptime_ms : seen_ms - before.seen_ms) / 1_000
    if (seconds <= 0) continue
    per_second += (settled - (isNew ? 0 : before.settled)) / seconds
    SECONDS.forEach((_end, n) => {
      waits[n] = (waits[n] ?? 0) + (now[n] ?? 0) - (isNew ? 0 : (before.waits[n] ?? 0))
    })
    counted += (now.at(-1) ?? 0) - (isNew ? 0 : (before.waits.at(-1) ?? 0))
  }
  return {
    per_second: Math.round(per_second * 10) / 10,
    wait_p50_ms: quantileMs(0.5, waits, counted),
    wait_p95_ms: quantileMs(0.95, waits, counted),
  }
}

/**
 * Returns the wait within which this share of the rows was settled; null if there were none. It interpolates within a bucket, as
 * Prometheus' histogram_quantile does; a wait beyond the last bucket counts as its end.
 */
function quantileMs(share: number, waits: readonly number[], counted: number): number | null {
  if (counted <= 0) return null
  const rank = share * counted
  const n = waits.findIndex((rows) => rows >= rank)
  const end = SECONDS[n]
  if (end === undefined) return (SECONDS.at(-1) ?? 0) * 1_000
  const [start, below] = n === 0 ? [0, 0] : [SECONDS[n - 1] ?? 0, waits[n - 1] ?? 0]
  const inBucket = (waits[n] ?? 0) - below
  return Math.round(1_000 * (start + (inBucket === 0 ? 0 : ((end - start) * (rank - below)) / inBucket)))
}

/** Adds up the shown queues. If some are not shown or not counted to their end, the fleet monitor's number is better. */
function queuedRows({ queues, more_queues }: Collected['snapshot'], measured: number | undefined): number {
  const shown = (queues ?? []).reduce((sum, { length }) => sum + length, 0)
  return more_queues > 0 || queues?.some(({ more }) => more) ? Math.max(shown, measured ?? 0) : shown
}

const sampleList = listOf('d', {
  at: fleetSamples.at,
  per_second: 'float8',
  wait_p50_ms: 'int',
  wait_p95_ms: 'int',
  queued: 'int',
  oldest_s: 'float8',
  errors_per_minute: 'int',
  level: 'text',
  sentence: 'text',
})
const insertSql = prepare(
  build
    .insert(fleetSamples)
    .select(sql`${build.select(sampleList.columns).from(sampleList.rows)}`)
    .onConflictDoNothing(),
)
const pruneSql = prepare(
  build.delete(fleetSamples).where(lt(fleetSamples.at, sql`now() - ${KEPT_H}::int * interval '1 hour'`)),
)

/** range → its length and the length of one step of it, in seconds: at most 360 steps */
export const RANGES = {
  '5m': { length_s: 300, step_s: 10 },
  '1h': { length_s: 3_600, step_s: 10 },
  '6h': { length_s: 21_600, step_s: 60 },
  '24h': { length_s: 86_400, step_s: 240 },
} as const
export type Range = keyof typeof RANGES

const rounded = (expression: SQL) => sql`round((${expression})::numeric, 1)::float8`
// Written as raw SQL: a step is as bad as its worst sample, whose sentence it has.
const stepsSql: Statement<FleetSample> = prepare<FleetSample>(sql`
  SELECT to_char(step AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at,
         ${rounded(sql`avg(per_second)`)} AS per_second, round(avg(wait_p50_ms))::int AS wait_p50_ms,
         max(wait_p95_ms) AS wait_p95_ms, max(queued) AS queued, ${rounded(sql`max(oldest_s)`)} AS oldest_s,
         max(errors_per_minute) AS errors_per_minute,
         (array_agg(level ORDER BY badness DESC, s.at))[1] AS level,
         (array_agg(sentence ORDER BY badness DESC, s.at))[1] AS sentence
  FROM (
    SELECT *, date_bin(${value('step_s')}::int * interval '1 second', fleet_samples.at, 'epoch') AS step,
           array_position('{green,amber,red}', level) AS badness
    FROM fleet_samples WHERE fleet_samples.at > now() - ${value('length_s')}::int * interval '1 second'
  ) s GROUP BY step ORDER BY step`)

/** Reads the samples of a range, oldest first, in steps. A step without a sample is missing. */
export const readSamples = (client: Client, range: Range): Promise<FleetSample[]> => stepsSql(client, RANGES[range])
