/**
 * Locks over any backend. The invariant: every id that was ever sent to the server ends as a held lease, or is undone
 * once the last request that carried it has been answered; what cannot be undone dies of its own lifetime.
 */
import type { Backend, BusyAnswer, Handed } from './backend.ts'
import { answerLimit, bounded } from './bounded.ts'
import { createKeeper, type Grant, holdLease } from './hold.ts'
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
} from './lease.ts'
import { busyError, fail, failOnAbort, placeTtl, type Waiter, waitInLine, wake } from './line.ts'
import { createRemoteLeases } from './remote.ts'
import { createSets } from './set.ts'
import { partOf } from './within.ts'

/** Who gave up waiting is not kept longer than this for the clean-up; it goes on behind. */
const UNDO_PATIENCE_MS = 100

/** More permits than this of one resource would be looked through at each acquire. */
const MOST_PERMITS = 1000

export interface LocksOptions {
  ttl_ms: number
  /** Shown as the holder when an acquire names no owner. */
  instance: string
  events?: LockEvents | undefined
  /** How long a lease on this resource is expected to be held, in ms; LockEvents.heldLong tells of longer ones. */
  expected_hold_ms?: ((resource: string) => number | undefined) | undefined
}

export function createLocksOn<M extends Mode = Mode>(backend: Backend, options: LocksOptions): Locks<M> {
  const { ttl_ms: default_ttl_ms, instance, events = {}, expected_hold_ms } = options
  const waiters = new Map<number, Waiter>()
  let seats = 0
  const undoing = new Set<Promise<void>>()
  let closed: Error | undefined
  const keeper = createKeeper({ backend, events, expected_hold_ms, undo: (...lost) => void undo(...lost) })

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

  /** Who asks, checked, with an id of its own. @throws RangeError, or why nothing may be asked any more */
  function asker(options: Terms & Ask) {
    const { ttl_ms = default_ttl_ms, above = 0, mode = 'exclusive', limit = 0, job, max_hold_ms, progress_ms } = options
    checkTtl(ttl_ms)
    checkDeadline('max_hold_ms', max_hold_ms)
    checkDeadline('progress_ms', progress_ms)
    if (!(Number.isSafeInteger(above) && above >= 0)) throw new RangeError(`above is no token: ${above}`)
    if (mode === 'permit' ? !(Number.isInteger(limit) && limit >= 1 && limit <= MOST_PERMITS) : limit !== 0) {
      throw new RangeError(`limit must be whole, from 1 to ${MOST_PERMITS}, and is for permits only: ${limit}`)
    }
    if (closed) throw closed
    options.signal?.throwIfAborted()
    const owner = (options.owner ?? instance) + (job === undefined ? '' : ` ${job}`)
    const seat = ++seats
    const id = backend.newId({ seat, owner, mode, limit, ttl_ms })
    return { seat, owner, mode, limit, ttl_ms, above, id, max_hold_ms, progress_ms }
  }

  async function claim(resource: string, options: AcquireOptions): Promise<Grant | BusyAnswer> {
    const { wait_ms = 0, signal } = options
    const { seat, owner, max_hold_ms, progress_ms, ...wanted } = asker(options)
    const { id, ttl_ms, mode } = wanted
    const waiter: Waiter = { woken: false }
    const aborts = signal && failOnAbort(signal, waiter)
    waiters.set(seat, waiter)
    backend.listen(heard)
    const began = performance.now()
    try {
      const request = { resource, ...wanted, place_ttl_ms: wait_ms > 0 ? placeTtl(ttl_ms) : 0, ticket: 0 }
      const outcome = await waitInLine(backend, request, waiter, began + wait_ms, events.contended)
      // The abort may have come between the answer and this line.
      if (waiter.failed) throw waiter.failed.reason
      if (outcome.granted) {
        events.acquired?.(resource, performance.now() - began)
        const { token, sent_at, valid_ms } = outcome
        return { resource, id, seat, mode, owner, token, ttl_ms, sent_at, valid_ms, max_hold_ms, progress_ms }
      }
      events.failed?.(resource, 'lock_busy')
      if (outcome.ticket > 0) await patiently(undo(resource, id, ttl_ms, waiter.asked))
      return outcome
    } catch (error) {
      events.failed?.(resource, closed ? 'closed' : waiter.failed ? 'aborted' : 'unreachable')
      const undone = undo(resource, id, ttl_ms, waiter.asked)
      if (waiter.failed) await patiently(undone)
      throw error
    } finally {
      waiters.delete(seat)
      aborts?.delete(waiter)
      waiter.ended?.()
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

  async function acquire(resource: string, options: AcquireOptions = {}): Promise<Lease> {
    if (options.within) return partOf(options.within, resource, options.mode)
    const claimed = await claim(resource, options)
    if ('granted' in claimed) throw busyError(resource, claimed)
    return holdLease(keeper, claimed)
  }

  async function tryAcquire(resource: string, options: TryOptions = {}): Promise<Lease | undefined> {
    if (options.within) return partOf(options.within, resource, options.mode)
    const claimed = await claim(resource, 'wait_ms' in options ? { ...options, wait_ms: 0 } : options)
    return 'granted' in claimed ? undefined : holdLease(keeper, claimed)
  }

  async function withLease(
    resource: string,
    { onBusy, ...options }: AcquireOptions & { onBusy?: unknown },
    body: (lease: Lease) => Promise<unknown>,
  ): Promise<unknown> {
    let lease: Lease
    try {
      lease = await acquire(resource, options as AcquireOptions)
    } catch (error) {
      if (onBusy === undefined || !(error instanceof LockBusyError)) throw error
      return typeof onBusy === 'function' ? onBusy(error) : onBusy
    }
    try {
      return await body(lease)
    } finally {
      await lease.release()
    }
  }

  async function releaseMany(leases: Iterable<Lease>): Promise<void> {
    await Promise.all(Array.from(leases, (lease) => lease.release()))
  }

  checkTtl(default_ttl_ms)
  const { acquireAll } = createSets({ backend, keeper, events, asker, acquire, releaseMany, undo })
  const locks: Locks = {
    acquire,
    tryAcquire,
    acquireAll,
    releaseMany,
    remote: createRemoteLeases({ backend, events, claim, undo }),

    withLease: withLease as Locks['withLease'],

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

    async inspect(resource) {
      const [state] = await bounded(backend.inspect([resource]), answerLimit(default_ttl_ms))
      if (!state) throw new Error(`the lock server said nothing about ${resource}`)
      return state
    },

    async list() {
      const resources = await bounded(backend.list(), answerLimit(default_ttl_ms))
      const states = await bounded(backend.inspect(resources.sort()), answerLimit(default_ttl_ms))
      return states.filter(({ holders, waiters }) => holders.length + waiters.length > 0)
    },

    async forceRelease(resource, { above = 0 } = {}) {
      return await bounded(backend.force(resource, above), answerLimit(default_ttl_ms))
    },

    async close() {
      if (closed) return
      const reason = new Error('the locks are closed')
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
    },
  }
  return locks as Locks<M>
}

async function patiently(undone: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const enough = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, UNDO_PATIENCE_MS)
  })
  await Promise.race([undone, enough])
  clearTimeout(timer)
}

/** Below 20 ms the drift margin eats the lease; above a day a timer may overflow and nobody recovers from a crash. */
function checkTtl(ttl_ms: number): void {
  if (Number.isInteger(ttl_ms) && ttl_ms >= 20 && ttl_ms <= 86_400_000) return
  throw new RangeError(`ttl_ms must be whole, from 20 ms to a day: ${ttl_ms}`)
}

function checkDeadline(name: string, ms: number | undefined): void {
  if (ms === undefined || (Number.isSafeInteger(ms) && ms >= 1)) return
  throw new RangeError(`${name} must be whole and at least 1: ${ms}`)
}

function noop(): void {}
