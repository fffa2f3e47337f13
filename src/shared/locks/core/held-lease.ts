/**
 * A held lease. Invariant: validity is counted from a time taken just before the granting or renewing request is sent, so a
 * lease always ends here before it ends on the server, whether or not the server answers.
 */

import { type Lease, LeaseLostError, type LockEvents, type LostReason, type Mode, type ReleaseResult } from '../api.ts'
import { awaitAnswer } from './answer-limit.ts'
import type { Backend } from './backend.ts'

/** A request for a lease, with its options. */
export interface LeaseRequest {
  resource: string
  id: string
  waiter_id: number
  mode: Mode
  limit: number
  owner: string
  ttl_ms: number
  above: number
  /** Expected time of the hold, in ms; LockEvents.longHold reports a longer hold. */
  expected_ms: number | undefined
  max_hold_ms: number | undefined
  progress_ms: number | undefined
}

export interface GrantedLock extends LeaseRequest {
  token: number
  /**
   * performance.now() when the request was sent. The server keeps the lock for at least valid_ms after it. valid_ms is below the
   * TTL if the previous holder passed the lock on.
   */
  sent_at: number
  valid_ms: number
}

export interface LeaseRegistry {
  backend: Backend
  events: LockEvents
  /** Undoes, in the background, what a request without an answer may have done. */
  cleanUp(resource: string, id: string, ttl_ms: number): void
  /** waiter_id, which a message from the lock server names → lease */
  held: Map<number, HeldLease>
  /** Makes the registry check the leases at this time of performance.now() at the latest. */
  scheduleCheck(at: number): void
}

/**
 * Returns the time of performance.now() until which a lease is valid. The margin is 1 % because clocks run at different speeds,
 * and 2 ms because Redis rounds TTLs and timers are late.
 */
export function validUntil(sent_at: number, ttl_ms: number): number {
  return sent_at + ttl_ms * 0.99 - 2
}

/**
 * First retry delay after a failed renewal, in milliseconds. It doubles each time, and starts short because the server may be
 * back at once.
 */
const RETRY_MS = 20

/** Milliseconds after which a lock that was handed over is renewed to its whole TTL; very short work needs no renewal. */
const SHORT_MS = 10

/** The first renewal happens after this many milliseconds at the latest; it also adds the lock to the index of locks. */
const INDEXED_MS = 500

/** A renewal that succeeds with less than this share of the TTL left was nearly too late. */
const LATE_SHARE = 1 / 6

export class HeldLease implements Lease {
  readonly resource: string
  readonly mode: Mode
  readonly token: number
  #waiter_id: number
  #owner: string
  #id: string
  #ttl_ms: number
  #since: number
  #valid_until: number
  #renew_at: number
  #long_at: number
  #end_at = Number.POSITIVE_INFINITY
  #progress_ms = Number.POSITIVE_INFINITY
  #stall_at = Number.POSITIVE_INFINITY
  #indexed: boolean
  #registry: LeaseRegistry
  #renewing = false
  #failures = 0
  #over: LostReason | undefined
  /** true if the lease ended in another way than by its holder's release */
  #lost = false
  #controller: AbortController | undefined
  #releasing: Promise<ReleaseResult> | undefined
  /** Number of pending extend() calls made before the current renewal was sent; its response may resolve only these. */
  #answered = 0
  #callers: { resolve: (answer: { waiting: number }) => void; reject: (error: LeaseLostError) => void }[] | undefined

  constructor(registry: LeaseRegistry, grant: GrantedLock) {
    this.resource = grant.resource
    this.mode = grant.mode
    this.token = grant.token
    this.#registry = registry
    this.#waiter_id = grant.waiter_id
    this.#owner = grant.owner
    this.#id = grant.id
    this.#ttl_ms = grant.ttl_ms
    this.#since = grant.sent_at
    this.#valid_until = validUntil(grant.sent_at, grant.valid_ms)
    const handed_over = grant.valid_ms < grant.ttl_ms
    this.#indexed = handed_over || grant.mode !== 'exclusive'
    this.#renew_at = handed_over ? performance.now() + SHORT_MS : grant.sent_at + Math.min(grant.ttl_ms / 3, INDEXED_MS)
    this.#long_at = grant.sent_at + (grant.expected_ms ?? Number.POSITIVE_INFINITY)
    this.setDeadlines(grant)
  }

