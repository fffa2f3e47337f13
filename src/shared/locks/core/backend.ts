/**
 * The interface between the lease core and a lock server. Invariant: every operation is one atomic step on the server that
 * checks the id, and repeating an operation with the same id does not change the outcome. No clocks are compared: the server
 * answers with durations, and the core counts validity on its process's monotonic clock, from a time before it sent the request.
 * A lock that is handed over to a waiter lives exactly as long as the waiter's slot would have lived, so what the core knows
 * about the end of the slot is also true for the lock.
 */
import type { LockState, Mode } from '../api.ts'

/** A caller that requests a lock, with everything that the server may need when the caller's turn comes. */
export interface Requester {
  /** Waiter id, unique within this Locks instance; names the recipient of hand-off and revocation messages. */
  waiter_id: number
  owner: string
  mode: Mode
  /** Maximum number of holders, for permits; otherwise 0. */
  limit: number
  ttl_ms: number
}

export interface Attempt {
  resource: string
  /** Made by newOwnerId, one per acquisition. The id is the proof of ownership. */
  id: string
  mode: Mode
  limit: number
  ttl_ms: number
  above: number
  /**
   * If above 0 and the lock is busy, the request joins the wait queue, in a slot that lives this long without another
   * attempt.
   */
  slot_ttl_ms: number
  /** 0 on the first attempt; later the ticket of the last answer. */
  ticket: number
}

export interface BusyAnswer {
  granted: false
  ticket: number
  /** Identifies the slot in the wait queue until the next attempt renews it. */
  slot: number
  /** Number of waiters in front of this waiter. */
  ahead: number
  waiting: number
  /** Milliseconds after which the lock ends unless its holder renews it; negative if unknown. */
  free_in_ms: number
  holder: string | undefined
}

export type Answer = { granted: true; token: number } | BusyAnswer

/** Message: the lock was granted to the waiter in this slot. */
export interface Handoff {
  slot: number
  token: number
}

/** Receives messages. 'all': messages may have been lost. 'taken': a forced release revoked the lock of this waiter_id. */
export interface OnLockMessage {
  (waiter_id: 'all'): void
  (waiter_id: number, what?: Handoff | 'taken'): void
}

export interface Backend {
  /** Makes an id: random and unguessable; it begins with what a server must know about the requester. */
  newOwnerId(requester: Requester): string
  attempt(attempt: Attempt): Promise<Answer>
  /**
   * Grants several locks in one step on the server, without waiting; or grants none and returns the position of the first busy
   * one.
   */
  attemptAll?(
    attempts: readonly Attempt[],
  ): Promise<{ granted: true; tokens: number[] } | { at: number; busy: BusyAnswer }>
  /** Groups resources so that each group may be passed to attemptAll. Required if attemptAll exists. */
  groupResources?(resources: readonly string[]): string[][]
  /** Renews the lock. Resolves with the number of waiters, or with the reason why the lock cannot be renewed. */
  extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'>
  /** Releases the lock. `indexed`: whether the lock was shared, handed over or renewed, so that the index may contain it. */
  release(resource: string, id: string, indexed: boolean): Promise<'released' | 'expired' | 'taken'>
  /** Removes the lock or the slot of this id, if there is one, and hands the turn over to the next waiter. */
  cancel(resource: string, id: string): Promise<void>
  /**
   * Revokes the lock from all holders, notifies their processes, and hands the lock over to the next waiter with a token above
   * the returned token.
   */
  force(resource: string, above: number): Promise<{ token: number; revoked_holders: LockState['holders'] }>
  /** Returns holders and waiters: one state for each resource, in the order of the argument. */
  inspect(resources: readonly string[]): Promise<LockState[]>
  /**
   * Returns, in any order, the resources that have waiters or that were still held when their lock was last renewed, and maybe
   * some that are no longer in use.
   */
  list(): Promise<string[]>
  /**
   * Starts to deliver messages to holders and waiters; idempotent. Until messages arrive, waiters depend on their rechecks, and
   * holders on their heartbeats.
   */
  listen(onMessage: OnLockMessage): void
  close(): Promise<void>
}
