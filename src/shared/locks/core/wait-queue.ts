/**
 * Waits for a lock. Invariants: the server decides whose turn it is; a lost message costs one recheck, never more; and
 * the heartbeat of its rechecks keeps a waiter's slot alive.
 */

import type { Interruptible } from '../../timeout.ts'
import { LockBusyError } from '../api.ts'
import { awaitAnswer } from './answer-limit.ts'
import type { Attempt, Backend, BusyAnswer, Handoff } from './backend.ts'
import { validUntil } from './held-lease.ts'

/** A caller that waits for a lock, as this process sees it. */
export interface Waiter extends Interruptible {
  /** A message has arrived, or may have been lost. Also set during an attempt, whose answer may be older than the message. */
  woken: boolean
  /** The lock was handed over to this waiter's slot, or to an earlier slot of the same waiter. */
  handoff?: Handoff | undefined
  /** Ends the waiter's current sleep. */
  wake?: () => void
  /** Settles when every attempt so far has been answered, including abandoned ones. */
  pending?: Promise<unknown>
  /** Called when the wait is over and its last request is on the way to the server. */
  ended?: () => void
}

/** Milliseconds between retries while the server is away: there is no slot to keep alive. A message also causes a retry. */
const UNREACHABLE_RETRY_MS = 1000

/** Number of rechecks in the lifetime of a slot: a waiter must not lose its slot by one missed heartbeat. */
const RECHECKS_PER_SLOT = 3

/**
 * Returns how long a slot lives without a heartbeat, in milliseconds: half a TTL, so a dead head of the queue, with the recheck
 * that finds it, delays the queue by 2/3 of a TTL. It is at most 3 s, because with long TTLs there is no reason to wait longer
 * for dead waiters (prelude.lua relies on this bound).
 */
export function slotTtl(ttl_ms: number): number {
  return Math.min(Math.floor(ttl_ms / 2), 3000)
}

export interface Granted {
  granted: true
  token: number
  /**
   * performance.now() just before the granted attempt was sent. After a hand-over: just before the attempt was sent that last
   * renewed the slot which became the lock.
   */
  sent_at: number
  /** How long the server keeps the lock from then on. */
  valid_ms: number
}

/**
 * Attempts once, and again until the lock is granted or `until`, a time of performance.now(), has come. A waiter that has been
 * in the queue keeps waiting while the server is away, and joins again when the server is back: the ticket restores its
 * position.
 * @returns the grant, or the last busy answer; after a busy answer the caller must clean up the slot
 * @throws the reason with which the waiter was aborted, or the server's error: at once on the first attempt, later only at the
 * end, when the slot must have expired
 */
export async function waitForLock(
  backend: Backend,
  request: Attempt,
  waiter: Waiter,
  until: number,
  contended?: (resource: string) => void,
): Promise<Granted | BusyAnswer> {
  let busy: BusyAnswer | undefined
  let answered_at = 0
  let missed = false
  /** The error of the last attempt; set once the slot must have expired on the server. */
  let unreachable: { error: unknown } | undefined
  for (;;) {
    waiter.woken = false
    const sent_at = performance.now()
    let sleep_ms = request.slot_ttl_ms / RECHECKS_PER_SLOT
    try {
      const pending = backend.attempt(request)
      waiter.pending = missed ? Promise.allSettled([waiter.pending, pending]).then(noop) : pending
      const answer = await awaitAnswer(pending, request.ttl_ms, waiter)
      if (answer.granted) {
        // The answer may have waited in the socket while the event loop was blocked. Another attempt starts a new TTL.
        if (performance.now() >= validUntil(sent_at, request.ttl_ms)) throw new Error('the grant came too late')
        return { granted: true, token: answer.token, sent_at, valid_ms: request.ttl_ms }
      }
      if (!busy) contended?.(request.resource)
      busy = answer
      unreachable = undefined
      request.ticket = answer.ticket
      answered_at = sent_at
      // Only the first two waiters recheck when the lock expires: the first to get the lock, the second in case the first is dead.
      if (answer.ahead <= 1 && answer.free_in_ms >= 0) sleep_ms = Math.min(sleep_ms, answer.free_in_ms + 1)
    } catch (error) {
      // The answer may be lost while the slot lives on: a reset connection is no reason to leave the queue.
      missed = true
      if (waiter.aborted || !busy) throw error
      if (performance.now() - answered_at >= request.slot_ttl_ms) {
        unreachable = { error }
        sleep_ms = Math.max(sleep_ms, UNREACHABLE_RETRY_MS)
      }
    }
    const rest_ms = until - performance.now()
    if (rest_ms > 0 && !waiter.woken) await sleep(waiter, Math.min(sleep_ms, rest_ms))
    const { handoff } = waiter
    waiter.handoff = undefined
    // If little of the slot's life is left, as after a blocked event loop, make another attempt, which gets a whole TTL.
    const fresh = performance.now() < answered_at + request.slot_ttl_ms / 2
    if (handoff && handoff.slot === busy.slot && fresh) {
      return { granted: true, token: handoff.token, sent_at: answered_at, valid_ms: request.slot_ttl_ms }
    }
    if (rest_ms > 0 || handoff) continue
    if (unreachable) throw unreachable.error
    return busy
  }
}

function sleep(waiter: Waiter, ms: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, Math.ceil(ms))
    waiter.wake = () => {
      clearTimeout(timer)
      resolve()
    }
    waiter.abort = (reason) => {
      clearTimeout(timer)
      reject(reason)
    }
    if (waiter.aborted) waiter.abort(waiter.aborted.reason)
  })
}

/** Wakes the waiter, so that it rechecks, or because the lock was handed over to it. */
export function wake(waiter: Waiter, handoff?: Handoff): void {
  waiter.woken = true
  if (handoff) waiter.handoff = handoff
  waiter.wake?.()
}

/** Ends the wait with this reason, whatever the waiter is doing. */
export function abort(waiter: Waiter, reason: unknown): void {
  waiter.aborted ??= { reason }
  waiter.abort?.(reason)
}

/**
 * signal → its waiters. All waiters of a signal share one listener: a process waits for hundreds of locks under the signal that
 * stops it.
 */
const waitingUnder = new WeakMap<AbortSignal, Set<Waiter>>()

/** Aborts the waiter when the signal aborts, until the caller removes the waiter from the returned set. */
export function abortOnSignal(signal: AbortSignal, waiter: Waiter): Set<Waiter> {
  let waiters = waitingUnder.get(signal)
  if (!waiters) {
    const all = new Set<Waiter>()
    waiters = all
    waitingUnder.set(signal, all)
    signal.addEventListener(
      'abort',
      () => {
        for (const one of all) abort(one, signal.reason)
      },
      { once: true },
    )
  }
  return waiters.add(waiter)
}

export function busyError(resource: string, { holder, ticket, waiting, free_in_ms }: BusyAnswer): LockBusyError {
  return new LockBusyError(resource, {
    holder,
    // Do not count the waiter itself.
    waiting: ticket > 0 ? Math.max(0, waiting - 1) : waiting,
    retry_after_ms: Math.max(0, free_in_ms),
  })
}

function noop(): void {}
