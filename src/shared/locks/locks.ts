/**
 * Locks over any backend. The invariant: every id that was ever sent to the server ends as a held lease, or is undone
 * once the last request that carried it has been answered; what cannot be undone dies of its own lifetime.
 */
import type { Backend, Handed } from './backend.ts'
import { answerLimit, bounded } from './bounded.ts'
import { createKeeper, type HeldLease, holdLease } from './hold.ts'
import {
  type AcquireOptions,
  type Lease,
  LockBusyError,
  type LockEvents,
  type Locks,
  type TryOptions,
} from './lease.ts'
import { type Busy, fail, failOnAbort, placeTtl, type Waiter, waitInLine, wake } from './line.ts'

/** Who gave up waiting is not kept longer than this for the clean-up; it goes on behind. */
const UNDO_PATIENCE_MS = 100

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
  const waiters = new Map<number, Waiter>()
  let seats = 0
  const undoing = new Set<Promise<void>>()
  let closed: Error | undefined
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

  async function claim(resource: string, options: AcquireOptions): Promise<HeldLease | Busy> {
    const { wait_ms = 0, ttl_ms = default_ttl_ms, signal, owner = instance, above = 0 } = options
    checkTtl(ttl_ms)
    if (!(Number.isSafeInteger(above) && above >= 0)) throw new RangeError(`above is no token: ${above}`)
    if (closed) throw closed
    signal?.throwIfAborted()

    const seat = ++seats
    const id = backend.newId(seat, owner)
    const waiter: Waiter = { woken: false }
    const aborts = signal && failOnAbort(signal, waiter)
    waiters.set(seat, waiter)
    if (wait_ms > 0) backend.listen(heard)
    const began = performance.now()
    try {
      const place_ttl_ms = wait_ms > 0 ? placeTtl(ttl_ms) : 0
      const request = { resource, id, ttl_ms, above, place_ttl_ms, ticket: 0 }
      const outcome = await waitInLine(backend, request, waiter, began + wait_ms, events.contended)
      // The abort may have come between the answer and this line.
      if (waiter.failed) throw waiter.failed.reason
      if (outcome.granted) {
        events.acquired?.(resource, performance.now() - began)
        const { token, sent_at, valid_ms } = outcome
        return holdLease(keeper, { resource, id, token, ttl_ms, sent_at, valid_ms })
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

  function heard(seat: number | 'all', handed?: Handed): void {
    if (seat === 'all') {
      for (const waiter of waiters.values()) wake(waiter)
      return
    }
    // Nobody there: the wait has ended, and its cancel, which comes after, hands the lock on.
    const waiter = waiters.get(seat)
    if (waiter) wake(waiter, handed)
  }

  async function acquire(resource: string, options: AcquireOptions = {}): Promise<Lease> {
    const outcome = await claim(resource, options)
    if (!('granted' in outcome)) return outcome
    throw new LockBusyError(resource, {
      holder: outcome.holder,
      waiting: outcome.ticket > 0 ? Math.max(0, outcome.waiting - 1) : outcome.waiting,
      retry_after_ms: Math.max(0, outcome.free_in_ms),
    })
  }

  async function tryAcquire(resource: string, options: TryOptions = {}): Promise<Lease | undefined> {
    const outcome = await claim(resource, 'wait_ms' in options ? { ...options, wait_ms: 0 } : options)
    return 'granted' in outcome ? undefined : outcome
  }

  async function releaseMany(leases: Iterable<Lease>): Promise<void> {
    await Promise.all(Array.from(leases, (lease) => lease.release()))
  }

  checkTtl(default_ttl_ms)
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
      await Promise.all([...ends, ...Array.from(keeper.held, (lease) => lease.giveUp())])
      // Bounded: where the server hangs, what is left there dies of its own lifetime.
      await bounded(Promise.all(undoing), answerLimit(default_ttl_ms)).catch(noop)
      await backend.close()
    },
  }
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

function noop(): void {}
