/**
 * Acquires several leases at once, all or none. Invariant: a caller that waits for one resource holds only resources
 * that come before it by name, so two callers that acquire together are never deadlocked.
 */

import type { Lease, LeaseOptions, LeaseSet, LockMode, LockRequest } from '../api.ts'
import { LockBusyError } from '../api.ts'
import type { Acquisitions } from './acquisitions.ts'
import { awaitAnswer } from './answer-limit.ts'
import { checkOptions, checkRequests, rejectOptions } from './arguments.ts'
import { type HeldLease, holdLease, type LeaseRequest, validUntil } from './held-lease.ts'
import { busyError, type Waiter } from './wait-queue.ts'

type SingleRequest = { resource: string } & LockMode

export async function acquireAll(
  acquisitions: Acquisitions,
  requests: readonly LockRequest[],
  options: Omit<LeaseOptions, 'within'> & { wait_ms?: number } = {},
): Promise<LeaseSet> {
  const { backend, events } = acquisitions
  checkRequests(requests)
  checkOptions(options)
  rejectOptions(options, ['within', 'mode', 'limit'], 'acquireAll as a whole')
  const { wait_ms = 0, max_hold_ms, progress_ms, ...leaseOptions } = options
  const until = performance.now() + wait_ms
  const sorted = normalize(requests)
  const tried = backend.attemptAll ? await tryAcquireGroups(acquisitions, sorted, leaseOptions) : undefined
  if (tried instanceof LockBusyError && wait_ms <= 0) {
    events.failed?.(tried.resource, 'lock_busy')
    throw tried
  }
  const leases = Array.isArray(tried) ? tried : await waitForAll(acquisitions, sorted, leaseOptions, until)
  // The deadlines start here: the holder cannot report progress before it has the leases.
  for (const lease of leases) lease.setDeadlines({ max_hold_ms, progress_ms })
  return leaseSet(leases)
}

/** Acquires the whole group in one step of the server; if a resource is busy, returns an error naming the first busy one. */
async function acquireGroup(
  acquisitions: Acquisitions,
  group: readonly SingleRequest[],
  leaseOptions: LeaseOptions,
): Promise<HeldLease[] | LockBusyError> {
  const { backend, registry, events } = acquisitions
  if (!backend.attemptAll) throw new Error('this lock server grants one lock at a time')
  const leaseRequests = group.map((one) => acquisitions.newRequest(one.resource, { ...leaseOptions, ...one }))
  const [{ waiter_id, ttl_ms }] = leaseRequests as [LeaseRequest]
  const { waiter, endWait } = acquisitions.startWait(waiter_id, leaseOptions.signal)
  const sent_at = performance.now()
  try {
    const pending = backend.attemptAll(leaseRequests.map((one) => ({ ...one, slot_ttl_ms: 0, ticket: 0 })))
    waiter.pending = pending
    const answer = await awaitAnswer(pending, ttl_ms, waiter)
    // The signal may have aborted between the answer and this line.
    if (waiter.aborted) throw waiter.aborted.reason
    if (!('granted' in answer)) {
      const resource = group[answer.at]?.resource ?? ''
      events.contended?.(resource)
      return busyError(resource, answer.busy)
    }
    if (performance.now() >= validUntil(sent_at, ttl_ms)) throw new Error('the grant came too late')
    // Register the leases before other code runs, so that close() finds all of them.
    const leases = leaseRequests.map((one, i) =>
      holdLease(registry, { ...one, token: answer.tokens[i] ?? 0, sent_at, valid_ms: ttl_ms }),
    )
    for (const { resource } of leases) events.acquired?.(resource, performance.now() - sent_at)
    if (waiter.aborted) throw (waiter as Waiter).aborted?.reason
    return leases
  } catch (error) {
    await acquisitions.reportFailure(leaseRequests, waiter)
    throw error
  } finally {
    endWait()
  }
}

/** Tries to acquire all groups without waiting; needs one round trip for each group. */
async function tryAcquireGroups(
  acquisitions: Acquisitions,
  requests: readonly SingleRequest[],
  leaseOptions: LeaseOptions,
): Promise<HeldLease[] | LockBusyError> {
  const byName = new Map(requests.map((one) => [one.resource, one]))
  const groups = acquisitions.backend.groupResources?.([...byName.keys()]) ?? []
  const leases: HeldLease[] = []
  for (const names of groups) {
    const group = names.flatMap((name) => byName.get(name) ?? [])
    const got = await acquireGroup(acquisitions, group, leaseOptions).catch(async (error) => {
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

/** Waits for each resource in turn while it holds the earlier ones. */
async function acquireInOrder(
  acquisitions: Acquisitions,
  requests: readonly SingleRequest[],
  leaseOptions: LeaseOptions,
  until: number,
): Promise<HeldLease[]> {
  const leases: HeldLease[] = []
  try {
    for (const one of requests) {
      const wait_ms = Math.max(0, until - performance.now())
      const outcome = await acquisitions.acquireGrant(one.resource, { ...leaseOptions, ...one }, wait_ms, (grant) =>
        holdLease(acquisitions.registry, grant),
      )
      if ('granted' in outcome) throw busyError(one.resource, outcome)
      leases.push(outcome)
    }
    return leases
  } catch (error) {
    await releaseMany(leases)
    throw error
  }
}

/** Repeats until all leases are held at the same time: one may be lost during the wait for another. */
async function waitForAll(
  acquisitions: Acquisitions,
  requests: readonly SingleRequest[],
  leaseOptions: LeaseOptions,
  until: number,
): Promise<HeldLease[]> {
  for (;;) {
    const leases = await acquireInOrder(acquisitions, requests, leaseOptions, until)
    const lost = leases.find((lease) => lease.remaining_ms === 0)
    if (!lost) return leases
    await releaseMany(leases)
    if (performance.now() >= until) lost.assertValid()
  }
}

/** Returns the requests sorted by name, each resource once: exclusive covers shared; of two limits the lower one counts. */
function normalize(requests: readonly LockRequest[]): SingleRequest[] {
  const byName = new Map<string, SingleRequest>()
  for (const entry of requests) {
    const one: SingleRequest = typeof entry === 'string' ? { resource: entry } : entry
    const { mode = 'exclusive' } = one
    const other = byName.get(one.resource)
    const other_mode = other?.mode ?? 'exclusive'
    if (other && (mode === 'permit') !== (other_mode === 'permit')) {
      throw new RangeError(`${one.resource} is requested with a permit and without`)
    }
    const lower = other === undefined || (one.limit ?? 0) < (other.limit ?? 0)
    if (mode === 'exclusive' || (mode === 'permit' && lower) || !other) byName.set(one.resource, one)
  }
  return [...byName.values()].sort((a, b) => (a.resource < b.resource ? -1 : 1))
}

function leaseSet(leases: readonly Lease[]): LeaseSet {
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

export async function releaseMany(leases: Iterable<Lease>): Promise<void> {
  await Promise.all(Array.from(leases, (lease) => lease.release()))
}
