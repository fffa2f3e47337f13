/**
 * The acquisitions of one Locks instance, each from its request to a lease or its clean-up. Invariant: every id that was ever
 * sent to the server ends as a held lease, or is cleaned up after the server has answered the last request with this id. A lock
 * that cannot be cleaned up expires with its TTL.
 */

import { withTimeout } from '../../timeout.ts'
import type { LeaseOptions, LockEvents, LockMode, TryOptions } from '../api.ts'
import { awaitAnswer } from './answer-limit.ts'
import { checkNumber } from './arguments.ts'
import type { Backend, BusyAnswer, Handoff } from './backend.ts'
import { createLeaseRegistry, type GrantedLock, type LeaseRegistry, type LeaseRequest } from './held-lease.ts'
import { abort, abortOnSignal, slotTtl, type Waiter, waitForLock, wake } from './wait-queue.ts'

/**
 * Milliseconds that a caller whose wait was cancelled still waits for the clean-up, which then continues in the background.
 */
const CLEANUP_WAIT_MS = 100

export interface LocksOptions {
  ttl_ms: number
  /** The holder's name if an acquire names no owner. */
  instance: string
  events?: LockEvents | undefined
  /** Returns how long a lease on this resource is expected to be held, in ms; LockEvents.longHold reports longer holds. */
  expected_hold_ms?: ((resource: string) => number | undefined) | undefined
}

export class Acquisitions {
  readonly backend: Backend
  readonly events: LockEvents
  readonly registry: LeaseRegistry
  /** The TTL of requests that name none. */
  readonly default_ttl_ms: number
  #instance: string
  #expected_hold_ms: LocksOptions['expected_hold_ms']
  #waiters = new Map<number, Waiter>()
  #last_waiter_id = 0
  #runningCleanUps = new Set<Promise<void>>()
  #closed: Error | undefined
  #closing: Promise<void> | undefined

