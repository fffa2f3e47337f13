/**
 * The interface between the lease core and a lock server. Invariant: every operation is one atomic step on the server
 * that checks the id, and repeating it with the same id does not change the outcome. Clocks are not compared: the
 * server answers with durations, and the core counts validity on its own monotonic clock from before it sent the
 * request. A lock that is handed over to a waiter lives exactly as long as the waiter's slot would have, so that what
 * the core knows about the slot holds for the lock.
 */
import type { LockState, Mode } from '../api.ts'

/** A caller that requests a lock: everything that the server may have to know when the waiter's turn comes. */
export interface Requester {
  /** Waiter id, unique within this Locks instance; names the recipient of hand-off and revocation messages. */
  waiter_id: number
  owner: string
  mode: Mode
  /** Permits: maximum number of holders; else 0. */
  limit: number
  ttl_ms: number
}

export interface Attempt {
  resource: string
  /** From newOwnerId, one per acquisition. It is the proof of ownership. */
  id: string
  mode: Mode
  limit: number
  ttl_ms: number
  above: number
  /** Join the wait queue when the lock is busy, in a slot that lives this long without another attempt; 0 = do not. */
  slot_ttl_ms: number
  /** 0 on the first attempt, then the ticket of the last answer. */
  ticket: number
}

export interface BusyAnswer {
  granted: false
  ticket: number
  /** Identifies the slot in the wait queue until the next attempt renews it. */
  slot: number
  /** Number of waiters in front of this one. */
  ahead: number
  waiting: number
  /** When the lock may end by itself; negative when unknown. */
  free_in_ms: number
  holder: string | undefined
}

export type Answer = { granted: true; token: number } | BusyAnswer

/** The lock was granted to the waiter in this slot. */
export interface Handoff {
  slot: number
  token: number
}

/** 'all': messages may have been lost. 'taken': a forced release revoked the lock of this waiter_id. */
export interface OnLockMessage {
  (waiter_id: 'all'): void
  (waiter_id: number, what?: Handoff | 'taken'): void
}

export interface Backend {
  /** Random and unguessable; begins with what a server must know about the requester. */
  newOwnerId(requester: Requester): string
  attempt(attempt: Attempt): Promise<Answer>
  /**
   * Grants several locks in one step on the server, or none, with the position of the first busy one. Does not wait.
   */
  attemptAll?(
    attempts: readonly Attempt[],
  ): Promise<{ granted: true; tokens: number[] } | { at: number; busy: BusyAnswer }>
  /** Groups resources so that each group may be passed to attemptAll. Required with it. */
  groupResources?(resources: readonly string[]): string[][]
  /** Resolves with the number of waiters, or with why the lock cannot be renewed. */
  extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'>
  /** `indexed`: the lock was shared, handed over or renewed, so the index may contain it. */
  release(resource: string, id: string, indexed: boolean): Promise<'released' | 'expired' | 'taken'>
  /** Removes the lock or the slot of this id, if it has one, and hands its turn over. */
  cancel(resource: string, id: string): Promise<void>
  /**
   * Revokes the lock from all holders, notifies their processes, and hands it over to the next waiter with a token
   * above the returned one.
   */
  force(resource: string, above: number): Promise<{ token: number; revoked_holders: LockState['holders'] }>
  /** Holders and waiters: one state for each resource, in the order of the argument. */
  inspect(resources: readonly string[]): Promise<LockState[]>
  /**
   * Resources that have waiters, or were held at their last renewal, and maybe some that are no longer in use;
   * unordered.
   */
  list(): Promise<string[]>
  /**
   * Starts to deliver messages to holders and waiters; idempotent. Until it works, waiters depend on their rechecks,
   * and holders on their heartbeats.
   */
  listen(onMessage: OnLockMessage): void
  close(): Promise<void>
}
