/**
 * The path of a job: lease → batch → fenced commit → notice → next batch, or let go. Invariant: a line is worked by
 * one lease holder at a time and is not left while it has rows, unless somebody else is told of them.
 */
import type { Breaker } from '../shared/breaker.ts'
import type { Lease, Locks } from '../shared/locks/lease.ts'
import { byLockOrder } from '../shared/resource.ts'
import { StaleLeaseError } from './batch.ts'
import { type Item, idOf, refsOf } from './items.ts'
import type { createSettler, Outcome } from './settle.ts'

export interface DrainDeps {
  locks: Locks
  leases: Breaker
  settler: ReturnType<typeof createSettler>
  nudge(resources: Iterable<string>): void
  ttl_ms: number
}

/** Milliseconds a line may be held while others wait for its lease: a few full batches. */
const HOLD_MS = 250
/** Times a row may miss another resource's lease before its line waits for that lease. */
const MISSES = 3
/** Times a line is entered anew after another holder has superseded this one, before its job fails. */
const ATTEMPTS = 3

interface Line {
  /** the job that it is worked for: told to those who find it locked */
  job: string
  /** rows may have arrived since the last batch was taken */
  again: boolean
}

export function createDrain({ locks, leases, settler, nudge, ttl_ms }: DrainDeps) {
  const lines = new Map<string, Line>()
  const stop = new AbortController()
  let progress_at = performance.now()
  // A holder lets go after HOLD_MS, a dead one after its TTL: longer than both is a fault worth a new attempt.
  const wait_ms = 2 * ttl_ms

  const acquire = (resource: string, job: string) =>
    leases.run(() => locks.acquire(resource, { job, wait_ms, above: settler.floor(resource), signal: stop.signal }))

  /** From here on a nudge starts the line anew. */
  function leave(queue: string, line: Line): void {
    if (lines.get(queue) === line) lines.delete(queue)
  }

  /** Left with rows in it: somebody is told of them, after the leaving, lest the nudge find this line still worked. */
  function handOn(queue: string, line: Line): void {
    leave(queue, line)
    nudge([queue])
  }

  async function work(queue: string, line: Line, ready: Promise<unknown> | undefined): Promise<void> {
    const lease = await acquire(queue, line.job)
    try {
      await ready
      const since = performance.now()
      const misses = new Map<string, number>()
      let after = 0
      let extras = new Map<string, Lease>()
      for (;;) {
        line.again = false
        let outcome: Outcome
        try {
          outcome = await settler.settle({ queue, lease, after, extras })
        } finally {
          await locks.releaseMany(extras.values())
        }
        progress_at = performance.now()
        after = outcome.after
        const more = outcome.full || outcome.missed.length > 0 || line.again
        // No await between the look and the leaving: a nudge finds the line either here, or gone.
        if (!more) return leave(queue, line)
        if (stop.signal.aborted || lease.signal.aborted) return handOn(queue, line)
        if (performance.now() - since > HOLD_MS && (await lease.extend()).waiting > 0) return handOn(queue, line)
        extras = await insist(queue, line.job, outcome.missed, misses)
      }
    } finally {
      await lease.release()
    }
  }

  /** The leases of the first row that has missed often enough, waited for in lock order while its line is held. */
  async function insist(
    queue: string,
    job: string,
    missed: Item[],
    misses: Map<string, number>,
  ): Promise<Map<string, Lease>> {
    for (const item of missed) misses.set(idOf(item), (misses.get(idOf(item)) ?? 0) + 1)
    const first = missed.find((item) => (misses.get(idOf(item)) ?? 0) >= MISSES)
    const extras = new Map<string, Lease>()
    if (!first) return extras
    try {
      for (const ref of refsOf(first).sort(byLockOrder)) {
        if (ref !== queue) extras.set(ref, await acquire(ref, job))
      }
      return extras
    } catch (error) {
      await locks.releaseMany(extras.values())
      throw error
    }
  }

  async function start(queue: string, job: string, ready: Promise<unknown> | undefined): Promise<void> {
    const line: Line = { job, again: false }
    if (lines.size === 0) progress_at = performance.now()
    lines.set(queue, line)
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          return await work(queue, line, ready)
        } catch (error) {
          if (stop.signal.aborted) return handOn(queue, line)
          // Superseded: nothing was written. The rows are still in the line; it is entered again with a newer token.
          if (!(error instanceof StaleLeaseError) || attempt === ATTEMPTS) throw error
        }
      }
    } finally {
      leave(queue, line)
    }
  }

  return {
    /**
     * Settles these lines until they are empty. Rejects when one could not be settled: its rows stay queued. No row is
     * taken before `ready`, which comes while leases are waited for.
     */
    async serve(resources: readonly string[], job: string, ready?: Promise<unknown>): Promise<void> {
      if (resources.some((resource) => lines.has(resource))) await ready
      // A line that is being worked here is told to look again and not waited for: a long line must not take up every
      // place for jobs. If this process dies, the sweeper tells another.
      for (const resource of resources) {
        const line = lines.get(resource)
        if (line) line.again = true
      }
      const results = await Promise.allSettled(
        resources.filter((one) => !lines.has(one)).map((one) => start(one, job, ready)),
      )
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    },
    /** After the batch under way each line is let go; what is left in it is nudged. */
    stop() {
      stop.abort(new Error('the worker is stopping'))
    },
    /** Lines under way, and milliseconds since the last batch was settled. */
    state: () => ({ lines: lines.size, idle_ms: performance.now() - progress_at }),
  }
}
