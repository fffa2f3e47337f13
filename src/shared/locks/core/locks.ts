/**
 * Locks over any backend. The invariant: every id that was ever sent to the server ends as a held lease, or is undone
 * once the last request that carried it has been answered; what cannot be undone dies of its own lifetime.
 */

import { answerLimit, bounded } from '../../timeout.ts'
import {
  type AcquireOptions,
  type Ask,
  type Lease,
  LockBusyError,
  type LockEvents,
  type Locks,
  type Mode,
  type Terms,
  type TryOptions,
} from '../api.ts'
import { createSets } from './acquire-all.ts'
import { checkedLeases, checkFunction, checkNumber, checkOptions, checkResource, checkResources } from './arguments.ts'
import type { Backend, BusyAnswer, Handed } from './backend.ts'
import { type Asking, createKeeper, type Grant, holdLease } from './held-lease.ts'
import { createRemoteLeases } from './lease-handle.ts'
import { partOf } from './nested-lease.ts'
import { busyError, fail, failOnAbort, placeTtl, type Waiter, waitInLine, wake } from './wait-queue.ts'

/** Who gave up waiting is not kept longer than this for the clean-up; it goes on behind. */
const UNDO_PATIENCE_MS = 100

export interface LocksOptions {
  ttl_ms: number
  /** Shown as the holder when an acquire names no owner. */
  instance: string
  events?: LockEvents | undefined
  /** How long a lease on this resource is expected to be held, in ms; LockEvents.heldLong tells of longer ones. */
  expected_hold_ms?: ((resource: string) => number | undefined) | undefined
}

