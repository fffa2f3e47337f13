/**
 * The path of a job: lease → batch → fenced commit → notice → next batch, or let go. Invariant: a line is worked by
 * one lease holder at a time and is not left while it has rows, unless somebody else is told of them.
 */
import type { Breaker } from '../../shared/breaker.ts'
import { byLockOrder } from '../../shared/domain/resource.ts'
import { type Lease, LeaseLostError, type Locks } from '../../shared/locks/api.ts'
import type { Nudge } from '../../shared/queues.ts'
import type { createSettler, Outcome } from './batcher.ts'
import { type Item, idOf, refsOf } from './queue-item.ts'
import { StaleLeaseError } from './settlement.ts'

export interface DrainDeps {
  locks: Locks
  leases: Breaker
  settler: ReturnType<typeof createSettler>
  nudge: Nudge
  /** tells whoever nudges that the line will be looked at again without that, or that it is left */
  flows(resource: string, flows: boolean): void
  ttl_ms: number
  /** milliseconds without progress after which a queue is let go */
  progress_ms: number
}

/** Milliseconds a line may be held while others wait for its lease, or when it is empty: a few full batches. */
const HOLD_MS = 250
/** Rows of a batch from which on its line is said to flow: whoever has just settled so many has more in a moment. */
const FLOW = 16
/** Milliseconds after which a line that flows is looked at again, unless a nudge comes earlier. */
const LINGER_MS = 10
/** Times a row may miss another resource's lease before its line waits for that lease. */
const MISSES = 3
/** Times a line is entered anew after another holder has superseded this one or its lease was lost, before its job fails. */
const ATTEMPTS = 3

interface Line {
  /** the job that it is worked for: told to those who find it locked */
  job: string
  /** rows may have arrived since the last batch was taken */
  again: boolean
  /** jobs that came meanwhile: told true before the next batch is taken, false when there is none */
  joined: { ready: Ready; resolve(looked: boolean): void }[]
  /** whoever nudges was told that it flows */
  flows: boolean
  /** when its last step ended, by performance.now() */
  moved_at: number
  /** ends the pause before the next look */
  wake(): void
}

/** Lets further nudges of the line make jobs: called with the lease held, before the rows are taken. */
type Ready = () => Promise<unknown>

