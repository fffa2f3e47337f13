/**
 * The path of a job: acquire the lease → batch → fenced commit → notice → next batch, or release. Invariant: one lease
 * holder at a time drains a queue, and it does not stop while rows are pending without nudging the queue again.
 */
import type { Breaker } from '../../shared/breaker.ts'
import { byLockOrder } from '../../shared/domain/resource.ts'
import type { Nudge } from '../../shared/jobs/nudges.ts'
import { type Lease, LeaseLostError, type Locks } from '../../shared/locks/api.ts'
import { createSignal, type Signal } from '../../shared/timeout.ts'
import type { Batcher, BatchResult } from './batcher.ts'
import { idOf, type QueueItem, resourcesOf } from './queue-item.ts'
import { StaleLeaseError } from './settlement.ts'

export interface QueueRunnerDeps {
  locks: Locks
  leases: Breaker
  batcher: Pick<Batcher, 'requestBatch' | 'minToken'>
  nudge: Nudge
  /** notifies the APIs that the queue will be polled again without a nudge (hot), or that it will not */
  publishHot(resource: string, hot: boolean): void
  ttl_ms: number
  /** milliseconds without progress after which a queue is released */
  progress_ms: number
}

/** Milliseconds a queue may be held while other workers wait for its lease, or while it is empty: a few full batches. */
const HOLD_MS = 250
/** Rows in a batch from which on its queue is hot: the next rows are likely to arrive within milliseconds. */
const HOT_ROWS = 16
/** Milliseconds after which a hot queue is polled again, unless a nudge comes earlier. */
const HOT_POLL_MS = 10
/** Batches in which a row may miss the lease of another resource before its queue waits for that lease. */
const MISSES = 3
/** Attempts to drain a queue after its lease was lost or superseded by another holder, before its job fails. */
const ATTEMPTS = 3

interface RunningQueue {
  /** the job that it runs for: shown to those who find the lease held */
  job: string
  /** rows may have arrived since the last batch was fetched */
  rerun: boolean
  /** jobs that came meanwhile: resolved with true before the next batch is fetched, with false when there is none */
  joinedJobs: { releaseDedupId: ReleaseDedupId; resolve(polled: boolean): void }[]
  /** it was published as hot */
  hot: boolean
  /** when its last step ended, by performance.now() */
  progress_at: number
  /** fired to end the pause before the next poll */
  bell: Signal
}

/** Lets further nudges of the queue add jobs again: called while the lease is held, before rows are fetched. */
type ReleaseDedupId = () => Promise<unknown>

/** Where a drain continues: what the next batch is requested with. */
interface DrainCursor {
  after: number
  last_full: boolean
  /** leases on further resources, which its first batch uses and releases */
  extras: Map<string, Lease>
}

export class QueueRunner {
  readonly #deps: QueueRunnerDeps
  readonly #running = new Map<string, RunningQueue>()
  /** queues that were stopped in the middle of a step: until it ends, the step still occupies the slot of its job */
  readonly #stuck = new Map<RunningQueue, string>()
  readonly #stop = new AbortController()
  /** one for each lease that is waited for: aborts the wait */
  readonly #waits = new Set<AbortController>()

  constructor(deps: QueueRunnerDeps) {
    this.#deps = deps
  }

