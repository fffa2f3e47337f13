/**
 * A small model of one lock: which requests may be granted, given the earlier steps, the clock and the data the server
 * lost. Invariant: where the model is sure, the server must answer like it; where a lease is about to end, either
 * answer is right and the model follows it.
 */
import type { Mode } from '../../../src/shared/locks/api.ts'

export interface Wish {
  mode: Mode
  limit: number
}

/** A lease as its holder knows it, which may not have learned of its end. */
export interface Given extends Wish {
  token: number
  ttl_ms: number
  extend(): Promise<unknown>
  release(): Promise<{ released: boolean }>
  /** Its own process knows that it has ended; a remote lease never knows. */
  over: boolean
  release_sent: boolean
  local: boolean
  /** What its holder read when it raised the fencing token to its own. */
  read: number | undefined
}

/** When a lease ends by the server's clock, as far as it is known from outside. */
interface End {
  from_ms: number
  to_ms: number
}

/** The data of a server; that of a replica is older. */
export interface Memory {
  ends: Map<Given, End>
  /** Every later token is above this one. */
  last: number
}

/** Tolerance for a busy machine and for servers that round. */
const UNSURE_MS = 150

export function statusOf({ ends }: Memory, lease: Given, now_ms: number): 'alive' | 'gone' | 'unsure' {
  const end = ends.get(lease)
  if (!end || now_ms > end.to_ms + UNSURE_MS) return 'gone'
  return now_ms < end.from_ms - UNSURE_MS ? 'alive' : 'unsure'
}

/** Whether the request may be granted beside these holders. */
function admits(others: readonly Wish[], wish: Wish): boolean {
  if (others.length === 0) return true
  if (wish.mode === 'exclusive' || others.some((other) => other.mode !== wish.mode)) return false
  return wish.mode === 'shared' || others.length < Math.min(wish.limit, ...others.map((other) => other.limit))
}

export function admission(memory: Memory, wish: Wish, now_ms: number): 'must' | 'may' | 'never' {
  const others = [...memory.ends.keys()]
  const sure = others.filter((other) => statusOf(memory, other, now_ms) === 'alive')
  const all = others.filter((other) => statusOf(memory, other, now_ms) !== 'gone')
  if (!admits(sure, wish)) return 'never'
  return admits(all, wish) ? 'must' : 'may'
}

export function renewed(memory: Memory, lease: Given, from_ms: number, to_ms: number): void {
  memory.ends.set(lease, { from_ms: from_ms + lease.ttl_ms, to_ms: to_ms + lease.ttl_ms })
}

/** The clock went back: a shared lock may be cut to a TTL from now, or keep its end. */
export function wentBack(memory: Memory, now_ms: number): void {
  for (const [lease, end] of memory.ends) end.from_ms = Math.min(end.from_ms, now_ms + lease.ttl_ms)
}

/** What has ended by a clock that is set back later may have been deleted, or not. */
export function mayForget(memory: Memory, now_ms: number): void {
  for (const [lease, end] of memory.ends) if (statusOf(memory, lease, now_ms) !== 'alive') end.from_ms = 0
}

export function copyOf({ ends, last }: Memory): Memory {
  return { ends: new Map(Array.from(ends, ([lease, end]) => [lease, { ...end }])), last }
}