export function createDrain(deps: DrainDeps) {
  const { locks, leases, settler, nudge, flows, ttl_ms, progress_ms } = deps
  const lines = new Map<string, Line>()
  /** queues that were left while a step of theirs had not ended: it still keeps the place of its job */
  const left = new Map<Line, string>()
  const stop = new AbortController()
  /** for each lease that is waited for: what ends the wait */
  const waits = new Set<AbortController>()
  // A holder lets go after HOLD_MS, a dead one after its TTL: longer than both is a fault worth a new attempt.
  const wait_ms = 2 * ttl_ms

  /** Waits for the lease. A wait that is given up is cancelled, and a lease that is granted after that is released. */
  async function acquire(resource: string, job: string): Promise<Lease> {
    stop.signal.throwIfAborted()
    const wait = new AbortController()
    waits.add(wait)
    const { signal } = wait
    const ask = () =>
      locks.acquire(resource, {
        job,
        wait_ms,
        above: settler.floor(resource),
        signal,
        /* guard:progress */ progress_ms /* end:progress */,
      })
    try {
      return await leases.run(ask, /* guard:late-lease */ (late) => late.release() /* end:late-lease */)
    } catch (error) {
      /* guard:ended-wait */ wait.abort(error) /* end:ended-wait */
      throw error
    } finally {
      waits.delete(wait)
    }
  }

  /** From here on a nudge starts the line anew. */
  function leave(queue: string, line: Line): void {
    if (lines.get(queue) === line) lines.delete(queue)
    if (line.flows) flows(queue, false)
    line.flows = false
    for (const { resolve } of line.joined.splice(0)) resolve(false)
  }

  /** Left with rows in it: somebody is told of them, after the leaving, lest the nudge find this line still worked. */
  function handOn(queue: string, line: Line): void {
    leave(queue, line)
    nudge([queue])
  }

  async function work(queue: string, line: Line, ready: Ready): Promise<void> {
    const lease = await acquire(queue, line.job)
    const moved = () => {
      line.moved_at = performance.now()
      lease.progress()
    }
    try {
      moved()
      await ready()
      const since = performance.now()
      const misses = new Map<string, number>()
      let after = 0
      let long = false
      let extras = new Map<string, Lease>()
      for (;;) {
        line.again = false
        const joined = line.joined.splice(0)
        await Promise.all(joined.map((one) => one.ready()))
        for (const { resolve } of joined) resolve(true)
        let outcome: Outcome
        try {
          outcome = await settler.settle({ queue, lease, after, long, extras, moved })
        } finally {
          await locks.releaseMany(extras.values())
        }
        moved()
        after = outcome.after
        long = outcome.full
        const more = outcome.full || outcome.missed.length > 0 || line.again || line.joined.length > 0
        // No await between the look and the leaving: a nudge finds the line either here, or gone.
        // Of a line that flowed somebody is told: an API that held a nudge back may be gone with it.
        if (!more && outcome.took < FLOW) return line.flows ? handOn(queue, line) : leave(queue, line)
        if (stop.signal.aborted || lease.signal.aborted) return handOn(queue, line)
        // To whoever waits for the lease; and who waits for this place, when the line is empty for the moment.
        const long_held = performance.now() - since > HOLD_MS
        if (long_held && (!more || (await lease.extend()).waiting > 0)) return handOn(queue, line)
        // Said after the look at what it took, so there is always one more for rows that nobody tells of meanwhile.
        if (outcome.took >= FLOW) {
          line.flows = true
          flows(queue, true)
        }
        if (!more) await linger(line)
        extras = await waitFor(queue, line.job, outcome.missed, misses, moved)
      }
    } finally {
      await lease.release()
    }
  }

  /** A line that goes from worker to worker with every few rows costs each of them a job, and more than settling them. */
  function linger(line: Line): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, LINGER_MS)
      line.wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** The leases of the first row that has missed often enough, waited for in lock order while its line is held. */
  async function waitFor(
    queue: string,
    job: string,
    missed: Item[],
    misses: Map<string, number>,
    moved: () => void,
  ): Promise<Map<string, Lease>> {
    const still = new Set(missed.map(idOf))
    for (const id of misses.keys()) if (!still.has(id)) misses.delete(id)
    for (const id of still) misses.set(id, (misses.get(id) ?? 0) + 1)
    const first = missed.find((item) => (misses.get(idOf(item)) ?? 0) >= MISSES)
    const extras = new Map<string, Lease>()
    if (!first) return extras
    try {
      for (const ref of refsOf(first).sort(byLockOrder)) {
        if (ref !== queue) extras.set(ref, await acquire(ref, job))
        moved()
        for (const extra of extras.values()) extra.progress()
      }
      return extras
    } catch (error) {
      await locks.releaseMany(extras.values())
      throw error
    }
  }

  async function start(queue: string, job: string, ready: Ready): Promise<void> {
    const line: Line = { job, again: false, joined: [], flows: false, moved_at: performance.now(), wake() {} }
    lines.set(queue, line)
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          return await work(queue, line, ready)
        } catch (error) {
          // The id that its job still carries would have a nudge dropped.
          if (stop.signal.aborted) {
            leave(queue, line)
            return nudge([queue], { force: true })
          }
          // Superseded, or the lease was lost: nothing was written under it. The rows are still in the queue, which is entered
          // again with a newer token.
          const over = error instanceof StaleLeaseError || error instanceof LeaseLostError
          if (!over || attempt === ATTEMPTS) {
            const told = line.again
            leave(queue, line)
            // By a job that did not wait for this look, and is not tried again with this one.
            if (told) nudge([queue], { force: true })
            throw error
          }
        }
      }
    } finally {
      leave(queue, line)
      left.delete(line)
    }
  }

  /** Joins the line where it is worked here, else works it. */
  async function enter(queue: string, job: string, ready: Ready | undefined): Promise<void> {
    for (let line = lines.get(queue); line; line = lines.get(queue)) {
      // A job of many lines is not kept for one of them. If this process dies, the sweeper tells another.
      if (!ready) {
        line.again = true
        return line.wake()
      }
      const { joined, wake } = line
      const looked = new Promise<boolean>((resolve) => joined.push({ ready, resolve }))
      wake()
      if (await looked) return
    }
    await start(queue, job, ready ?? (async () => {}))
  }

  return {
    /**
     * Settles these lines until they are empty; one that is being worked here already is only looked at once more.
     * Rejects when one could not be settled: its rows stay queued. With `ready` it is called, maybe more than once, with
     * the lease held and before rows are taken.
     */
    async serve(resources: readonly string[], job: string, ready?: Ready): Promise<void> {
      const results = await Promise.allSettled(resources.map((one) => enter(one, job, ready)))
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    },
    /** After the batch under way each line is let go; what is left in it is nudged. */
    stop() {
      stop.abort(new Error('the worker is stopping'))
      for (const wait of waits) wait.abort(stop.signal.reason)
    },
    /**
     * Leaves each queue that has not moved for `progress_ms`, so that its next job starts it anew here or in another
     * process; its lease has ended by the same limit. Returns the queues that were left.
     */
    leaveStuck(): string[] {
      const since = performance.now() - progress_ms
      const stuck = [...lines].filter(([, line]) => line.moved_at < since)
      for (const [queue, line] of stuck) {
        leave(queue, line)
        left.set(line, queue)
      }
      const queues = stuck.map(([queue]) => queue)
      if (queues.length > 0) nudge(queues, { force: true })
      return queues
    },
    /** Each queue under way, also one that was left in mid-step, with the milliseconds since its last step ended. */
    state: () => {
      const all = [...lines, ...Array.from(left, ([line, queue]) => [queue, line] as const)]
      return all.map(([queue, { moved_at }]) => ({ queue, idle_ms: performance.now() - moved_at }))
    },
  }
}
