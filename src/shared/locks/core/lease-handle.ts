/**
 * Remote leases, which only their owner's heartbeats keep, wherever the owner is. Invariant: the handle contains everything
 * that is needed to renew or release the lease, so any process can serve such a request, and no process renews the lease by
 * itself.
 */

import { LeaseLostError, type Mode, type RemoteLease, type RemoteLeases } from '../api.ts'
import type { Acquisitions } from './acquisitions.ts'
import { awaitAnswer } from './answer-limit.ts'
import { checkOptions, checkResource, rejectOptions } from './arguments.ts'
import type { GrantedLock } from './held-lease.ts'
import { busyError, type Waiter } from './wait-queue.ts'

interface Held {
  resource: string
  mode: Mode
  id: string
  token: number
  ttl_ms: number
  since_ms: number
}

export function createRemoteLeases(acquisitions: Acquisitions): RemoteLeases {
  const { backend, events } = acquisitions

  /**
   * Renews a lock that was handed over, which would live only for the rest of its waiter's slot, so that the owner gets a whole
   * TTL and the index contains the lock.
   */
  async function renewToFullTtl(grant: GrantedLock, waiter: Waiter): Promise<RemoteLease> {
    const { resource, mode, id, token, ttl_ms } = grant
    const sent_at = performance.now()
    const pending = backend.extend(resource, id, ttl_ms)
    waiter.pending = pending
    const answer = await awaitAnswer(pending, ttl_ms, waiter)
    if (typeof answer !== 'number') throw new LeaseLostError(resource, token, answer)
    return leaseOf({ resource, mode, id, token, ttl_ms, since_ms: Date.now() }, sent_at)
  }

  return {
    async acquire(resource, options = {}) {
      checkResource(resource)
      checkOptions(options)
      rejectOptions(options, ['within', 'max_hold_ms', 'progress_ms'], 'remote leases')
      const outcome = await acquisitions.acquireGrant(resource, options, options.wait_ms ?? 0, renewToFullTtl)
      if ('granted' in outcome) throw busyError(resource, outcome)
      return outcome
    },

    async extend(handle) {
      const held = parseHandle(handle)
      const { resource, id, token, ttl_ms, since_ms } = held
      const sent_at = performance.now()
      const answer = await awaitAnswer(backend.extend(resource, id, ttl_ms), ttl_ms)
      if (typeof answer === 'number') return leaseOf(held, sent_at)
      const owner = id.split(' ').slice(3).join(' ')
      events.lost?.(resource, answer, { token, owner, held_ms: Date.now() - since_ms })
      throw new LeaseLostError(resource, token, answer)
    },

    async release(handle) {
      const { resource, id, ttl_ms, since_ms } = parseHandle(handle)
      const answer = await awaitAnswer(backend.release(resource, id, true), ttl_ms)
      if (answer !== 'released') return { released: false, reason: answer }
      events.released?.(resource, Math.max(0, Date.now() - since_ms))
      return { released: true }
    },
  }
}

function leaseOf(held: Held, sent_at: number): RemoteLease {
  const { resource, mode, token, ttl_ms } = held
  const handle = handleOf(held)
  const expires_at_ms = Math.floor(Date.now() - (performance.now() - sent_at) + ttl_ms)
  return { handle, resource, mode, token, ttl_ms, expires_at_ms }
}

const MODES: readonly unknown[] = ['exclusive', 'shared', 'permit'] satisfies Mode[]

export function handleOf({ resource, mode, id, token, ttl_ms, since_ms }: Held): string {
  return Buffer.from(JSON.stringify([resource, mode, id, token, ttl_ms, since_ms])).toString('base64url')
}

function parseHandle(handle: string): Held {
  try {
    const parts: unknown = JSON.parse(Buffer.from(handle, 'base64url').toString())
    if (!Array.isArray(parts) || parts.length !== 6) throw new Error('wrong parts')
    const [resource, mode, id, token, ttl_ms, since_ms] = parts
    const texts = [resource, id].every((part) => typeof part === 'string' && part !== '') && MODES.includes(mode)
    const numbers = [token, ttl_ms, since_ms].every((part) => Number.isSafeInteger(part) && part > 0)
    if (!texts || !numbers || ttl_ms < 20 || ttl_ms > 86_400_000) throw new Error('wrong parts')
    return { resource, mode, id, token, ttl_ms, since_ms }
  } catch (cause) {
    throw new RangeError('this is not a handle of a lease', { cause })
  }
}