  /** Sets both deadlines, counted from now on. */
  setDeadlines(deadlines: { max_hold_ms: number | undefined; progress_ms: number | undefined }): void {
    const { max_hold_ms = Number.POSITIVE_INFINITY, progress_ms = Number.POSITIVE_INFINITY } = deadlines
    const now = performance.now()
    this.#end_at = now + max_hold_ms
    this.#progress_ms = progress_ms
    this.#stall_at = now + progress_ms
    this.#registry.scheduleCheck(this.due_at)
  }

  /** The signal is created on first use: an AbortController costs more than all the rest of a lease. */
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController()
      if (this.#lost) this.#controller.abort(this.#error())
    }
    return this.#controller.signal
  }

  get remaining_ms(): number {
    return this.#over ? 0 : Math.max(0, Math.min(this.#valid_until, this.#end_at, this.#stall_at) - performance.now())
  }

  assertValid(): void {
    // Timers do not run while the event loop is blocked, so this reads the clock.
    this.#checkDeadlines(performance.now())
    if (this.#over) throw this.#error()
  }

  progress(): void {
    const now = performance.now()
    // A missed deadline stays missed: a holder that wakes from a freeze may call this first.
    if (this.#checkDeadlines(now)) this.#stall_at = now + this.#progress_ms
  }

  extend(): Promise<{ waiting: number }> {
    return new Promise((resolve, reject) => {
      this.progress()
      this.assertValid()
      this.#callers ??= []
      this.#callers.push({ resolve, reject })
      if (!this.#renewing) this.#renew()
    })
  }

  release(): Promise<ReleaseResult> {
    this.#releasing ??= this.#release()
    return this.#releasing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  /** Time of performance.now() when this lease must next be checked. */
  get due_at(): number {
    const renew_at = this.#renewing ? this.#valid_until : this.#renew_at
    return Math.min(renew_at, this.#valid_until, this.#long_at, this.#end_at, this.#stall_at)
  }

  /**
   * Does what is due: reports a long hold, checks the deadlines, renews. A renewal may run early by a tenth of its interval, so
   * that leases acquired together are renewed together.
   */
  check(now: number): void {
    if (now >= this.#long_at) {
      this.#long_at = Number.POSITIVE_INFINITY
      this.#registry.events.longHold?.(this.resource, this.#eventDetails())
    }
    if (!this.#checkDeadlines(now) || this.#renewing) return
    if (now >= this.#renew_at - (this.#failures > 0 ? 0 : this.#ttl_ms / 30)) this.#renew()
  }

  /** Called when the lock server reports a forced release of this lock. */
  onRevoked(): void {
    if (!this.#over) this.#lose('taken')
  }

  /** Renews at once, to find out whether the lock is still held: messages may have been lost. */
  verify(): void {
    if (this.#checkDeadlines(performance.now()) && !this.#renewing) this.#renew()
  }

  /** Ends the lease as lost and releases it, because the process stops and no work may continue under the lease. */
  abandon(): Promise<ReleaseResult> {
    if (!this.#over) this.#lose('released')
    return this.release()
  }

  /**
   * Ends the lease if a deadline has passed, and returns false if the lease is over. Called before each renewal: a process that
   * wakes from a freeze must not renew a lease whose holder has missed its deadline.
   */
  #checkDeadlines(now: number): boolean {
    if (this.#over) return false
    if (now >= this.#valid_until) this.#lose(this.#expiryReason())
    else if (now >= this.#end_at) this.#endAndRelease('max_hold')
    else if (now >= this.#stall_at) this.#endAndRelease('stalled')
    return !this.#over
  }

  /**
   * Ends the lease as lost and releases the lock, which the server still holds for it, so that waiters need not wait for the
   * TTL.
   */
  #endAndRelease(why: 'max_hold' | 'stalled'): void {
    this.#lose(why)
    void this.release()
  }

  #renew(): void {
    const sent_at = performance.now()
    this.#renewing = true
    this.#indexed = true
    this.#answered = this.#callers?.length ?? 0
    const pending = this.#registry.backend.extend(this.resource, this.#id, this.#ttl_ms)
    awaitAnswer(pending, this.#ttl_ms).then(
      (answer) => this.#onRenewed(sent_at, answer),
      () => this.#onRenewalFailed(pending),
    )
  }

  #onRenewed(sent_at: number, answer: number | 'expired' | 'taken'): void {
    this.#renewing = false
    if (this.#over) {
      this.#onLateAnswer(answer)
      return
    }
    if (typeof answer !== 'number') {
      this.#lose(answer)
      return
    }
    this.#failures = 0
    const slack_ms = this.#valid_until - performance.now()
    if (slack_ms < this.#ttl_ms * LATE_SHARE) this.#registry.events.lateRenewal?.(this.resource, Math.max(0, slack_ms))
    this.#valid_until = validUntil(sent_at, this.#ttl_ms)
    this.#renew_at = sent_at + this.#ttl_ms / 3
    if (performance.now() >= this.#valid_until) {
      this.#lose('unreachable')
      return
    }
    if (this.#callers) {
      for (const caller of this.#callers.splice(0, this.#answered)) caller.resolve({ waiting: answer })
      if (this.#callers.length > 0 && this.#checkDeadlines(performance.now())) this.#renew()
    }
    this.#registry.scheduleCheck(this.due_at)
  }

  /** Schedules a retry. A failed renewal is not a loss, because the old validity still runs. */
  #onRenewalFailed(pending: Promise<number | 'expired' | 'taken'>): void {
    this.#renewing = false
    pending.then((answer) => this.#onLateAnswer(answer), noop)
    if (this.#over) return
    this.#renew_at = performance.now() + Math.min(RETRY_MS * 2 ** this.#failures, this.#ttl_ms / 10)
    this.#failures += 1
    this.#registry.scheduleCheck(this.due_at)
  }

  /**
   * Cleans up if the server executed a renewal after the lease had ended: such a renewal must not keep other callers out for a
   * TTL.
   */
  #onLateAnswer(answer: number | 'expired' | 'taken'): void {
    if (!this.#over || this.#releasing || typeof answer !== 'number') return
    this.#registry.cleanUp(this.resource, this.#id, this.#ttl_ms)
  }

  #expiryReason(): LostReason {
    return this.#renewing || this.#failures > 0 ? 'unreachable' : 'expired'
  }

  #lose(why: LostReason): void {
    this.#lost = true
    this.#end(why)
    this.#controller?.abort(this.#error())
    this.#registry.events.lost?.(this.resource, why, this.#eventDetails())
  }

  #eventDetails() {
    return { token: this.token, owner: this.#owner, held_ms: performance.now() - this.#since }
  }

  #end(why: LostReason): void {
    this.#over = why
    this.#registry.held.delete(this.#waiter_id)
    if (this.#callers) for (const caller of this.#callers.splice(0)) caller.reject(this.#error())
  }

  #error(): LeaseLostError {
    return new LeaseLostError(this.resource, this.token, this.#over ?? 'expired')
  }

  async #release(): Promise<ReleaseResult> {
    const noticed = this.#over !== undefined
    if (!noticed) this.#end('released')
    let answer: 'released' | 'expired' | 'taken'
    try {
      answer = await awaitAnswer(this.#registry.backend.release(this.resource, this.#id, this.#indexed), this.#ttl_ms)
    } catch {
      // If the server is back before the TTL ends, the clean-up frees the lock for other callers.
      this.#registry.cleanUp(this.resource, this.#id, this.#ttl_ms)
      return { released: false, reason: 'unreachable' }
    }
    if (answer === 'released') {
      this.#registry.events.released?.(this.resource, performance.now() - this.#since)
      return { released: true }
    }
    if (!noticed) this.#registry.events.lost?.(this.resource, answer, this.#eventDetails())
    return { released: false, reason: answer }
  }
}

/**
 * Creates the registry of the leases of one Locks instance. All leases share one timer, so that thousands of leases cost little
 * more than their renewals.
 */
export function createLeaseRegistry(deps: Omit<LeaseRegistry, 'held' | 'scheduleCheck'>): LeaseRegistry {
  const held = new Map<number, HeldLease>()
  let check_at = Number.POSITIVE_INFINITY
  let timer: NodeJS.Timeout | undefined

  function scheduleCheck(at: number): void {
    if (at >= check_at) return
    check_at = at
    clearTimeout(timer)
    // unref() the timer: a lease alone must not keep the process alive.
    timer = setTimeout(check, Math.max(1, Math.ceil(at - performance.now()))).unref()
  }

  function check(): void {
    check_at = Number.POSITIVE_INFINITY
    const now = performance.now()
    // If an event callback throws, the remaining leases are checked in the next round, which then runs at once.
    let next = now
    try {
      for (const lease of held.values()) lease.check(now)
      next = check_at
      for (const lease of held.values()) next = Math.min(next, lease.due_at)
    } finally {
      scheduleCheck(next)
    }
  }

  return { ...deps, held, scheduleCheck }
}

export function holdLease(registry: LeaseRegistry, grant: GrantedLock): HeldLease {
  const lease = new HeldLease(registry, grant)
  registry.held.set(grant.waiter_id, lease)
  registry.scheduleCheck(lease.due_at)
  return lease
}

function noop(): void {}
