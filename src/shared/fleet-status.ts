/**
 * What workers have seen of the whole fleet and of themselves, kept in Redis for every process to show. Invariant: what is too old to be
 * true is gone, so nobody shows a verdict that no longer stands for anything.
 */
import type { Redis } from 'ioredis'
import type { Breaker, BreakerState } from './breaker.ts'

/** Who stands in line, everywhere. */
export interface QueueFigures {
  /** purchases, bookings and commands that are queued */
  rows: number
  /** since the oldest head of a line came, in seconds; 0 when nobody waits */
  oldest_s: number
  /** queues that do not move while their lease is held, with the holder; absent when the lock server did not answer */
  blocked?: string[]
  /** charges and refunds that have not moved for an hour */
  stuck_charges: number
}

/** The quick invariants of `npm run verify`. */
export interface VerificationResult {
  /** by the verifier's wall clock */
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
  seen: FleetStatus,
  lives_ms: number,
): Promise<void> {
  for (const name of KEYS) {
    if (seen[name]) await redis.set(keyOf(prefix, name), JSON.stringify(seen[name]), 'PX', lives_ms)
  }
}

/** Circuit breakers of one worker. */
export interface WorkerBreakers {
  /** host:pid */
  process: string
  breakers: Record<string, BreakerState>
}

const breakersKey = (prefix: string) => `${prefix}watched:breakers`
/** What a worker has told of itself is gone after so long: it has told again three times since, or it is gone too. */
const REPORT_TTL_MS = 15_000

export const breakerStates = (breakers: readonly Breaker[]): WorkerBreakers['breakers'] =>
  Object.fromEntries(breakers.map((breaker) => [breaker.name, breaker.state()]))

/** Redis's clock: those of workers and readers may differ by more than an entry lives. */
const serverMs = async (redis: Redis) => Number((await redis.time())[0]) * 1_000

export async function reportBreakers(redis: Redis, prefix: string, told: WorkerBreakers): Promise<void> {
  const { process, breakers } = told
  const key = breakersKey(prefix)
  await redis.hset(key, process, JSON.stringify({ at_ms: await serverMs(redis), breakers }))
  await redis.pexpire(key, REPORT_TTL_MS)
}

/** By process. Entries of workers that are gone are removed on the way. */
export async function readBreakers(redis: Redis, prefix: string): Promise<WorkerBreakers[]> {
  const key = breakersKey(prefix)
  const [now_ms, all] = await Promise.all([serverMs(redis), redis.hgetall(key)])
  const told = Object.entries(all).map(([process, text]) => {
    const { at_ms, breakers } = JSON.parse(text) as { at_ms: number } & Pick<WorkerBreakers, 'breakers'>
    return { process, breakers, old: now_ms - at_ms > REPORT_TTL_MS }
  })
  const gone = told.filter(({ old }) => old).map(({ process }) => process)
  if (gone.length > 0) await redis.hdel(key, ...gone)
  return told.filter(({ old }) => !old).map(({ process, breakers }) => ({ process, breakers }))
}
