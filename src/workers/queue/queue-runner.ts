/**
 * The path of a job: acquire the lease → batch → fenced commit → notice → next batch, or release. Invariant: one lease
 * holder at a time drains a queue. If it stops while rows may be pending, it nudges the queue, or its job is retried.
 * Tests remove the code between the guard markers (test/races, test/chaos).
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
  /** notifies the APIs whether this worker will poll the queue again without a nudge (hot) */
  publishHot(resource: string, hot: boolean): void
  ttl_ms: number
  /** milliseconds without progress after which the worker releases a queue */
  progress_ms: number
}

/**
 * Milliseconds that a worker may hold a queue while other workers wait for its lease or while the queue is empty: a few
 * full batches.
 */
const HOLD_MS = 250
/**
 * A batch with at least this number of rows makes its queue hot: the next rows are likely to arrive within
 * milliseconds.
 */
const HOT_ROWS = 16
/** Milliseconds until the worker polls a hot queue again, unless a nudge comes earlier. */
const HOT_POLL_MS = 10
/** After a row has missed the lease of another resource in this number of batches, its queue waits for that lease. */
const MISSES = 3
/** Attempts to drain a queue before its job fails, if each time the lease is lost or another holder supersedes it. */
const ATTEMPTS = 3

interface RunningQueue {
  /** the job for which the queue runs; the lock library shows it to callers that find the lease held */
  job: string
  /** rows may have arrived since the last batch was fetched */
  rerun: boolean
  /**
   * jobs that came meanwhile: resolved with true before the next batch is fetched, with false if there is no next batch
   */
  joinedJobs: { releaseDedupId: ReleaseDedupId; resolve(polled: boolean): void }[]
  /** the worker has published this queue as hot */
  hot: boolean
  /** when its last step ended, by performance.now() */
  progress_at: number
  /** ends the pause before the next poll when it is fired */
  bell: Signal
}

/**
 * Lets further nudges of the queue add jobs again. The runner calls it while it holds the lease, before it fetches
 * rows.
 */
type ReleaseDedupId = () => Promise<unknown>

/** The position from which a drain continues: the arguments of the next batch request. */
interface DrainCursor {
  after: number
  last_full: boolean
  /** leases on further resources; the next batch uses them, and the runner releases them after it */
  extras: Map<string, Lease>
}

export class QueueRunner {
  readonly #deps: QueueRunnerDeps
  readonly #running = new Map<string, RunningQueue>()
  /** queues that were stopped in the middle of a step; the step occupies the slot of its job until it ends */
  readonly #stuck = new Map<RunningQueue, string>()
  readonly #stop = new AbortController()
  /** one for each wait for a lease; aborts the wait */
  readonly #waits = new Set<AbortController>()

  constructor(deps: QueueRunnerDeps) {
    this.#deps = deps
  }

