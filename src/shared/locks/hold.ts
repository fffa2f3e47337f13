/**
 * A lease while it is held. The invariant: its validity is counted from before the request that gave or renewed it was
 * sent, so it always ends here before it ends on the server, whether or not the server answers. One timer a lease: it
 * renews, retries and aborts, so that thousands of leases in a process cost nothing but their renewals.
 */
import type { Backend } from './backend.ts'
import { answerLimit, bounded } from './bounded.ts'
import type { ReleaseResult } from './lease.ts'
import { type Lease, LeaseLostError, type LockEvents, type LeaseLostError as Lost, type LostReason } from './lease.ts'

export interface Grant {
  resource: string
  id: string
  token: number
  ttl_ms: number
  /** performance.now() before the granted attempt was sent. */
  sent_at: number
}

export interface Keeper {
  backend: Backend
  events: LockEvents
  /** Undoes behind the caller's back what a request without an answer may have done. */
  undo(resource: string, id: string, ttl_ms: number): void
  held: Set<HeldLease>
}

/** Redis rounds a TTL up and clocks drift against each other: 1 %, and 2 ms for the rounding and a timer that is late. */
const marginOf = (ttl_ms: number) => ttl_ms * 0.01 + 2

/** A failed renewal is tried again after 20 ms, then after twice as long, up to a tenth of the TTL: it shall come through soon after the server is back. */
const RETRY_MS = 20

export class HeldLease implements Lease {
  readonly resource: string
  readonly token: number
  #id: string
  #ttl_ms: number
  #since: number
  #valid_until: number
  #renew_at: number
  #keeper: Keeper
  #timer: NodeJS.Timeout | undefined
  #renewing = false
  #failures = 0
  #over: LostReason | undefined
  #controller: AbortController | undefined
  #releasing: Promise<ReleaseResult> | undefined
  #callers: { resolve: (answer: { waiting: number }) => void; reject: (error: LeaseLostError) => void }[] | undefined

  constructor(keeper: Keeper, grant: Grant) {
    this.resource = grant.resource
    this.token = grant.token
    this.#keeper = keeper
    this.#id = grant.id
    this.#ttl_ms = grant.ttl_ms
    this.#since = grant.sent_at
    this.#valid_until = grant.sent_at + grant.ttl_ms - marginOf(grant.ttl_ms)
    this.#renew_at = grant.sent_at + grant.ttl_ms / 3
  }

  /** Made when somebody asks for it: an AbortController costs more than all the rest of a lease. */
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController()
      if (this.#over && this.#over !== 'released') this.#controller.abort(this.#error())
    }
    return this.#controller.signal
  }

  assertValid(): void {
    // The timers have not run while the event loop was blocked, so the clock is asked.
    if (!this.#over && performance.now() >= this.#valid_until) this.#lose(this.#outOfTime())
    if (this.#over) throw this.#error()
  }

  extend(): Promise<{ waiting: number }> {
    return new Promise((resolve, reject) => {
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

  /** Arms the one timer for whatever is due next. Unref'd: a lease alone is no reason for a process to stay. */
  arm(): void {
    clearTimeout(this.#timer)
    if (this.#over) return
    const next = this.#renewing ? this.#valid_until : Math.min(this.#renew_at, this.#valid_until)
    this.#timer = setTimeout(onTimer, Math.max(1, Math.ceil(next - performance.now())), this).unref()
  }

  /** Called by the timer, which may be early by the age of the event loop's clock, or late by any blocked time. */
  due(): void {
    const now = performance.now()
    if (now >= this.#valid_until) this.#lose(this.#outOfTime())
    else if (!this.#renewing && now >= this.#renew_at) this.#renew()
    else this.arm()
  }

  /** Ends the lease as if it had been lost: the process stops, and nobody may go on under it. */
  giveUp(): Promise<ReleaseResult> {
    if (!this.#over) this.#lose('released')
    return this.release()
  }

  #renew(): void {
    const sent_at = performance.now()
    this.#renewing = true
    this.arm()
    this.#keeper.backend.extend(this.resource, this.#id, this.#ttl_ms).then(
      (answer) => this.#renewed(sent_at, answer),
      () => this.#failed(),
    )
  }

  #renewed(sent_at: number, answer: number | 'expired' | 'taken'): void {
    this.#renewing = false
    if (this.#over) {
      // It was given up while a hanging server held the request back: this renewal must not keep others out for a TTL.
      if (!this.#releasing && typeof answer === 'number') this.#keeper.undo(this.resource, this.#id, this.#ttl_ms)
      return
    }
    if (typeof answer !== 'number') {
      this.#lose(answer)
      return
    }
    this.#failures = 0
    this.#valid_until = sent_at + this.#ttl_ms - marginOf(this.#ttl_ms)
    this.#renew_at = sent_at + this.#ttl_ms / 3
    if (performance.now() >= this.#valid_until) {
      this.#lose('unreachable')
      return
    }
    if (this.#callers) for (const caller of this.#callers.splice(0)) caller.resolve({ waiting: answer })
    this.arm()
  }

  /** One failed renewal is no loss: the old validity still runs. */
  #failed(): void {
    this.#renewing = false
    if (this.#over) return
    this.#renew_at = performance.now() + Math.min(RETRY_MS * 2 ** this.#failures, this.#ttl_ms / 10)
    this.#failures += 1
    this.due()
  }

  #outOfTime(): LostReason {
    return this.#renewing || this.#failures > 0 ? 'unreachable' : 'expired'
  }

  #lose(why: LostReason): void {
    this.#end(why)
    this.#keeper.events.lost?.(this.resource, why)
    this.#controller?.abort(this.#error())
  }

  #end(why: LostReason): void {
    this.#over = why
    clearTimeout(this.#timer)
    this.#keeper.held.delete(this)
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
      answer = await bounded(this.#keeper.backend.release(this.resource, this.#id), answerLimit(this.#ttl_ms))
    } catch {
      // Others need not wait for the TTL if the server comes back before it.
      this.#keeper.undo(this.resource, this.#id, this.#ttl_ms)
      return { released: false, reason: 'unreachable' }
    }
    if (answer === 'released') {
      this.#keeper.events.released?.(this.resource, performance.now() - this.#since)
      return { released: true }
    }
    if (!noticed) this.#keeper.events.lost?.(this.resource, answer)
    return { released: false, reason: answer }
  }
}

function onTimer(lease: HeldLease): void {
  lease.due()
}

export function holdLease(keeper: Keeper, grant: Grant): HeldLease {
  const lease = new HeldLease(keeper, grant)
  keeper.held.add(lease)
  lease.arm()
  return lease
}
