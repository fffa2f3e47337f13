/**
 * The locks over any backend. Invariant: every id that was ever sent to the server ends as a held lease, or is cleaned
 * up after the last request that carried it has been answered; what cannot be cleaned up expires with its TTL.
 */

import { withTimeout } from '../../timeout.ts'
import {
  type AcquireOptions,
  type Lease,
  type LeaseOptions,
  LockBusyError,
  type LockEvents,
  type LockMode,
  type Locks,
  type Mode,
  type TryOptions,
} from '../api.ts'
import { createAcquireAll } from './acquire-all.ts'
import { awaitAnswer } from './answer-limit.ts'
import { checkedLeases, checkFunction, checkNumber, checkOptions, checkResource, checkResources } from './arguments.ts'
import type { Backend, BusyAnswer, Handoff } from './backend.ts'
import { createLeaseRegistry, type GrantedLock, holdLease, type LeaseRequest } from './held-lease.ts'
import { createRemoteLeases } from './lease-handle.ts'
import { nestedLease } from './nested-lease.ts'
import { abort, abortOnSignal, busyError, slotTtl, type Waiter, waitForLock, wake } from './wait-queue.ts'

/** A caller whose wait was cancelled waits no longer than this for the clean-up, which continues in the background. */
const CLEANUP_WAIT_MS = 100

export interface LocksOptions {
  ttl_ms: number
  /** The holder's name when an acquire names no owner. */
  instance: string
  events?: LockEvents | undefined
  /** How long a lease on this resource is expected to be held, in ms; LockEvents.longHold reports longer ones. */
  expected_hold_ms?: ((resource: string) => number | undefined) | undefined
}