  /**
   * Settles these queues until they are empty; a queue that already runs here is polled once more. Rejects if a queue
   * could not be settled; its rows stay queued. Calls `releaseDedupId`, possibly more than once, while it holds the lease and
   * before it fetches rows.
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
   * Stops each queue that has made no progress for `progress_ms`, so that its next job starts a new run here or in
   * another process. The same limit has already ended the queue's lease. Returns the stopped queues.
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

  /**
   * Returns each running queue, including queues that were stopped in the middle of a step, with the milliseconds since
   * its last step ended.
   */
  state(): { queue: string; idle_ms: number }[] {
    const all = [...this.#running, ...Array.from(this.#stuck, ([run, queue]) => [queue, run] as const)]
    return all.map(([queue, { progress_at }]) => ({ queue, idle_ms: performance.now() - progress_at }))
  }

  /** Joins the run of this queue in this process, or starts one. */
  async #joinOrStart(queue: string, job: string, releaseDedupId: ReleaseDedupId | undefined): Promise<void> {
    for (let run = this.#running.get(queue); run; run = this.#running.get(queue)) {
      // A job without a deduplication id may be for many queues, so it does not wait for one of them. If this process
      // dies, the sweeper nudges the queue.
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
          // Our job still holds the deduplication id, so BullMQ would drop a plain nudge: bypass the id.
          if (this.#stop.signal.aborted) {
            this.#stopRunning(queue, run)
            return this.#deps.nudge([queue], { force: true })
          }
          // The lease was superseded or lost. Earlier batches are committed; drain the rows that are still pending under
          // a newer token.
          const over = error instanceof StaleLeaseError || error instanceof LeaseLostError
          if (!over || attempt === ATTEMPTS) {
            const { rerun } = run
            this.#stopRunning(queue, run)
            // A job that joined without waiting set `rerun` and has finished, so its own retry will not fetch its rows:
            // nudge again.
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

  /** Acquires the queue's lease and settles the queue, batch after batch, under it. */
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
        if (await this.#endIfDone(queue, run, lease, result, more, since)) return
        if (!more) {
          // Keep a hot queue here: passing it from worker to worker takes a job for every few rows, and a job costs
          // more than settling them.
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

  /** Settles one batch. First resolves the jobs that have joined, because the batch fetches their rows. */
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

  /**
   * Decides after a batch whether the drain ends. If so, deregisters the queue and returns true; the caller then
   * releases the lease. `more`: further rows may be pending.
   */
  async #endIfDone(
    queue: string,
    run: RunningQueue,
    lease: Lease,
    { fetched }: BatchResult,
    more: boolean,
    since: number,
  ): Promise<boolean> {
    // There must be no await between this check and the deregistration, so that a nudge finds the queue either running
    // here or absent. Nudge a hot queue once more: an API that held a nudge back may have died before it sent it.
    if (!more && fetched < HOT_ROWS) {
      if (run.hot) this.#requeue(queue, run)
      else this.#stopRunning(queue, run)
      return true
    }
    // After HOLD_MS, end the drain if another worker waits for the lease, or if the queue is empty and the drain only
    // occupies a job slot.
    const stopping = this.#stop.signal.aborted || lease.signal.aborted
    const long_held = !stopping && performance.now() - since > HOLD_MS
    if (stopping || (long_held && (!more || (await lease.extend()).waiting > 0))) {
      this.#requeue(queue, run)
      return true
    }
    // Publish only after the fetch of a batch: one more poll follows, and it finds the rows whose nudges the APIs hold
    // back from now on.
    if (fetched >= HOT_ROWS) {
      run.hot = true
      this.#deps.publishHot(queue, true)
    }
    return false
  }

  /**
   * Waits, in lock order and under the queue's lease, for the other leases of the first row that has missed MISSES times.
   */
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

  /**
   * Waits for the lease. If the breaker gives up first, cancels the wait and releases a lease that is granted later.
   */
  async #acquire(resource: string, job: string): Promise<Lease> {
    const { locks, leases, batcher, ttl_ms, progress_ms } = this.#deps
    this.#stop.signal.throwIfAborted()
    const wait = new AbortController()
    this.#waits.add(wait)
    const { signal } = wait
    const request = () =>
      locks.acquire(resource, {
        job,
        // A living worker releases after HOLD_MS, and the lease of a dead one expires after its TTL. A wait that lasts
        // longer fails, and the job is retried.
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

  /** Deregisters the queue, so that the next nudge starts a new run. */
  #stopRunning(queue: string, run: RunningQueue): void {
    if (this.#running.get(queue) === run) this.#running.delete(queue)
    if (run.hot) this.#deps.publishHot(queue, false)
    run.hot = false
    for (const { resolve } of run.joinedJobs.splice(0)) resolve(false)
  }

  /**
   * Stops the queue while rows may be pending. Deregisters first and then nudges, so that the nudge does not find this
   * queue still running here.
   */
  #requeue(queue: string, run: RunningQueue): void {
    this.#stopRunning(queue, run)
    this.#deps.nudge([queue])
  }
}
