/**
 * Locks over any backend. The invariant: every id that was ever sent to the server ends as a held lease, or is
 * undone once the last request that carried it has been answered.
 */
import type { Backend } from './backend.ts'
import { answerLimit, bounded } from './bounded.ts'
import { type HeldLease, holdLease, type Keeper } from './hold.ts'
import {
  type AcquireOptions,
  type Lease,
  LockBusyError,
  type LockEvents,
  type Locks,
  type TryOptions,
} from './lease.ts'
import { fail, type Waiter, waitInLine, wake } from './line.ts'

/** An aborted caller is not kept waiting for the clean-up longer than this; it goes on behind. */
const ABORT_PATIENCE_MS = 100

export interface LocksOptions {
  ttl_ms: number
  /** Shown as the holder when an acquire names no owner. */
  instance: string
  events?: LockEvents
}

export function createLocksOn(
  backend: Backend,
  { ttl_ms: default_ttl_ms, instance, events = {} }: LocksOptions,
): Locks {
  const waiters = new Map<string, Waiter>()
  const undoing = new Set<Promise<void>>()
  const closing = new AbortController()
  const keeper: Keeper = { backend, events, undo: (...id) => void undo(...id), held: new Set() }

  /** Takes back what the id may have on the server; tries again until its longest lifetime there has passed. */
  function undo(resource: string, id: string, ttl_ms: number): Promise<void> {
    const work = (async () => {
      const over_at = performance.now() + ttl_ms
      for (let pause_ms = 50; performance.now() < over_at; pause_ms *= 2) {
        try {
          return await bounded(backend.cancel(resource, id), answerLimit(ttl_ms))
        } catch {
          if (closing.signal.aborted) return
          await new Promise((resolve) => setTimeout(resolve, pause_ms).unref())
        }
      }
    })().finally(() => undoing.delete(work))
    undoing.add(work)
    return work
  }

  async function acquire(resource: string, options: AcquireOptions = {}): Promise<Lease> {
    const { wait_ms = 0, ttl_ms = default_ttl_ms, signal, owner = instance, above = 0 } = options
    if (!(Number.isSafeInteger(ttl_ms) && ttl_ms > 0)) throw new RangeError(`ttl_ms must be a whole number: ${ttl_ms}`)
    if (!(Number.isSafeInteger(above) && above >= 0)) throw new RangeError(`above must be a token: ${above}`)
    closing.signal.throwIfAborted()
    signal?.throwIfAborted()

    const id = backend.newId()
    const waiter: Waiter = { woken: false }
    const began = performance.now()
    const onAbort = () => fail(waiter, signal?.reason)
    signal?.addEventListener('abort', onAbort, { once: true })
    waiters.set(id, waiter)
    if (wait_ms > 0) backend.listen(woken)
    try {
      const request = { resource, id, ttl_ms, owner, above }
      const contended = () => events.contended?.(resource)
      const outcome = await waitInLine(backend, request, waiter, { began, wait_ms, contended })
      if ('granted' in outcome) {
        events.acquired?.(resource, performance.now() - began)
        return holdLease(keeper, { resource, id, ttl_ms, ...outcome.granted })
      }
      const { busy } = outcome
      if (busy.ticket > 0) await undo(resource, id, ttl_ms)
      events.failed?.(resource, 'lock_busy')
      throw new LockBusyError(resource, {
        holder: busy.holder,
        waiting: Math.max(0, busy.waiting - (busy.ticket > 0 ? 1 : 0)),
        retry_after_ms: Math.max(0, busy.free_in_ms),
      })
    } catch (error) {
      if (error instanceof LockBusyError) throw error
      // The last attempt may still take the lock: a cancel that overtook it would leave the lock behind for a TTL.
      const undone = (waiter.asked ?? Promise.resolve()).then(noop, noop).then(() => undo(resource, id, ttl_ms))
      undoing.add(undone)
      undone.finally(() => undoing.delete(undone))
      if (waiter.failed) await Promise.race([undone, new Promise((resolve) => setTimeout(resolve, ABORT_PATIENCE_MS))])
      events.failed?.(resource, closing.signal.aborted ? 'closed' : waiter.failed ? 'aborted' : 'unreachable')
      throw error
    } finally {
      waiters.delete(id)
      signal?.removeEventListener('abort', onAbort)
    }
  }

  function woken(id: string | 'all'): void {
    if (id === 'all') for (const waiter of waiters.values()) wake(waiter)
    else wake(waiters.get(id))
  }

  async function tryAcquire(resource: string, options: TryOptions = {}): Promise<Lease | undefined> {
    try {
      return await acquire(resource, { ...options, wait_ms: 0 })
    } catch (error) {
      if (error instanceof LockBusyError) return undefined
      throw error
    }
  }

  async function releaseMany(leases: Iterable<Lease>): Promise<void> {
    await Promise.all(Array.from(leases, (lease) => lease.release()))
  }

  return {
    acquire,
    tryAcquire,
    releaseMany,

    async withLease(resource, options, body) {
      const lease = await acquire(resource, options)
      try {
        return await body(lease)
      } finally {
        await lease.release()
      }
    },

    async tryAcquireMany(resources, options) {
      const unique = [...new Set(resources)]
      const tried = await Promise.allSettled(unique.map((resource) => tryAcquire(resource, options)))
      const leases = new Map<string, Lease>()
      for (const one of tried) if (one.status === 'fulfilled' && one.value) leases.set(one.value.resource, one.value)
      const failed = tried.find((one) => one.status === 'rejected')
      if (!failed) return leases
      await releaseMany(leases.values())
      throw failed.reason
    },

    async close() {
      if (closing.signal.aborted) return
      closing.abort(new Error('the locks are closed'))
      for (const waiter of waiters.values()) fail(waiter, closing.signal.reason)
      await Promise.all(Array.from(keeper.held, (lease: HeldLease) => lease.giveUp()))
      // Bounded: where the server hangs, what is left there dies of its own lifetime.
      await bounded(Promise.all(undoing), answerLimit(default_ttl_ms)).catch(noop)
      await backend.close()
    },
  }
}

function noop(): void {}
