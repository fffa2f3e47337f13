/**
 * A small model of one lock: who may have it, given what was asked, what the clock shows and what the server forgot. The
 * invariant: where the model is sure, the server must answer so; where a lease is about to end, either answer is right
 * and the model follows it.
 */
import type { Mode } from '../../../src/shared/locks/api.ts'

export interface Wish {
  mode: Mode
  limit: number
}

/** A lease as the one who got it knows it: by then nobody may have told it that it is over. */
export interface Given extends Wish {
  token: number
  ttl_ms: number
  extend(): Promise<unknown>
  release(): Promise<{ released: boolean }>
  /** Its own process knows that it is over; a lease that lives by its handle never knows. */
  over: boolean
  let_go: boolean
  local: boolean
  /** What its holder read when it raised the fence to its token. */
  read: number | undefined
}

/** When a lease ends by the server's clock, as far as it is known from outside. */
interface End {
  from_ms: number
  to_ms: number
}

/** What a server remembers: a replica has an older one. */
export interface Memory {
  ends: Map<Given, End>
  /** No token that it gives is below this one. */
  last: number
}

/** A busy machine, and servers that round. */
const UNSURE_MS = 150

export function statusOf({ ends }: Memory, lease: Given, now_ms: number): 'alive' | 'gone' | 'unsure' {
  const end = ends.get(lease)
  if (!end || now_ms > end.to_ms + UNSURE_MS) return 'gone'
  return now_ms < end.from_ms - UNSURE_MS ? 'alive' : 'unsure'
}

/** May it be let in beside these? */
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

/** The clock went back: who shares a lock may be cut to a TTL from now, or has what it had. */
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
