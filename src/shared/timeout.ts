/**
 * Timers: a time limit for a promise, a loop with a fixed interval, a run that its callers share, and a wake-up signal.
 * Invariant: a timer that is no longer needed is cleared, and neither a loop nor a shared run runs its body twice at once.
 */

/** A wait that other code can end. */
export interface Interruptible {
  aborted?: { reason: unknown }
  abort?: (reason: unknown) => void
}

interface Request {
  what: string
  limit_ms: number
  until: number
  reject: (reason: unknown) => void
}

/** Milliseconds by which the detection of an expired limit may be late. The shortest limit is 50 ms. */
const CHECK_MS = 25

/** Pending limits. They share one timer: one timer each would cost as much as the rest of the client's side of an acquire. */
const pending = new Set<Request>()
let scheduled = false

/**
 * Resolves as `work` does, but rejects after limit_ms, or as soon as the waiter is aborted. The work itself continues: the
 * caller must handle what the work may still do.
 * @param what the start of the error message: `${what} within ${limit_ms} ms`
 */
export function withTimeout<T>(
  work: Promise<T>,
  limit_ms: number,
  what = 'no response',
  waiter?: Interruptible,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = { what, limit_ms, until: performance.now() + limit_ms, reject }
    pending.add(request)
    scheduleCheck()
    work.then(
      (value) => {
        pending.delete(request)
        resolve(value)
      },
      (error) => {
        pending.delete(request)
        reject(error)
      },
    )
    if (!waiter) return
    waiter.abort = reject
    if (waiter.aborted) reject(waiter.aborted.reason)
  })
}

function scheduleCheck(): void {
  if (scheduled) return
  scheduled = true
  setTimeout(afterReplies, CHECK_MS)
}

/**
 * Runs rejectLate after pending answers: if the event loop was blocked, answers wait in the socket, and setImmediate runs
 * after they are read.
 */
function afterReplies(): void {
  setImmediate(rejectLate, performance.now())
}

function rejectLate(now: number): void {
  scheduled = false
  for (const request of pending) {
    if (now < request.until) continue
    pending.delete(request)
    const error = new Error(`${request.what} within ${request.limit_ms} ms`)
    request.reject(Object.assign(error, { code: 'ETIMEDOUT' }))
  }
  if (pending.size > 0) scheduleCheck()
}

/**
 * Calls `run` every interval_ms, never twice at once: it skips the turns that come while `run` is running. An error goes to
 * `onError`, and the next turn comes as usual. The timer alone does not keep the process alive.
 * @returns a function that ends the loop, and resolves when the current run has ended
 */
export function every(interval_ms: number, run: () => unknown, onError: (error: unknown) => void): () => Promise<void> {
  let running: Promise<void> | undefined
  async function runOnce(): Promise<void> {
    try {
      await run()
    } catch (error) {
      onError(error)
    }
  }
  const timer = setInterval(() => {
    running ??= runOnce().finally(() => {
      running = undefined
    })
  }, interval_ms).unref()
  return async () => {
    clearInterval(timer)
    await running
  }
}

/** Returns a function that starts `run` unless it is already running: calls that come meanwhile get the result of that run. */
export function shareRunning<T>(run: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined
  return () => {
    running ??= run().finally(() => {
      running = undefined
    })
    return running
  }
}

export interface Signal {
  /** Ends every wait, including waits that begin later. */
  fire(): void
  /** Resolves when fire() was called, after within_ms, or when `signal` aborts, whichever comes first. */
  wait(limits?: { within_ms?: number; signal?: AbortSignal }): Promise<void>
}

/** Creates a signal that can be fired once. */
export function createSignal(): Signal {
  let fired = false
  const waits = new Set<() => void>()
  return {
    fire() {
      fired = true
      for (const end of waits) end()
    },
    async wait({ within_ms, signal } = {}) {
      if (fired || signal?.aborted) return
      await new Promise<void>((resolve) => {
        const end = () => {
          waits.delete(end)
          clearTimeout(timer)
          signal?.removeEventListener('abort', end)
          resolve()
        }
        const timer = within_ms === undefined ? undefined : setTimeout(end, within_ms)
        waits.add(end)
        signal?.addEventListener('abort', end)
      })
    },
  }
}
