/**
 * State of the whole fleet and of each worker. Workers write it to Redis, and every process can read it. Invariant: an entry
 * expires before it is too old to be true, so no process shows an outdated result.
 */
import type { Redis } from 'ioredis'
import type { Breaker, BreakerState } from './breaker.ts'

/** Figures about the queues of the whole fleet. */
export interface QueueFigures {
  /** purchases, bookings and commands that are queued */
  rows: number
  /** age of the oldest queued row, in seconds; 0 when there is none */
  oldest_s: number
  /** queues without progress while their lease is held, with the holder; absent when the lock server did not answer */
  blocked?: string[]
  /** charges and refunds without progress for an hour */
  stuck_charges: number
}

/** Result of the quick invariants of `npm run verify`. */
export interface VerificationResult {
  /** time of the verification, by the verifier's wall clock */
  at: string
  broken: { invariant: string; offenders: string[] }[]
}

export interface FleetStatus {
  lines?: QueueFigures
  verdict?: VerificationResult
}

const KEYS = ['lines', 'verdict'] as const
const keyOf = (prefix: string, name: (typeof KEYS)[number]) => `${prefix}watched:${name}`

export async function readFleetStatus(redis: Redis, prefix: string): Promise<FleetStatus> {
  const found = await redis.mget(KEYS.map((name) => keyOf(prefix, name)))
  return Object.fromEntries(KEYS.flatMap((name, i) => (found[i] ? [[name, JSON.parse(found[i])]] : [])))
}

export async function saveFleetStatus(
  redis: Redis,
  prefix: string,
  status: FleetStatus,
  ttl_ms: number,
): Promise<void> {
  for (const name of KEYS) {
    if (status[name]) await redis.set(keyOf(prefix, name), JSON.stringify(status[name]), 'PX', ttl_ms)
  }
}

/** States of the circuit breakers of one worker. */
export interface WorkerBreakers {
  /** host:pid */
  process: string
  breakers: Record<string, BreakerState>
}

const breakersKey = (prefix: string) => `${prefix}watched:breakers`
/** Milliseconds after which the report of a worker expires: the time of three reports; a worker that misses three is gone. */
const REPORT_TTL_MS = 15_000

export const breakerStates = (breakers: readonly Breaker[]): WorkerBreakers['breakers'] =>
  Object.fromEntries(breakers.map((breaker) => [breaker.name, breaker.state()]))

/**
 * Returns the time by the clock of Redis: the clocks of workers and readers may differ by more than the lifetime of an
 * entry.
 */
const serverMs = async (redis: Redis) => Number((await redis.time())[0]) * 1_000

export async function reportBreakers(redis: Redis, prefix: string, report: WorkerBreakers): Promise<void> {
  const { process, breakers } = report
  const key = breakersKey(prefix)
  await redis.hset(key, process, JSON.stringify({ at_ms: await serverMs(redis), breakers }))
  await redis.pexpire(key, REPORT_TTL_MS)
}

/** Returns the breaker states of each worker process. Also removes the entries of workers that are gone. */
export async function readBreakers(redis: Redis, prefix: string): Promise<WorkerBreakers[]> {
  const key = breakersKey(prefix)
  const [now_ms, all] = await Promise.all([serverMs(redis), redis.hgetall(key)])
  const report = Object.entries(all).map(([process, text]) => {
    const { at_ms, breakers } = JSON.parse(text) as { at_ms: number } & Pick<WorkerBreakers, 'breakers'>
    return { process, breakers, old: now_ms - at_ms > REPORT_TTL_MS }
  })
  const gone = report.filter(({ old }) => old).map(({ process }) => process)
  if (gone.length > 0) await redis.hdel(key, ...gone)
  return report.filter(({ old }) => !old).map(({ process, breakers }) => ({ process, breakers }))
}
