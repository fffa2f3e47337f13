/**
 * Standing in line for a lock. The invariants: the server decides whose turn it is; a lost message costs one recheck,
 * never more; and a place in line lives by the heartbeat of its rechecks.
 */

import { answerLimit, type Interruptible, withTimeout } from '../../timeout.ts'
import { LockBusyError } from '../api.ts'
import type { Attempt, Backend, BusyAnswer, Handoff } from './backend.ts'
import { validUntil } from './held-lease.ts'

/** Someone who asks for a lock, as this process sees it. */
export interface Waiter extends Interruptible {
  /** Something may have been missed. Also while an attempt is under way: it may have been decided before. */
  woken: boolean
  /** The lock was handed to this waiter, or to what it was before it lost its place and stood in line again. */
  handoff?: Handoff | undefined
  /** Ends the present sleep. */
  wake?: () => void
  /** Settles when every attempt so far has been answered, also those that were given up. */
  pending?: Promise<unknown>
  /** Called when the wait is over and its last word is on the way to the server. */
  ended?: () => void
}

/** While the server is away there is no place to be kept alive: it is asked this often, or when a message says so. */
const UNREACHABLE_RETRY_MS = 1000

/** A place is refreshed so often in its lifetime: one missed heartbeat shall not cost it. */
const RECHECKS_PER_SLOT = 3

/**
 * A place lives half a TTL without a heartbeat: a dead head, with the recheck that finds it, costs the line 2/3 of a
 * TTL. At most 3 s: with long TTLs there is no reason to wait longer for the dead (prelude.lua relies on the bound).
 */
export function slotTtl(ttl_ms: number): number {
  return Math.min(Math.floor(ttl_ms / 2), 3000)
}

export interface Granted {
  granted: true
  token: number
  /** performance.now() before the attempt was sent that was granted, or that began the place that became the lock. */
  sent_at: number
  /** How long the server keeps the lock from then on. */
  valid_ms: number
}

/**
 * Asks once, and again until the lock is granted or `until`, a time of performance.now(), has come. Who has stood in line
 * once waits on while the server is away, and stands in line again when it is back: the ticket leads to the old place.
 * @returns the grant, or the last busy answer; then the caller undoes the place
 * @throws what the waiter was failed with, or the server's error: at once on the first attempt, later only at the end,
 *   when the place must have died of it
 */
export async function waitForLock(
  backend: Backend,
  request: Attempt,
  waiter: Waiter,
  until: number,
  contended?: (resource: string) => void,
): Promise<Granted | BusyAnswer> {
  const limit_ms = answerLimit(request.ttl_ms)
  let busy: BusyAnswer | undefined
  let answered_at = 0
  let missed = false
  /** Why the place must be gone. */
  let unreachable: { error: unknown } | undefined
  for (;;) {
    waiter.woken = false
    const sent_at = performance.now()
    let sleep_ms = request.slot_ttl_ms / RECHECKS_PER_SLOT
    try {
      const pending = backend.attempt(request)
      waiter.pending = missed ? Promise.allSettled([waiter.pending, pending]).then(noop) : pending
      const answer = await withTimeout(pending, limit_ms, waiter)
      if (answer.granted) {
        // An answer may lie in the socket while the event loop is blocked: asked again, the server starts a new TTL.
        if (performance.now() >= validUntil(sent_at, request.ttl_ms)) throw new Error('the grant came too late')
        return { granted: true, token: answer.token, sent_at, valid_ms: request.ttl_ms }
      }
      if (!busy) contended?.(request.resource)
      busy = answer
      unreachable = undefined
      request.ticket = answer.ticket
      answered_at = sent_at
      // Only the two in front look at when the lock frees itself: the head to take it, the next to outlive the head.
      if (answer.ahead <= 1 && answer.free_in_ms >= 0) sleep_ms = Math.min(sleep_ms, answer.free_in_ms + 1)
    } catch (error) {
      // In line, an answer may be missed while the place lives on: a connection that was reset is no reason to leave.
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
    // With little of the place's life left, as after a blocked event loop, it is better to ask for a whole TTL.
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

/** Ends the present sleep: to ask again, or because the lock was handed over. */
export function wake(waiter: Waiter, handoff?: Handoff): void {
  waiter.woken = true
  if (handoff) waiter.handoff = handoff
  waiter.wake?.()
}

/** Ends the wait with this reason, whatever it is doing. */
export function abort(waiter: Waiter, reason: unknown): void {
  waiter.aborted ??= { reason }
  waiter.abort?.(reason)
}

/** One listener for all that wait under a signal: a process waits for hundreds of locks under the one that stops it. */
const waitingUnder = new WeakMap<AbortSignal, Set<Waiter>>()

/** Fails the waiter when the signal aborts, until it is taken out of the returned set. */
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
    // Who had a place in line does not count itself.
    waiting: ticket > 0 ? Math.max(0, waiting - 1) : waiting,
    retry_after_ms: Math.max(0, free_in_ms),
  })
}

function noop(): void {}