  /**
   * Settles these queues until they are empty; one that already runs here is polled once more. Rejects when a queue could
   * not be settled: its rows stay queued. Calls `releaseDedupId`, maybe more than once, while the lease is held and before
   * rows are fetched.
   */
  async process(resources: readonly string[], job: string, releaseDedupId?: ReleaseDedupId): Promise<void> {
    const results = await Promise.allSettled(resources.map((one) => this.#joinOrStart(one, job, releaseDedupId)))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed) throw failed.reason
  }

  /** Releases each queue after its current batch and nudges those with pending rows. */
  stop(): void {
    this.#stop.abort(new Error('the worker is stopping'))
    for (const wait of this.#waits) wait.abort(this.#stop.signal.reason)
  }

  /**
   * Stops each queue without progress for `progress_ms`, so that its next job starts a new run here or in another process;
   * its lease has ended by the same limit. Returns these queues.
   */
  stopStuck(): string[] {
    const since = performance.now() - this.#deps.progress_ms
    const stuck = [...this.#running].filter(([, run]) => run.progress_at < since)
    for (const [queue, run] of stuck) {
      this.#stopRunning(queue, run)
      this.#stuck.set(run, queue)
    }
    const queues = stuck.map(([queue]) => queue)
    if (queues.length > 0) this.#deps.nudge(queues, { force: true })
    return queues
  }

  /** Each running queue, also one that was stopped in mid-step, with the milliseconds since its last step ended. */
  state(): { queue: string; idle_ms: number }[] {
    const all = [...this.#running, ...Array.from(this.#stuck, ([run, queue]) => [queue, run] as const)]
    return all.map(([queue, { progress_at }]) => ({ queue, idle_ms: performance.now() - progress_at }))
  }

  /** Joins the run of this queue in this process, or starts one. */
  async #joinOrStart(queue: string, job: string, releaseDedupId: ReleaseDedupId | undefined): Promise<void> {
    for (let run = this.#running.get(queue); run; run = this.#running.get(queue)) {
      // A job of many queues does not wait for one of them. If this process dies, the sweeper nudges the queue.
      if (!releaseDedupId) {
        run.rerun = true
        return run.bell.fire()
      }
      const { joinedJobs, bell } = run
      const polled = new Promise<boolean>((resolve) => joinedJobs.push({ releaseDedupId, resolve }))
      bell.fire()
      if (await polled) return
    }
    await this.#runWithRetry(queue, job, releaseDedupId ?? (async () => {}))
  }

  async #runWithRetry(queue: string, job: string, releaseDedupId: ReleaseDedupId): Promise<void> {
    const run: RunningQueue = {
      job,
      rerun: false,
      joinedJobs: [],
      hot: false,
      progress_at: performance.now(),
      bell: createSignal(),
    }
    this.#running.set(queue, run)
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          return await this.#drain(queue, run, releaseDedupId)
        } catch (error) {
          // Our job still holds the deduplication id, so a plain nudge would be dropped: bypass it.
          if (this.#stop.signal.aborted) {
            this.#stopRunning(queue, run)
            return this.#deps.nudge([queue], { force: true })
          }
          // The lease was superseded or lost: nothing was written under it. The rows are still pending: drain them under a
          // newer token.
          const over = error instanceof StaleLeaseError || error instanceof LeaseLostError
          if (!over || attempt === ATTEMPTS) {
            const { rerun } = run
            this.#stopRunning(queue, run)
            // A job that has already finished set the flag, so no retry will cover it: nudge again.
            if (rerun) this.#deps.nudge([queue], { force: true })
            throw error
          }
        }
      }
    } finally {
      this.#stopRunning(queue, run)
      this.#stuck.delete(run)
    }
  }

  /** Settles the queue, batch after batch, under its lease. */
  async #drain(queue: string, run: RunningQueue, releaseDedupId: ReleaseDedupId): Promise<void> {
    const lease = await this.#acquire(queue, run.job)
    const onProgress = () => {
      run.progress_at = performance.now()
      lease.progress()
    }
    try {
      onProgress()
      await releaseDedupId()
      const since = performance.now()
      const missCounts = new Map<string, number>()
      let cursor: DrainCursor = { after: 0, last_full: false, extras: new Map() }
      for (;;) {
        const result = await this.#settleBatch(queue, run, lease, cursor, onProgress)
        const more = result.full || result.missed.length > 0 || run.rerun || run.joinedJobs.length > 0
        if (await this.#ended(queue, run, lease, result, more, since)) return
        if (!more) {
          // Passing a hot queue from worker to worker costs a job for every few rows, which is more than settling them.
          run.bell = createSignal()
          await run.bell.wait({ within_ms: HOT_POLL_MS })
        }
        const extras = await this.#acquireMissing(queue, run.job, result.missed, missCounts, onProgress)
        cursor = { after: result.after, last_full: result.full, extras }
      }
    } finally {
      await lease.release()
    }
  }