  constructor(backend: Backend, { ttl_ms, instance, events = {}, expected_hold_ms }: LocksOptions) {
    this.backend = backend
    this.events = events
    this.default_ttl_ms = ttl_ms
    this.#instance = instance
    this.#expected_hold_ms = expected_hold_ms
    this.registry = createLeaseRegistry({ backend, events, cleanUp: (...lost) => void this.#cleanUp(...lost) })
  }

  throwIfClosed(): void {
    if (this.#closed) throw this.#closed
  }

  /** Makes a request with a new id. @throws the reason why no request may be sent any more */
  newRequest(resource: string, options: LeaseOptions & LockMode): LeaseRequest {
    this.throwIfClosed()
    options.signal?.throwIfAborted()
    const { ttl_ms = this.default_ttl_ms, above = 0, mode = 'exclusive', limit = 0 } = options
    const { job, max_hold_ms, progress_ms } = options
    const owner = (options.owner ?? this.#instance) + (job === undefined ? '' : ` ${job}`)
    const waiter_id = ++this.#last_waiter_id
    const id = this.backend.newOwnerId({ waiter_id, owner, mode, limit, ttl_ms })
    // Every acquisition comes through here, so each holder hears of revocations and each waiter hears of its turn.
    this.backend.listen(this.#onMessage)
    const expected_ms = this.#expectedOf(resource)
    return { resource, waiter_id, owner, mode, limit, ttl_ms, above, id, expected_ms, max_hold_ms, progress_ms }
  }

  /**
   * Asks the callback for the expected hold before any request is sent, so that an exception of the callback leaves no lock
   * behind.
   */
  #expectedOf(resource: string): number | undefined {
    const expected = this.#expected_hold_ms?.(resource)
    checkNumber('expected_hold_ms of a resource', expected, { min: 0, integer: false })
    return expected
  }

  readonly #onMessage = (waiter_id: number | 'all', what?: Handoff | 'taken'): void => {
    const { held } = this.registry
    if (waiter_id === 'all') {
      for (const waiter of this.#waiters.values()) wake(waiter)
      for (const lease of held.values()) lease.verify()
    } else if (what === 'taken') {
      held.get(waiter_id)?.onRevoked()
    } else {
      // If the waiter is unknown, its wait has ended; its cancel request follows and hands the lock over to the next waiter.
      const waiter = this.#waiters.get(waiter_id)
      if (waiter) wake(waiter, what)
    }
  }

  /** Registers a waiter that the signal and close() can abort; close() waits until the wait has ended. */
  startWait(waiter_id: number, signal: AbortSignal | undefined): { waiter: Waiter; endWait: () => void } {
    const waiter: Waiter = { woken: false }
    const aborts = signal && abortOnSignal(signal, waiter)
    this.#waiters.set(waiter_id, waiter)
    const endWait = () => {
      this.#waiters.delete(waiter_id)
      aborts?.delete(waiter)
      waiter.ended?.()
    }
    return { waiter, endWait }
  }

  /**
   * Acquires the lock and makes a lease, or returns the busy answer.
   * @param makeLease turns the grant into the caller's lease before other code can run; if makeLease rejects, the lock is
   * released
   */
  async acquireGrant<T extends object>(
    resource: string,
    options: TryOptions,
    wait_ms: number,
    makeLease: (grant: GrantedLock, waiter: Waiter) => T | Promise<T>,
  ): Promise<T | BusyAnswer> {
    const requested = this.newRequest(resource, options)
    const { waiter_id, id, ttl_ms, mode, limit, above } = requested
    const { waiter, endWait } = this.startWait(waiter_id, options.signal)
    const { backend, events } = this
    const began = performance.now()
    try {
      const slot_ttl_ms = wait_ms > 0 ? slotTtl(ttl_ms) : 0
      const request = { resource, id, mode, limit, ttl_ms, above, slot_ttl_ms, ticket: 0 }
      const outcome = await waitForLock(backend, request, waiter, began + wait_ms, events.contended)
      // The signal may have aborted between the answer and this line.
      if (waiter.aborted) throw waiter.aborted.reason
      if (outcome.granted) {
        const { token, sent_at, valid_ms } = outcome
        const made = await makeLease({ ...requested, token, sent_at, valid_ms }, waiter)
        events.acquired?.(resource, performance.now() - began)
        this.throwIfClosed()
        return made
      }
      events.failed?.(resource, 'lock_busy')
      if (outcome.ticket > 0) await waitBriefly(this.#cleanUp(resource, id, ttl_ms, waiter.pending))
      return outcome
    } catch (error) {
      await this.reportFailure([requested], waiter)
      throw error
    } finally {
      endWait()
    }
  }

  /** Reports requests that ended without a lease, and releases what the server may have granted to them. */
  async reportFailure(requests: readonly LeaseRequest[], waiter: Waiter): Promise<void> {
    const why = this.#closed ? 'closed' : waiter.aborted ? 'aborted' : 'unreachable'
    const cleanUps = requests.map(({ resource, id, ttl_ms }) => {
      this.events.failed?.(resource, why)
      return this.#cleanUp(resource, id, ttl_ms, waiter.pending)
    })
    if (waiter.aborted) await waitBriefly(Promise.all(cleanUps))
  }

  /**
   * Removes the lock or slot that the id may have on the server. First it waits for `pending`, the last request with the id: a
   * cancel that overtook that request would leave a lock behind for a TTL. Some clients never settle requests of a reset
   * connection, so this wait has a limit; if the answer comes later, the clean-up runs again.
   */
  #cleanUp(resource: string, id: string, ttl_ms: number, pending?: Promise<unknown>): Promise<void> {
    const work = (async () => {
      if (pending) {
        await awaitAnswer(pending, ttl_ms).catch(() => {
          pending.then(() => this.#cleanUp(resource, id, ttl_ms), noop)
        })
      }
      const gone_at = performance.now() + ttl_ms
      for (let pause_ms = 50; performance.now() < gone_at; pause_ms *= 2) {
        try {
          await awaitAnswer(this.backend.cancel(resource, id), ttl_ms)
          return
        } catch {
          if (this.#closed) return
          await new Promise((resolve) => setTimeout(resolve, pause_ms).unref())
        }
      }
    })().finally(() => this.#runningCleanUps.delete(work))
    this.#runningCleanUps.add(work)
    return work
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** Releases every lease and cleans up every request, so that no lease outlives this Locks instance. */
  async #close(): Promise<void> {
    const reason = Object.assign(new Error('the locks are closed'), { code: 'closed' })
    this.#closed = reason
    const ends = Array.from(this.#waiters.values(), (waiter) => {
      const ended = new Promise<void>((resolve) => {
        waiter.ended = resolve
      })
      abort(waiter, reason)
      return ended
    })
    await Promise.all([...ends, ...Array.from(this.registry.held.values(), (lease) => lease.abandon())])
    // Wait only for a limited time: if the server hangs, the remaining locks expire with their TTL.
    await awaitAnswer(Promise.all(this.#runningCleanUps), this.default_ttl_ms).catch(noop)
    await this.backend.close()
  }
}

async function waitBriefly(cleanUps: Promise<unknown>): Promise<void> {
  await withTimeout(cleanUps, CLEANUP_WAIT_MS).catch(noop)
}

function noop(): void {}
