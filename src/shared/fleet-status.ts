/**
 * State of the queues and of the invariants of the whole fleet. One worker writes it to Redis, and every process can read it.
 * Invariant: an entry expires before it is too old to be true, so no process shows an outdated result.
 */
import type { Redis } from 'ioredis'

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
  queues?: QueueFigures
  verification?: VerificationResult
}

const KEYS = ['queues', 'verification'] as const
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

/** Returns true to one process per `ms`. It takes no lease, because two processes that work at once only waste work. */
export const takeTurn = async (redis: Redis, prefix: string, name: string, ms: number): Promise<boolean> =>
  (await redis.set(`${prefix}watched:turn:${name}`, '1', 'PX', Math.floor(ms * 0.9), 'NX')) === 'OK'
