/**
 * The path of a job: acquire the lease → batch → fenced commit → notice → next batch, or release. Invariant: one lease
 * holder at a time drains a queue, and it does not stop while rows are pending without nudging the queue again.
 */
import type { Breaker } from '../../shared/breaker.ts'
import { byLockOrder } from '../../shared/domain/resource.ts'
import type { Nudge } from '../../shared/jobs/nudges.ts'
import { type Lease, LeaseLostError, type Locks } from '../../shared/locks/api.ts'
import { createSignal, type Signal } from '../../shared/timeout.ts'
import type { BatchResult, createBatcher } from './batcher.ts'
import { idOf, type QueueItem, resourcesOf } from './queue-item.ts'
import { StaleLeaseError } from './settlement.ts'

export interface QueueRunnerDeps {
  locks: Locks
  leases: Breaker
  batcher: ReturnType<typeof createBatcher>
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

export function createQueueRunner(deps: QueueRunnerDeps) {
  const { locks, leases, batcher, nudge, publishHot, ttl_ms, progress_ms } = deps
  const running = new Map<string, RunningQueue>()
  /** queues that were stopped in the middle of a step: until it ends, the step still occupies the slot of its job */
  const stuckQueues = new Map<RunningQueue, string>()
  const stop = new AbortController()
  /** one for each lease that is waited for: aborts the wait */
  const waits = new Set<AbortController>()
  // A holder releases after HOLD_MS, the lease of a dead one expires after its TTL: a longer wait is a fault worth a retry.
  const wait_ms = 2 * ttl_ms

  /** Waits for the lease. When the breaker ends the wait, it is cancelled, and a lease that is granted later is released. */
  async function acquire(resource: string, job: string): Promise<Lease> {
    stop.signal.throwIfAborted()
    const wait = new AbortController()
    waits.add(wait)
    const { signal } = wait
    const request = () =>
      locks.acquire(resource, {
        job,
        wait_ms,
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
      waits.delete(wait)
    }
  }

  /** Deregisters the queue: from here on a nudge starts a new run. */
  function stopRunning(queue: string, run: RunningQueue): void {
    if (running.get(queue) === run) running.delete(queue)
    if (run.hot) publishHot(queue, false)
    run.hot = false
    for (const { resolve } of run.joinedJobs.splice(0)) resolve(false)
  }

  /** Stops with rows left: deregister first, then nudge, so that the nudge does not find this queue still running here. */
  function requeue(queue: string, run: RunningQueue): void {
    stopRunning(queue, run)
    nudge([queue])
  }

  async function drain(queue: string, run: RunningQueue, releaseDedupId: ReleaseDedupId): Promise<void> {
    const lease = await acquire(queue, run.job)
    const onProgress = () => {
      run.progress_at = performance.now()
      lease.progress()
    }
    try {
      onProgress()
      await releaseDedupId()
      const since = performance.now()
      const missCounts = new Map<string, number>()
      let after = 0
      let last_full = false
      let extras = new Map<string, Lease>()
      for (;;) {
        run.rerun = false
        const joined = run.joinedJobs.splice(0)
        await Promise.all(joined.map((one) => one.releaseDedupId()))
        for (const { resolve } of joined) resolve(true)
        let result: BatchResult
        try {
          result = await batcher.requestBatch({ queue, lease, after, last_full, extras, onProgress })
        } finally {
          await locks.releaseMany(extras.values())
        }
        onProgress()
        after = result.after
        last_full = result.full
        const more = result.full || result.missed.length > 0 || run.rerun || run.joinedJobs.length > 0
        // No await between this check and deregistering: a nudge finds the queue either running here or absent.
        // A hot queue is nudged once more: an API that held a nudge back may have died with it.
        if (!more && result.fetched < HOT_ROWS) return run.hot ? requeue(queue, run) : stopRunning(queue, run)
        if (stop.signal.aborted || lease.signal.aborted) return requeue(queue, run)
        // After HOLD_MS, pass the lease to a waiting worker; if the queue is empty, free this job slot too.
        const long_held = performance.now() - since > HOLD_MS
        if (long_held && (!more || (await lease.extend()).waiting > 0)) return requeue(queue, run)
        // Published after the fetch, so that one more poll always finds the rows whose nudges are held back from now on.
        if (result.fetched >= HOT_ROWS) {
          run.hot = true
          publishHot(queue, true)
        }
        if (!more) {
          // Passing a hot queue from worker to worker costs a job for every few rows, which is more than settling them.
          run.bell = createSignal()
          await run.bell.wait({ within_ms: HOT_POLL_MS })
        }
        extras = await acquireMissing(queue, run.job, result.missed, missCounts, onProgress)
      }
    } finally {
      await lease.release()
    }
  }

  /** Waits, in lock order and while the queue is held, for the leases of the first row that has missed MISSES times. */
  async function acquireMissing(
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
        if (ref !== queue) extras.set(ref, await acquire(ref, job))
        onProgress()
        for (const extra of extras.values()) extra.progress()
      }
      return extras
    } catch (error) {
      await locks.releaseMany(extras.values())
      throw error
    }
  }