/** @param options already checked by the factory that made the backend (checkSetting) */
export function createLocksOn<M extends Mode = Mode>(backend: Backend, options: LocksOptions): Locks<M> {
  const { ttl_ms: default_ttl_ms, instance, events = {}, expected_hold_ms } = options
  const waiters = new Map<number, Waiter>()
  let last_waiter_id = 0
  const runningCleanUps = new Set<Promise<void>>()
  let closed: Error | undefined
  let closing: Promise<void> | undefined
  const registry = createLeaseRegistry({ backend, events, cleanUp: (...lost) => void cleanUp(...lost) })

  /**
   * Removes what the id may have on the server. Waits for `pending`, its last request: a cancel that overtook it would
   * leave a lock behind for a TTL. Some clients never settle requests of a reset connection, so this wait has a limit;
   * a later answer is cleaned up again.
   */
  function cleanUp(resource: string, id: string, ttl_ms: number, pending?: Promise<unknown>): Promise<void> {
    const work = (async () => {
      if (pending) {
        await awaitAnswer(pending, ttl_ms).catch(() => {
          pending.then(() => cleanUp(resource, id, ttl_ms), noop)
        })
      }
      const gone_at = performance.now() + ttl_ms
      for (let pause_ms = 50; performance.now() < gone_at; pause_ms *= 2) {
        try {
          await awaitAnswer(backend.cancel(resource, id), ttl_ms)
          return
        } catch {
          if (closed) return
          await new Promise((resolve) => setTimeout(resolve, pause_ms).unref())
        }
      }
    })().finally(() => runningCleanUps.delete(work))
    runningCleanUps.add(work)
    return work
  }

  /** Called before any request is sent, so that an exception of the callback leaves no lock behind. */
  function expectedOf(resource: string): number | undefined {
    const expected = expected_hold_ms?.(resource)
    checkNumber('expected_hold_ms of a resource', expected, { min: 0, integer: false })
    return expected
  }

  /** A new request with its own id. @throws the reason why no request may be sent any more */
  function newRequest(resource: string, options: LeaseOptions & LockMode): LeaseRequest {
    if (closed) throw closed
    options.signal?.throwIfAborted()
    const { ttl_ms = default_ttl_ms, above = 0, mode = 'exclusive', limit = 0 } = options
    const { job, max_hold_ms, progress_ms } = options
    const owner = (options.owner ?? instance) + (job === undefined ? '' : ` ${job}`)
    const waiter_id = ++last_waiter_id
    const id = backend.newOwnerId({ waiter_id, owner, mode, limit, ttl_ms })
    // Every acquisition comes through here, so each holder receives revocations and each waiter its turn.
    backend.listen(onMessage)
    const expected_ms = expectedOf(resource)
    return { resource, waiter_id, owner, mode, limit, ttl_ms, above, id, expected_ms, max_hold_ms, progress_ms }
  }

  /** Registers a waiter that the signal and close() can end; close() waits until it has ended. */
  function startWait(waiter_id: number, signal: AbortSignal | undefined): { waiter: Waiter; endWait: () => void } {
    const waiter: Waiter = { woken: false }
    const aborts = signal && abortOnSignal(signal, waiter)
    waiters.set(waiter_id, waiter)
    const endWait = () => {
      waiters.delete(waiter_id)
      aborts?.delete(waiter)
      waiter.ended?.()
    }
    return { waiter, endWait }
  }

  /** Reports requests that ended without a lease, and cleans up what they may have been granted. */
  async function reportFailure(requests: readonly LeaseRequest[], waiter: Waiter): Promise<void> {
    const why = closed ? 'closed' : waiter.aborted ? 'aborted' : 'unreachable'
    const cleanUps = requests.map(({ resource, id, ttl_ms }) => {
      events.failed?.(resource, why)
      return cleanUp(resource, id, ttl_ms, waiter.pending)
    })
    if (waiter.aborted) await waitBriefly(Promise.all(cleanUps))
  }

  /** @param makeLease turns the grant into what the caller gets, before other code can run */
  async function acquireGrant<T extends object>(
    resource: string,
    options: TryOptions,
    wait_ms: number,
    makeLease: (grant: GrantedLock, waiter: Waiter) => T | Promise<T>,
  ): Promise<T | BusyAnswer> {
    const requested = newRequest(resource, options)
    const { waiter_id, id, ttl_ms, mode, limit, above } = requested
    const { waiter, endWait } = startWait(waiter_id, options.signal)
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
        if (closed) throw closed
        return made
      }
      events.failed?.(resource, 'lock_busy')
      if (outcome.ticket > 0) await waitBriefly(cleanUp(resource, id, ttl_ms, waiter.pending))
      return outcome
    } catch (error) {
      await reportFailure([requested], waiter)
      throw error
    } finally {
      endWait()
    }
  }

  function onMessage(waiter_id: number | 'all', what?: Handoff | 'taken'): void {
    if (waiter_id === 'all') {
      for (const waiter of waiters.values()) wake(waiter)
      for (const lease of registry.held.values()) lease.verify()
    } else if (what === 'taken') {
      registry.held.get(waiter_id)?.onRevoked()
    } else {
      // No such waiter: its wait has ended, and its cancel, which follows, hands the lock over.
      const waiter = waiters.get(waiter_id)
      if (waiter) wake(waiter, what)
    }
  }

  const holdGrant = (grant: GrantedLock) => holdLease(registry, grant)

  /** Expects checked arguments. */
  async function acquireOrNest(resource: string, options: TryOptions, wait_ms: number): Promise<Lease | BusyAnswer> {
    if (closed) throw closed
    if (options.within) return nestedLease(options.within, resource, options.mode)
    return await acquireGrant(resource, options, wait_ms, holdGrant)
  }

  async function acquire(resource: string, options: AcquireOptions = {}): Promise<Lease> {
    checkResource(resource)
    checkOptions(options)
    const outcome = await acquireOrNest(resource, options, options.wait_ms ?? 0)
    if ('granted' in outcome) throw busyError(resource, outcome)
    return outcome
  }

  async function tryAcquire(resource: string, options: TryOptions = {}): Promise<Lease | undefined> {
    checkResource(resource)
    checkOptions(options)
    const outcome = await acquireOrNest(resource, options, 0)
    return 'granted' in outcome ? undefined : outcome
  }

  async function withLease(
    resource: string,
    options: AcquireOptions & { onBusy?: unknown },
    body: (lease: Lease) => Promise<unknown>,
  ): Promise<unknown> {
    checkFunction('body', body)
    let lease: Lease
    try {
      lease = await acquire(resource, options)
    } catch (error) {
      const onBusy = options?.onBusy
      if (onBusy === undefined || !(error instanceof LockBusyError)) throw error
      return typeof onBusy === 'function' ? onBusy(error) : onBusy
    }
    try {
      // Closed since the grant: close() has released the lease.
      if (closed) throw closed
      return await body(lease)
    } finally {
      await lease.release()
    }
  }

  async function releaseMany(leases: Iterable<Lease>): Promise<void> {
    await Promise.all(Array.from(leases, (lease) => lease.release()))
  }

  async function tryAcquireMany(resources: readonly string[], options: TryOptions = {}): Promise<Map<string, Lease>> {
    checkResources(resources)
    checkOptions(options)
    const unique = [...new Set(resources)]
    const tried = await Promise.allSettled(unique.map((resource) => acquireOrNest(resource, options, 0)))
    const leases = new Map<string, Lease>()
    for (const one of tried) {
      if (one.status === 'fulfilled' && !('granted' in one.value)) leases.set(one.value.resource, one.value)
    }
    const failure = tried.find((one) => one.status === 'rejected')
    if (!failure) return leases
    await releaseMany(leases.values())
    throw failure.reason
  }

  /** Releases every lease and cleans up every request: no lease outlives this. */
  async function closeAll(): Promise<void> {
    const reason = Object.assign(new Error('the locks are closed'), { code: 'closed' })
    closed = reason
    const ends = Array.from(waiters.values(), (waiter) => {
      const ended = new Promise<void>((resolve) => {
        waiter.ended = resolve
      })
      abort(waiter, reason)
      return ended
    })
    await Promise.all([...ends, ...Array.from(registry.held.values(), (lease) => lease.abandon())])
    // Limited: on a server that hangs, what is left expires with its TTL.
    await awaitAnswer(Promise.all(runningCleanUps), default_ttl_ms).catch(noop)
    await backend.close()
  }

  const { acquireAll } = createAcquireAll({
    backend,
    registry,
    events,
    newRequest,
    startWait,
    reportFailure,
    acquireGrant,
    releaseMany,
  })
  const locks: Locks = {
    acquire,
    tryAcquire,
    acquireAll,
    tryAcquireMany,
    remote: createRemoteLeases({ backend, events, acquireGrant }),

    withLease: withLease as Locks['withLease'],

    async releaseMany(leases) {
      await releaseMany(checkedLeases(leases))
    },

    async inspect(resource) {
      checkResource(resource)
      const [state] = await awaitAnswer(backend.inspect([resource]), default_ttl_ms)
      if (!state) throw new Error(`the lock server did not answer for ${resource}`)
      return state
    },

    async list() {
      const resources = await awaitAnswer(backend.list(), default_ttl_ms)
      const states = await awaitAnswer(backend.inspect(resources.sort()), default_ttl_ms)
      return states.filter(({ holders, waiters }) => holders.length + waiters.length > 0)
    },

    async forceRelease(resource, options = {}) {
      checkResource(resource)
      checkOptions(options)
      const { above = 0 } = options
      return await awaitAnswer(backend.force(resource, above), default_ttl_ms)
    },

    close() {
      closing ??= closeAll()
      return closing
    },
  }
  return locks as Locks<M>
}

async function waitBriefly(cleanUps: Promise<unknown>): Promise<void> {
  await withTimeout(cleanUps, CLEANUP_WAIT_MS).catch(noop)
}

function noop(): void {}
