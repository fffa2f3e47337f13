/**
 * The public functions of the locks, on any backend. Invariant: each function checks its arguments before it sends a request,
 * and a function that fails has released what it had acquired.
 */

import { type AcquireOptions, type Lease, LockBusyError, type Locks, type Mode, type TryOptions } from '../api.ts'
import { acquireAll, releaseMany } from './acquire-all.ts'
import { Acquisitions, type LocksOptions } from './acquisitions.ts'
import { awaitAnswer } from './answer-limit.ts'
import { checkedLeases, checkFunction, checkOptions, checkResource, checkResources } from './arguments.ts'
import type { Backend, BusyAnswer } from './backend.ts'
import { holdLease } from './held-lease.ts'
import { createRemoteLeases } from './lease-handle.ts'
import { nestedLease } from './nested-lease.ts'
import { busyError } from './wait-queue.ts'

/** Creates the public functions. @param options the factory that made the backend has checked them (checkSetting) */
export function createLocksOn<M extends Mode = Mode>(backend: Backend, options: LocksOptions): Locks<M> {
  const acquisitions = new Acquisitions(backend, options)
  const { default_ttl_ms } = acquisitions
  const locks: Locks = {
    acquire: (resource, options) => acquire(acquisitions, resource, options),
    tryAcquire: (resource, options) => tryAcquire(acquisitions, resource, options),
    acquireAll: (requests, options) => acquireAll(acquisitions, requests, options),
    tryAcquireMany: (resources, options) => tryAcquireMany(acquisitions, resources, options),
    remote: createRemoteLeases(acquisitions),

    withLease: ((resource: string, options: AcquireOptions, body: (lease: Lease) => Promise<unknown>) =>
      withLease(acquisitions, resource, options, body)) as Locks['withLease'],

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

    close: () => acquisitions.close(),
  }
  return locks as Locks<M>
}

/** Acquires a lease, or nests one in `within`. The caller has checked the arguments. */
async function acquireOrNest(
  acquisitions: Acquisitions,
  resource: string,
  options: TryOptions,
  wait_ms: number,
): Promise<Lease | BusyAnswer> {
  acquisitions.throwIfClosed()
  if (options.within) return nestedLease(options.within, resource, options.mode)
  return await acquisitions.acquireGrant(resource, options, wait_ms, (grant) => holdLease(acquisitions.registry, grant))
}

async function acquire(acquisitions: Acquisitions, resource: string, options: AcquireOptions = {}): Promise<Lease> {
  checkResource(resource)
  checkOptions(options)
  const outcome = await acquireOrNest(acquisitions, resource, options, options.wait_ms ?? 0)
  if ('granted' in outcome) throw busyError(resource, outcome)
  return outcome
}

async function tryAcquire(
  acquisitions: Acquisitions,
  resource: string,
  options: TryOptions = {},
): Promise<Lease | undefined> {
  checkResource(resource)
  checkOptions(options)
  const outcome = await acquireOrNest(acquisitions, resource, options, 0)
  return 'granted' in outcome ? undefined : outcome
}

async function withLease(
  acquisitions: Acquisitions,
  resource: string,
  options: AcquireOptions & { onBusy?: unknown },
  body: (lease: Lease) => Promise<unknown>,
): Promise<unknown> {
  checkFunction('body', body)
  let lease: Lease
  try {
    lease = await acquire(acquisitions, resource, options)
  } catch (error) {
    const onBusy = options?.onBusy
    if (onBusy === undefined || !(error instanceof LockBusyError)) throw error
    return typeof onBusy === 'function' ? onBusy(error) : onBusy
  }
  try {
    // If close() was called since the grant, it has released the lease.
    acquisitions.throwIfClosed()
    return await body(lease)
  } finally {
    await lease.release()
  }
}

async function tryAcquireMany(
  acquisitions: Acquisitions,
  resources: readonly string[],
  options: TryOptions = {},
): Promise<Map<string, Lease>> {
  checkResources(resources)
  checkOptions(options)
  const unique = [...new Set(resources)]
  const tried = await Promise.allSettled(unique.map((resource) => acquireOrNest(acquisitions, resource, options, 0)))
  const leases = new Map<string, Lease>()
  for (const one of tried) {
    if (one.status === 'fulfilled' && !('granted' in one.value)) leases.set(one.value.resource, one.value)
  }
  const failure = tried.find((one) => one.status === 'rejected')
  if (!failure) return leases
  await releaseMany(leases.values())
  throw failure.reason
}
