/**
 * Several leases at once: all or none. The invariant: whoever waits for one holds only what comes before it in the order
 * of names, so no two who take their locks together are deadlocked.
 */
import type { Backend } from './backend.ts'
import { answerLimit, bounded } from './bounded.ts'
import { type HeldLease, holdLease, type Keeper } from './hold.ts'
import type { AcquireOptions, Ask, Lease, LeaseSet, LockEvents, Locks, Mode, Terms, Wanted } from './lease.ts'
import { LockBusyError } from './lease.ts'
import { busyError } from './line.ts'

interface Asker {
  seat: number
  owner: string
  mode: Mode
  limit: number
  ttl_ms: number
  above: number
  id: string
  max_hold_ms?: number | undefined
  progress_ms?: number | undefined
}

interface Deps {
  backend: Backend
  keeper: Keeper
  events: LockEvents
  asker(options: Terms & Ask): Asker
  acquire(resource: string, options: AcquireOptions): Promise<Lease>
  releaseMany(leases: Iterable<Lease>): Promise<void>
  undo(resource: string, id: string, ttl_ms: number, asked?: Promise<unknown>): Promise<void>
}

type One = { resource: string } & Ask

export function createSets(deps: Deps): Pick<Locks, 'acquireAll'> {
  const { backend, keeper, events, asker, acquire, releaseMany, undo } = deps

  /** All of the group in one step of the server, or the one that was in the way. */
  async function atOnce(group: readonly One[], terms: Terms): Promise<HeldLease[] | LockBusyError> {
    if (!backend.attemptAll) throw new Error('this lock server takes one lock at a time')
    const askers = group.map((one) => ({ resource: one.resource, ...asker({ ...terms, ...one }) }))
    const sent_at = performance.now()
    const asked = backend.attemptAll(askers.map((one) => ({ ...one, place_ttl_ms: 0, ticket: 0 })))
    const answer = await bounded(asked, answerLimit(askers[0]?.ttl_ms ?? 0)).catch((error) => {
      for (const { resource, id, ttl_ms } of askers) {
        events.failed?.(resource, 'unreachable')
        void undo(resource, id, ttl_ms, asked)
      }
      throw error
    })
    if (!('granted' in answer)) {
      const resource = group[answer.at]?.resource ?? ''
      events.contended?.(resource)
      return busyError(resource, answer.busy)
    }
    return askers.map((one, i) => {
      events.acquired?.(one.resource, performance.now() - sent_at)
      return holdLease(keeper, { ...one, token: answer.tokens[i] ?? 0, sent_at, valid_ms: one.ttl_ms })
    })
  }

  /** Without waiting, a round trip for each group. */
  async function tryAll(wanted: readonly One[], terms: Terms): Promise<Lease[] | LockBusyError> {
    const byName = new Map(wanted.map((one) => [one.resource, one]))
    const groups = backend.together?.([...byName.keys()]) ?? []
    const leases: Lease[] = []
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
  async function inOrder(wanted: readonly One[], terms: Terms, until: number): Promise<Lease[]> {
    const leases: Lease[] = []
    try {
      for (const one of wanted) {
        const wait_ms = Math.max(0, until - performance.now())
        leases.push(await acquire(one.resource, { ...terms, ...one, wait_ms }))
      }
      return leases
    } catch (error) {
      await releaseMany(leases)
      throw error
    }
  }

  return {
    async acquireAll(wanted, { wait_ms = 0, ...terms } = {}) {
      const until = performance.now() + wait_ms
      const sorted = merged(wanted)
      const tried = backend.attemptAll ? await tryAll(sorted, terms) : undefined
      if (tried && !(tried instanceof LockBusyError)) return setOf(tried, releaseMany)
      if (tried && wait_ms <= 0) {
        events.failed?.(tried.resource, 'lock_busy')
        throw tried
      }
      return setOf(await inOrder(sorted, terms, until), releaseMany)
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
  if (byName.size === 0) throw new RangeError('no resource is wanted')
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
