/**
 * The seam between the lease core and a lock server. The invariant: every verb is one atomic step on the server that
 * checks the id, and may be repeated with the same id without changing the outcome. Clocks stay on their own side: the
 * server answers with durations, the core counts validity on its own monotonic clock from before it asked. A lock that is
 * handed to a waiter lives exactly as long as the waiter's place would have, so that what the core knows of the place
 * holds for the lock.
 */
import type { LockState, Mode } from '../api.ts'

/** Who asks, and for what: everything that the server may have to know about a waiter when its turn comes. */
export interface Requester {
  /** What the process hears of when it is handed the lock, or robbed of it: unique among its createLocks. */
  waiter_id: number
  owner: string
  mode: Mode
  /** Permits: at most so many at once; else 0. */
  limit: number
  ttl_ms: number
}

export interface Attempt {
  resource: string
  /** From newId, one per acquisition: who knows it is the owner. */
  id: string
  mode: Mode
  limit: number
  ttl_ms: number
  above: number
  /** Stand in line when the lock is busy, in a place that lives this long without another attempt; 0 = do not. */
  slot_ttl_ms: number
  /** 0 on the first attempt, then what the server gave. */
  ticket: number
}

export interface BusyAnswer {
  granted: false
  ticket: number
  /** Names the place in line until the next attempt renews it. */
  slot: number
  /** How many stand before this one. */
  ahead: number
  waiting: number
  /** When the lock may end by itself; negative when that is not known. */
  free_in_ms: number
  holder: string | undefined
}

export type Answer = { granted: true; token: number } | BusyAnswer

/** The lock has been given to who had this place. */
export interface Handoff {
  slot: number
  token: number
}

/** 'all': something may have been missed. 'taken': the lock was taken away by force from who sat there. */
export interface OnLockMessage {
  (waiter_id: 'all'): void
  (waiter_id: number, what?: Handoff | 'taken'): void
}

export interface Backend {
  /** Random and unguessable; begins with what a server must know of the asker. */
  newOwnerId(requester: Requester): string
  attempt(attempt: Attempt): Promise<Answer>
  /** Several that share one step on the server: all of them, or none and who was first in the way. Without waiting. */
  attemptAll?(
    attempts: readonly Attempt[],
  ): Promise<{ granted: true; tokens: number[] } | { at: number; busy: BusyAnswer }>
  /** Groups resources so that each group may go to attemptAll. Required with it. */
  groupResources?(resources: readonly string[]): string[][]
  /** How many wait behind the renewed lock, or why there is nothing to renew. */
  extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'>
  /** `known`: it was shared, handed over or renewed, so that a list may name it. */
  release(resource: string, id: string, indexed: boolean): Promise<'released' | 'expired' | 'taken'>
  /** Takes away the lock or the place in line that the id has, if any, and hands on its turn. */
  cancel(resource: string, id: string): Promise<void>
  /** Takes the lock away from all its holders, tells their processes, and lets the line go on, with tokens above the answer's. */
  force(resource: string, above: number): Promise<{ token: number; revoked_holders: LockState['holders'] }>
  /** Who holds it and who waits: one for each resource, in the order asked. */
  inspect(resources: readonly string[]): Promise<LockState[]>
  /** Resources that are waited for, or were held when last renewed, and maybe some that no longer are, in no order. */
  list(): Promise<string[]>
  /**
   * Begins to deliver what holders and waiters hear; idempotent. Until it works, waiters live by their rechecks alone,
   * and holders by their heartbeats.
   */
  listen(onMessage: OnLockMessage): void
  close(): Promise<void>
}
