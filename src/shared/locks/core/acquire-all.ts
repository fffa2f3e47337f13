/**
 * Several leases at once: all or none. The invariant: whoever waits for one holds only what comes before it in the order
 * of names, so no two who take their locks together are deadlocked.
 */

import { answerLimit, bounded } from '../../timeout.ts'
import type { Ask, Lease, LeaseSet, LockEvents, Locks, Terms, Wanted } from '../api.ts'
import { LockBusyError } from '../api.ts'
import { checkOptions, checkWanted, refuse } from './arguments.ts'
import type { Backend, BusyAnswer } from './backend.ts'
import { type Asking, type Grant, type HeldLease, holdLease, type Keeper, validUntil } from './held-lease.ts'
import { busyError, type Waiter } from './wait-queue.ts'

interface Deps {
  backend: Backend
  keeper: Keeper
  events: LockEvents
  asker(resource: string, options: Terms & Ask): Asking
  enter(seat: number, signal: AbortSignal | undefined): { waiter: Waiter; leave: () => void }
  failed(asked: readonly Asking[], waiter: Waiter): Promise<void>
  claim(
    resource: string,
    options: Terms & Ask,
    wait_ms: number,
    keep: (grant: Grant) => HeldLease,
  ): Promise<HeldLease | BusyAnswer>
  releaseMany(leases: Iterable<Lease>): Promise<void>
}

type One = { resource: string } & Ask

export function createSets(deps: Deps): Pick<Locks, 'acquireAll'> {
  const { backend, keeper, events, asker, enter, failed, claim, releaseMany } = deps

  /** All of the group in one step of the server, or the one that was in the way. */
  async function atOnce(group: readonly One[], terms: Terms): Promise<HeldLease[] | LockBusyError> {
    if (!backend.attemptAll) throw new Error('this lock server takes one lock at a time')
    const askers = group.map((one) => asker(one.resource, { ...terms, ...one }))
    const [{ seat, ttl_ms }] = askers as [Asking]
    const { waiter, leave } = enter(seat, terms.signal)
    const sent_at = performance.now()
    try {
      const asked = backend.attemptAll(askers.map((one) => ({ ...one, place_ttl_ms: 0, ticket: 0 })))
      waiter.asked = asked
      const answer = await bounded(asked, answerLimit(ttl_ms), waiter)
      // The abort may have come between the answer and this line.
      if (waiter.failed) throw waiter.failed.reason
      if (!('granted' in answer)) {
        const resource = group[answer.at]?.resource ?? ''
        events.contended?.(resource)
        return busyError(resource, answer.busy)
      }
      if (performance.now() >= validUntil(sent_at, ttl_ms)) throw new Error('the grant came too late')
      // All are held before anything else runs, so that close() finds them.
      const leases = askers.map((one, i) =>
        holdLease(keeper, { ...one, token: answer.tokens[i] ?? 0, sent_at, valid_ms: ttl_ms }),
      )
      for (const { resource } of leases) events.acquired?.(resource, performance.now() - sent_at)
      if (waiter.failed) throw (waiter as Waiter).failed?.reason
      return leases
    } catch (error) {
      await failed(askers, waiter)
      throw error
    } finally {
      leave()
    }
  }

  /** Without waiting, a round trip for each group. */
  async function tryAll(wanted: readonly One[], terms: Terms): Promise<HeldLease[] | LockBusyError> {
    const byName = new Map(wanted.map((one) => [one.resource, one]))
    const groups = backend.together?.([...byName.keys()]) ?? []
    const leases: HeldLease[] = []
    for (const names of groups) {
      const group = names.flatMap((name) => byName.get(name) ?? [])
      const got = await atOnce(group, terms).catch(async (error) => {
        await releaseMany(leases)
        throw error
      })
      if (got instanceof LockBusyError) {
        await releaseMany(leases)
        return got
      }
      leases.push(...got)
    }
    return leases
  }

  /** One after the other, each waited for while those before it are held. */
  async function inOrder(wanted: readonly One[], terms: Terms, until: number): Promise<HeldLease[]> {
    const leases: HeldLease[] = []
    try {
      for (const one of wanted) {
        const wait_ms = Math.max(0, until - performance.now())
        const claimed = await claim(one.resource, { ...terms, ...one }, wait_ms, (grant) => holdLease(keeper, grant))
        if ('granted' in claimed) throw busyError(one.resource, claimed)
        leases.push(claimed)
      }
      return leases
    } catch (error) {
      await releaseMany(leases)
      throw error
    }
  }

  /** Until all are held at the same time: one may be lost while another one is waited for. */
  async function waitForAll(wanted: readonly One[], terms: Terms, until: number): Promise<HeldLease[]> {
    for (;;) {
      const leases = await inOrder(wanted, terms, until)
      const lost = leases.find((lease) => lease.remaining_ms === 0)
      if (!lost) return leases
      await releaseMany(leases)
      if (performance.now() >= until) lost.assertValid()
    }
  }

  return {
    async acquireAll(wanted, options = {}) {
      checkWanted(wanted)
      checkOptions(options)
      refuse(options, ['within', 'mode', 'limit'], 'acquireAll as a whole')
      const { wait_ms = 0, max_hold_ms, progress_ms, ...terms } = options
      const until = performance.now() + wait_ms
      const sorted = merged(wanted)
      const tried = backend.attemptAll ? await tryAll(sorted, terms) : undefined
      if (tried instanceof LockBusyError && wait_ms <= 0) {
        events.failed?.(tried.resource, 'lock_busy')
        throw tried
      }
      const leases = Array.isArray(tried) ? tried : await waitForAll(sorted, terms, until)
      // Their holder cannot show progress before it has them.
      for (const lease of leases) lease.setDeadlines({ max_hold_ms, progress_ms })
      return setOf(leases, releaseMany)
    },
  }
}

/** By name, each once: exclusive covers shared; of two limits the lower one holds. */
function merged(wanted: readonly Wanted[]): One[] {
  const byName = new Map<string, One>()
  for (const entry of wanted) {
    const one: One = typeof entry === 'string' ? { resource: entry } : entry
    const { mode = 'exclusive' } = one
    const other = byName.get(one.resource)
    const other_mode = other?.mode ?? 'exclusive'
    if (other && (mode === 'permit') !== (other_mode === 'permit')) {
      throw new RangeError(`${one.resource} is wanted with a permit and without`)
    }
    const lower = other === undefined || (one.limit ?? 0) < (other.limit ?? 0)
    if (mode === 'exclusive' || (mode === 'permit' && lower) || !other) byName.set(one.resource, one)
  }
  return [...byName.values()].sort((a, b) => (a.resource < b.resource ? -1 : 1))
}

function setOf(leases: readonly Lease[], releaseMany: Deps['releaseMany']): LeaseSet {
  const byName = [...leases].sort((a, b) => (a.resource < b.resource ? -1 : 1))
  let signal: AbortSignal | undefined
  let released: Promise<void> | undefined
  const release = () => {
    released ??= releaseMany(byName)
    return released
  }
  return {
    leases: new Map(byName.map((lease) => [lease.resource, lease])),
    get signal() {
      signal ??= AbortSignal.any(byName.map((lease) => lease.signal))
      return signal
    },
    get remaining_ms() {
      return Math.min(...byName.map((lease) => lease.remaining_ms))
    },
    assertValid() {
      for (const lease of byName) lease.assertValid()
    },
    progress() {
      for (const lease of byName) lease.progress()
    },
    release,
    [Symbol.asyncDispose]: release,
  }
}