  async function runWithRetry(queue: string, job: string, releaseDedupId: ReleaseDedupId): Promise<void> {
    const run: RunningQueue = {
      job,
      rerun: false,
      joinedJobs: [],
      hot: false,
      progress_at: performance.now(),
      bell: createSignal(),
    }
    running.set(queue, run)
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          return await drain(queue, run, releaseDedupId)
        } catch (error) {
          // Our job still holds the deduplication id, so a plain nudge would be dropped: bypass it.
          if (stop.signal.aborted) {
            stopRunning(queue, run)
            return nudge([queue], { force: true })
          }
          // The lease was superseded or lost: nothing was written under it. The rows are still pending: drain them under a
          // newer token.
          const over = error instanceof StaleLeaseError || error instanceof LeaseLostError
          if (!over || attempt === ATTEMPTS) {
            const { rerun } = run
            stopRunning(queue, run)
            // A job that has already finished set the flag, so no retry will cover it: nudge again.
            if (rerun) nudge([queue], { force: true })
            throw error
          }
        }
      }
    } finally {
      stopRunning(queue, run)
      stuckQueues.delete(run)
    }
  }

  /** Joins the run of this queue in this process, or starts one. */
  async function joinOrStart(queue: string, job: string, releaseDedupId: ReleaseDedupId | undefined): Promise<void> {
    for (let run = running.get(queue); run; run = running.get(queue)) {
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
    await runWithRetry(queue, job, releaseDedupId ?? (async () => {}))
  }

  return {
    /**
     * Settles these queues until they are empty; one that already runs here is polled once more. Rejects when a queue could
     * not be settled: its rows stay queued. Calls `releaseDedupId`, maybe more than once, while the lease is held and before
     * rows are fetched.
     */
    async process(resources: readonly string[], job: string, releaseDedupId?: ReleaseDedupId): Promise<void> {
      const results = await Promise.allSettled(resources.map((one) => joinOrStart(one, job, releaseDedupId)))
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    },
    /** Releases each queue after its current batch and nudges those with pending rows. */
    stop() {
      stop.abort(new Error('the worker is stopping'))
      for (const wait of waits) wait.abort(stop.signal.reason)
    },
    /**
     * Stops each queue without progress for `progress_ms`, so that its next job starts a new run here or in another process;
     * its lease has ended by the same limit. Returns these queues.
     */
    stopStuck(): string[] {
      const since = performance.now() - progress_ms
      const stuck = [...running].filter(([, run]) => run.progress_at < since)
      for (const [queue, run] of stuck) {
        stopRunning(queue, run)
        stuckQueues.set(run, queue)
      }
      const queues = stuck.map(([queue]) => queue)
      if (queues.length > 0) nudge(queues, { force: true })
      return queues
    },
    /** Each running queue, also one that was stopped in mid-step, with the milliseconds since its last step ended. */
    state: () => {
      const all = [...running, ...Array.from(stuckQueues, ([run, queue]) => [queue, run] as const)]
      return all.map(([queue, { progress_at }]) => ({ queue, idle_ms: performance.now() - progress_at }))
    },
  }
}
