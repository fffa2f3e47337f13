/**
 * A held lease. Invariant: its validity is counted from before the request that granted or renewed it was sent, so it
 * always ends here before it ends on the server, whether or not the server answers.
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
  /** Expected hold in ms; a longer one is reported. */
  expected_ms: number | undefined
  max_hold_ms: number | undefined
  progress_ms: number | undefined
}

export interface GrantedLock extends LeaseRequest {
  token: number
  /**
   * From this time of performance.now() on the server keeps the lock for valid_ms: less than a TTL if it was handed
   * over.
   */
  sent_at: number
  valid_ms: number
}

export interface LeaseRegistry {
  backend: Backend
  events: LockEvents
  /** Cleans up in the background what a request without an answer may have done. */
  cleanUp(resource: string, id: string, ttl_ms: number): void
  /** By waiter_id, which a message from the lock server names. */
  held: Map<number, HeldLease>
  /** Makes sure that the leases are checked at this time of performance.now(). */
  scheduleCheck(at: number): void
}

/** Redis rounds TTLs, clocks run at different speeds, a timer is late: 1 % for the clocks, 2 ms for the rest. */
export function validUntil(sent_at: number, ttl_ms: number): number {
  return sent_at + ttl_ms * 0.99 - 2
}

/** Retry delay of a failed renewal, doubled each time: the server may be back at once. */
const RETRY_MS = 20

/** A lock that was handed over is renewed to its whole TTL after this, so that very short work needs no renewal. */
const SHORT_MS = 10

/** A lock that is held for longer than this is renewed for the first time, and that adds it to the index of locks. */
const INDEXED_MS = 500

/** A renewal that leaves less than this share of the TTL was nearly too late. */
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
  /** It ended in another way than by its holder's release. */
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

  /** Both deadlines count from now on. */
  setDeadlines(deadlines: { max_hold_ms: number | undefined; progress_ms: number | undefined }): void {
    const { max_hold_ms = Number.POSITIVE_INFINITY, progress_ms = Number.POSITIVE_INFINITY } = deadlines
    const now = performance.now()
    this.#end_at = now + max_hold_ms
    this.#progress_ms = progress_ms
    this.#stall_at = now + progress_ms
    this.#registry.scheduleCheck(this.due_at)
  }

  /** Created on first use: an AbortController costs more than all the rest of a lease. */
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

  /** When this lease next has something to do. */
  get due_at(): number {
    const renew_at = this.#renewing ? this.#valid_until : this.#renew_at
    return Math.min(renew_at, this.#valid_until, this.#long_at, this.#end_at, this.#stall_at)
  }

  /** Does what is due. Leases that were acquired together are renewed together: a renewal may be a tenth early. */
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

  /** Messages may have been lost: renews at once to find out. */
  verify(): void {
    if (this.#checkDeadlines(performance.now()) && !this.#renewing) this.#renew()
  }

  /** Ends the lease as lost, because the process stops and no work may continue under it. */
  abandon(): Promise<ReleaseResult> {
    if (!this.#over) this.#lose('released')
    return this.release()
  }

  /**
   * False when the lease is over. Called before each renewal: a process that wakes from a freeze must not renew a lease
   * whose holder has missed its deadline.
   */
  #checkDeadlines(now: number): boolean {
    if (this.#over) return false
    if (now >= this.#valid_until) this.#lose(this.#expiryReason())
    else if (now >= this.#end_at) this.#endAndRelease('max_hold')
    else if (now >= this.#stall_at) this.#endAndRelease('stalled')
    return !this.#over
  }

  /** This lease still holds the lock on the server: release it, so that waiters need not wait for its TTL. */
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

  /** A failed renewal is not a loss: the old validity still runs. */
  #onRenewalFailed(pending: Promise<number | 'expired' | 'taken'>): void {
    this.#renewing = false
    pending.then((answer) => this.#onLateAnswer(answer), noop)
    if (this.#over) return
    this.#renew_at = performance.now() + Math.min(RETRY_MS * 2 ** this.#failures, this.#ttl_ms / 10)
    this.#failures += 1
    this.#registry.scheduleCheck(this.due_at)
  }

  /** A renewal that a hanging server executed after the lease had ended must not keep other callers out for a TTL. */
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
 * The leases of one createLocks, with one timer for all of them, so that thousands of leases cost little but their
 * renewals.
 */
export function createLeaseRegistry(deps: Omit<LeaseRegistry, 'held' | 'scheduleCheck'>): LeaseRegistry {
  const held = new Map<number, HeldLease>()
  let check_at = Number.POSITIVE_INFINITY
  let timer: NodeJS.Timeout | undefined

  function scheduleCheck(at: number): void {
    if (at >= check_at) return
    check_at = at
    clearTimeout(timer)
    // Unref'd: a lease alone must not keep the process alive.
    timer = setTimeout(check, Math.max(1, Math.ceil(at - performance.now()))).unref()
  }

  function check(): void {
    check_at = Number.POSITIVE_INFINITY
    const now = performance.now()
    // If an event callback throws, the leases behind it are checked in the next round, at once.
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