  /** One batch. Jobs that have joined before its rows are fetched are done with it. */
  async #settleBatch(
    queue: string,
    run: RunningQueue,
    lease: Lease,
    cursor: DrainCursor,
    onProgress: () => void,
  ): Promise<BatchResult> {
    const { batcher, locks } = this.#deps
    run.rerun = false
    const joined = run.joinedJobs.splice(0)
    await Promise.all(joined.map((one) => one.releaseDedupId()))
    for (const { resolve } of joined) resolve(true)
    try {
      return await batcher.requestBatch({ queue, lease, ...cursor, onProgress })
    } finally {
      await locks.releaseMany(cursor.extras.values())
      onProgress()
    }
  }

  /** After a batch: deregisters the queue and returns true when its lease is to be released, now that `more` rows may wait. */
  async #ended(
    queue: string,
    run: RunningQueue,
    lease: Lease,
    { fetched }: BatchResult,
    more: boolean,
    since: number,
  ): Promise<boolean> {
    // No await between this check and deregistering: a nudge finds the queue either running here or absent.
    // A hot queue is nudged once more: an API that held a nudge back may have died with it.
    if (!more && fetched < HOT_ROWS) {
      if (run.hot) this.#requeue(queue, run)
      else this.#stopRunning(queue, run)
      return true
    }
    // After HOLD_MS, pass the lease to a waiting worker; if the queue is empty, free this job slot too.
    const stopping = this.#stop.signal.aborted || lease.signal.aborted
    const long_held = !stopping && performance.now() - since > HOLD_MS
    if (stopping || (long_held && (!more || (await lease.extend()).waiting > 0))) {
      this.#requeue(queue, run)
      return true
    }
    // Published after the fetch, so that one more poll always finds the rows whose nudges are held back from now on.
    if (fetched >= HOT_ROWS) {
      run.hot = true
      this.#deps.publishHot(queue, true)
    }
    return false
  }

  /** Waits, in lock order and while the queue is held, for the leases of the first row that has missed MISSES times. */
  async #acquireMissing(
    queue: string,
    job: string,
    missed: QueueItem[],
    missCounts: Map<string, number>,
    onProgress: () => void,
  ): Promise<Map<string, Lease>> {
    const still = new Set(missed.map(idOf))
    for (const id of missCounts.keys()) if (!still.has(id)) missCounts.delete(id)
    for (const id of still) missCounts.set(id, (missCounts.get(id) ?? 0) + 1)
    const first = missed.find((item) => (missCounts.get(idOf(item)) ?? 0) >= MISSES)
    const extras = new Map<string, Lease>()
    if (!first) return extras
    try {
      for (const ref of resourcesOf(first).sort(byLockOrder)) {
        if (ref !== queue) extras.set(ref, await this.#acquire(ref, job))
        onProgress()
        for (const extra of extras.values()) extra.progress()
      }
      return extras
    } catch (error) {
      await this.#deps.locks.releaseMany(extras.values())
      throw error
    }
  }

  /** Waits for the lease. When the breaker ends the wait, it is cancelled, and a lease that is granted later is released. */
  async #acquire(resource: string, job: string): Promise<Lease> {
    const { locks, leases, batcher, ttl_ms, progress_ms } = this.#deps
    this.#stop.signal.throwIfAborted()
    const wait = new AbortController()
    this.#waits.add(wait)
    const { signal } = wait
    const request = () =>
      locks.acquire(resource, {
        job,
        // A holder releases after HOLD_MS, the lease of a dead one expires after its TTL: a longer wait is a fault worth a retry.
        wait_ms: 2 * ttl_ms,
        above: batcher.minToken(resource),
        signal,
        /* guard:progress */ progress_ms /* end:progress */,
      })
    try {
      return await leases.run(request, /* guard:late-lease */ (late) => late.release() /* end:late-lease */)
    } catch (error) {
      /* guard:ended-wait */ wait.abort(error) /* end:ended-wait */
      throw error
    } finally {
      this.#waits.delete(wait)
    }
  }

  /** Deregisters the queue: from here on a nudge starts a new run. */
  #stopRunning(queue: string, run: RunningQueue): void {
    if (this.#running.get(queue) === run) this.#running.delete(queue)
    if (run.hot) this.#deps.publishHot(queue, false)
    run.hot = false
    for (const { resolve } of run.joinedJobs.splice(0)) resolve(false)
  }

  /** Stops with rows left: deregister first, then nudge, so that the nudge does not find this queue still running here. */
  #requeue(queue: string, run: RunningQueue): void {
    this.#stopRunning(queue, run)
    this.#deps.nudge([queue])
  }
}
