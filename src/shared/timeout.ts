/**
 * What is done in time: a promise with a time limit, a loop that runs every so often, and a wake-up. Invariant: a timer that is
 * no longer needed is cleared, and none of the loops runs twice at once.
 */

/** A wait that can be ended from outside. */
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

/** How late an expired limit may be detected. The shortest limit is 50 ms. */
const CHECK_MS = 25

/** One timer for all of them: a timer each would cost as much as the rest of the client's side of an acquire. */
const pending = new Set<Request>()
let scheduled = false

/**
 * Rejects after limit_ms, or as soon as the waiter is aborted. The work itself continues: the caller must handle what
 * it may still do.
 * @param what of the error: `${what} within ${limit_ms} ms`
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

/** After a blocked event loop, answers wait in the socket: setImmediate runs after they are read. */
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
 * Runs `run` every interval_ms, never twice at once: the turns that come while it runs are skipped. An error goes to `onError`,
 * and the next turn comes as usual. The timer alone does not keep the process alive.
 * @returns a function that ends it, and resolves when the run under way has ended
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

export interface Signal {
  /** Ends every wait, also those that begin later. */
  fire(): void
  /** Resolves when it was fired, after within_ms, or when `signal` aborts, whichever comes first. */
  wait(limits?: { within_ms?: number; signal?: AbortSignal }): Promise<void>
}

/** A wake-up that happens once. */
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
