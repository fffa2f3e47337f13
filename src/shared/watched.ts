/**
 * What one worker has seen of the whole fleet, kept in Redis for every process to show. Invariant: what is too old to be
 * true is gone, so nobody shows a verdict that no longer stands for anything.
 */
import type { Redis } from 'ioredis'

/** Who stands in line, everywhere. */
export interface Lines {
  /** purchases, bookings and commands that are queued */
  rows: number
  /** since the oldest head of a line came, in seconds; 0 when nobody waits */
  oldest_s: number
}

/** The quick invariants of `npm run verify`. */
export interface Verdict {
  /** by the verifier's wall clock */
  at: string
  broken: { invariant: string; offenders: string[] }[]
}

export interface Watched {
  lines?: Lines
  verdict?: Verdict
}

const KEYS = ['lines', 'verdict'] as const
const keyOf = (prefix: string, name: (typeof KEYS)[number]) => `${prefix}watched:${name}`

export async function readWatched(redis: Redis, prefix: string): Promise<Watched> {
  const found = await redis.mget(KEYS.map((name) => keyOf(prefix, name)))
  return Object.fromEntries(KEYS.flatMap((name, i) => (found[i] ? [[name, JSON.parse(found[i])]] : [])))
}

export async function keepWatched(redis: Redis, prefix: string, seen: Watched, lives_ms: number): Promise<void> {
  for (const name of KEYS) {
    if (seen[name]) await redis.set(keyOf(prefix, name), JSON.stringify(seen[name]), 'PX', lives_ms)
  }
}
