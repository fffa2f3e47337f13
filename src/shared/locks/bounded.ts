/** Waiting with a limit: nothing here waits for a lock server for ever. */

/** Something that can be told to stop waiting. */
export interface Interruptible {
  failed?: { reason: unknown }
  fail?: (reason: unknown) => void
}

/**
 * Rejects after limit_ms, or as soon as the waiter is failed. The work itself goes on: whoever gives up on it has to
 * see to what it may still do.
 */
export function bounded<T>(work: Promise<T>, limit_ms: number, waiter?: Interruptible): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(Object.assign(new Error(`the lock server did not answer within ${limit_ms} ms`), { code: 'ETIMEDOUT' }))
    }, limit_ms)
    const fail = (reason: unknown) => {
      clearTimeout(timer)
      reject(reason)
    }
    work.then((value) => {
      clearTimeout(timer)
      resolve(value)
    }, fail)
    if (!waiter) return
    waiter.fail = fail
    if (waiter.failed) fail(waiter.failed.reason)
  })
}

/**
 * Within this a lock server answers or is treated as gone: a third of the TTL, since a later grant would be due for
 * renewal when it comes; at least 50 ms, which a busy event loop can cost; at most 2 s, so that callers fail fast.
 */
export function answerLimit(ttl_ms: number): number {
  return Math.min(Math.max(Math.floor(ttl_ms / 3), 50), 2000)
}