/** @param options checked by who has made the backend: checkSetting */
export function createLocksOn<M extends Mode = Mode>(backend: Backend, options: LocksOptions): Locks<M> {
  const { ttl_ms: default_ttl_ms, instance, events = {}, expected_hold_ms } = options
  const waiters = new Map<number, Waiter>()
  let seats = 0
  const undoing = new Set<Promise<void>>()
  let closed: Error | undefined
  let closing: Promise<void> | undefined
  const keeper = createKeeper({ backend, events, undo: (...lost) => void undo(...lost) })

  /**
   * Takes back what the id may have on the server. Not before `asked`, its last request, has been answered, if it is: a
   * cancel that overtook it would leave a lock behind for a TTL. Some clients never settle what a reset connection took
   * with it, so that has a limit too; and whatever is answered after that is undone once more.
   */
  function undo(resource: string, id: string, ttl_ms: number, asked?: Promise<unknown>): Promise<void> {
    const work = (async () => {
      if (asked) {
        await bounded(asked, answerLimit(ttl_ms)).catch(() => {
          asked.then(() => undo(resource, id, ttl_ms), noop)
        })
      }
      const gone_at = performance.now() + ttl_ms
      for (let pause_ms = 50; performance.now() < gone_at; pause_ms *= 2) {
        try {
          await bounded(backend.cancel(resource, id), answerLimit(ttl_ms))
          return
        } catch {
          if (closed) return
          await new Promise((resolve) => setTimeout(resolve, pause_ms).unref())
        }
      }
    })().finally(() => undoing.delete(work))
    undoing.add(work)
    return work
  }

  /** How long a lease on this shall be held at most. Asked before anything is sent: what it throws costs no lease. */
  function expectedOf(resource: string): number | undefined {
    const expected = expected_hold_ms?.(resource)
    checkNumber('expected_hold_ms of a resource', expected, { least: 0, whole: false })
    return expected
  }

  /** Who asks, with an id of its own. @throws why nothing may be asked any more */
  function asker(resource: string, options: Terms & Ask): Asking {
    if (closed) throw closed
    options.signal?.throwIfAborted()
    const { ttl_ms = default_ttl_ms, above = 0, mode = 'exclusive', limit = 0 } = options
    const { job, max_hold_ms, progress_ms } = options
    const owner = (options.owner ?? instance) + (job === undefined ? '' : ` ${job}`)
    const seat = ++seats
    const id = backend.newId({ seat, owner, mode, limit, ttl_ms })
    // Every way to a held lease comes by here: its holder hears of a forced release, its waiter of its turn.
    backend.listen(heard)
    const expected_ms = expectedOf(resource)
    return { resource, seat, owner, mode, limit, ttl_ms, above, id, expected_ms, max_hold_ms, progress_ms }
  }

  /** What waits under this ends with the signal and with close(), which waits until it has left. */
  function enter(seat: number, signal: AbortSignal | undefined): { waiter: Waiter; leave: () => void } {
    const waiter: Waiter = { woken: false }
    const aborts = signal && failOnAbort(signal, waiter)
    waiters.set(seat, waiter)
    const leave = () => {
      waiters.delete(seat)
      aborts?.delete(waiter)
      waiter.ended?.()
    }
    return { waiter, leave }
  }

  /** Reports a request that ended without a lease, and takes back what it may have got all the same. */
  async function failed(asked: readonly Asking[], waiter: Waiter): Promise<void> {
    const why = closed ? 'closed' : waiter.failed ? 'aborted' : 'unreachable'
    const undone = asked.map(({ resource, id, ttl_ms }) => {
      events.failed?.(resource, why)
      return undo(resource, id, ttl_ms, waiter.asked)
    })
    if (waiter.failed) await patiently(Promise.all(undone))
  }

  /** @param keep makes of the grant what the caller gets, before anything else may run */
  async function claim<T extends object>(
    resource: string,
    options: TryOptions,
    wait_ms: number,
    keep: (grant: Grant, waiter: Waiter) => T | Promise<T>,
  ): Promise<T | BusyAnswer> {
    const asking = asker(resource, options)
    const { seat, id, ttl_ms, mode, limit, above } = asking
    const { waiter, leave } = enter(seat, options.signal)
    const began = performance.now()
    try {
      const place_ttl_ms = wait_ms > 0 ? placeTtl(ttl_ms) : 0
      const request = { resource, id, mode, limit, ttl_ms, above, place_ttl_ms, ticket: 0 }
      const outcome = await waitInLine(backend, request, waiter, began + wait_ms, events.contended)
      // The abort may have come between the answer and this line.
      if (waiter.failed) throw waiter.failed.reason
      if (outcome.granted) {
        const { token, sent_at, valid_ms } = outcome
        const kept = await keep({ ...asking, token, sent_at, valid_ms }, waiter)
        events.acquired?.(resource, performance.now() - began)
        if (closed) throw closed
        return kept
      }
      events.failed?.(resource, 'lock_busy')
      if (outcome.ticket > 0) await patiently(undo(resource, id, ttl_ms, waiter.asked))
      return outcome
    } catch (error) {
      await failed([asking], waiter)
      throw error
    } finally {
      leave()
    }
  }

  function heard(seat: number | 'all', what?: Handed | 'taken'): void {
    if (seat === 'all') {
      for (const waiter of waiters.values()) wake(waiter)
      for (const lease of keeper.held.values()) lease.ask()
    } else if (what === 'taken') {
      keeper.held.get(seat)?.robbed()
    } else {
      // Nobody there: the wait has ended, and its cancel, which comes after, hands the lock on.
      const waiter = waiters.get(seat)
      if (waiter) wake(waiter, what)
    }
  }

  const hold = (grant: Grant) => holdLease(keeper, grant)

  /** With arguments that are checked. */
  async function take(resource: string, options: TryOptions, wait_ms: number): Promise<Lease | BusyAnswer> {
    if (closed) throw closed
    if (options.within) return partOf(options.within, resource, options.mode)
    return await claim(resource, options, wait_ms, hold)
  }

  async function acquire(resource: string, options: AcquireOptions = {}): Promise<Lease> {
    checkResource(resource)
    checkOptions(options)
    const taken = await take(resource, options, options.wait_ms ?? 0)
    if ('granted' in taken) throw busyError(resource, taken)
    return taken
  }

  async function tryAcquire(resource: string, options: TryOptions = {}): Promise<Lease | undefined> {
    checkResource(resource)
    checkOptions(options)
    const taken = await take(resource, options, 0)
    return 'granted' in taken ? undefined : taken
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
      // Closed since it was granted: then it has been given back.
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
    const tried = await Promise.allSettled(unique.map((resource) => take(resource, options, 0)))
    const leases = new Map<string, Lease>()
    for (const one of tried) {
      if (one.status === 'fulfilled' && !('granted' in one.value)) leases.set(one.value.resource, one.value)
    }
    const failed = tried.find((one) => one.status === 'rejected')
    if (!failed) return leases
    await releaseMany(leases.values())
    throw failed.reason
  }

  /** Gives back what is held and what is still asked for: no lease outlives this. */
  async function shut(): Promise<void> {
    const reason = Object.assign(new Error('the locks are closed'), { code: 'closed' })
    closed = reason
    const ends = Array.from(waiters.values(), (waiter) => {
      const ended = new Promise<void>((resolve) => {
        waiter.ended = resolve
      })
      fail(waiter, reason)
      return ended
    })
    await Promise.all([...ends, ...Array.from(keeper.held.values(), (lease) => lease.giveUp())])
    // Bounded: where the server hangs, what is left there dies of its own lifetime.
    await bounded(Promise.all(undoing), answerLimit(default_ttl_ms)).catch(noop)
    await backend.close()
  }

  const { acquireAll } = createSets({ backend, keeper, events, asker, enter, failed, claim, releaseMany })
  const locks: Locks = {
    acquire,
    tryAcquire,
    acquireAll,
    tryAcquireMany,
    remote: createRemoteLeases({ backend, events, claim }),

    withLease: withLease as Locks['withLease'],

    async releaseMany(leases) {
      await releaseMany(checkedLeases(leases))
    },

    async inspect(resource) {
      checkResource(resource)
      const [state] = await bounded(backend.inspect([resource]), answerLimit(default_ttl_ms))
      if (!state) throw new Error(`the lock server said nothing about ${resource}`)
      return state
    },

    async list() {
      const resources = await bounded(backend.list(), answerLimit(default_ttl_ms))
      const states = await bounded(backend.inspect(resources.sort()), answerLimit(default_ttl_ms))
      return states.filter(({ holders, waiters }) => holders.length + waiters.length > 0)
    },

    async forceRelease(resource, options = {}) {
      checkResource(resource)
      checkOptions(options)
      const { above = 0 } = options
      return await bounded(backend.force(resource, above), answerLimit(default_ttl_ms))
    },

    close() {
      closing ??= shut()
      return closing
    },
  }
  return locks as Locks<M>
}

async function patiently(undone: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const enough = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, UNDO_PATIENCE_MS)
  })
  await Promise.race([undone, enough])
  clearTimeout(timer)
}

function noop(): void {}
