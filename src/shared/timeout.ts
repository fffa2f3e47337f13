/**
 * Promises with a time limit: no request here waits for a lock server for ever. One timer for all pending requests,
 * since a timer each would cost as much as the rest of the client's side of an acquire.
 */

/** A wait that can be ended from outside. */
export interface Interruptible {
  aborted?: { reason: unknown }
  abort?: (reason: unknown) => void
}

interface Request {
  limit_ms: number
  until: number
  reject: (reason: unknown) => void
}

/** How late an expired limit may be detected. The shortest limit is 50 ms. */
const CHECK_MS = 25

const pending = new Set<Request>()
let scheduled = false

/**
 * Rejects after limit_ms, or as soon as the waiter is aborted. The work itself continues: the caller must handle what
 * it may still do.
 */
export function withTimeout<T>(work: Promise<T>, limit_ms: number, waiter?: Interruptible): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = { limit_ms, until: performance.now() + limit_ms, reject }
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
    const error = new Error(`the lock server did not answer within ${request.limit_ms} ms`)
    request.reject(Object.assign(error, { code: 'ETIMEDOUT' }))
  }
  if (pending.size > 0) scheduleCheck()
}

/**
 * A lock server that does not answer within this counts as gone: a third of the TTL, since a later grant would already
 * be due for renewal; at least 50 ms, which a busy event loop can cost; at most 2 s, so that callers fail fast.
 */
export function answerLimit(ttl_ms: number): number {
  return Math.min(Math.max(Math.floor(ttl_ms / 3), 50), 2000)
}
