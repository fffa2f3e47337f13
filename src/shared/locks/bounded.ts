/** Waiting with a limit: nothing here waits for a lock server for ever. */

/** Rejects after limit_ms. The work itself goes on: whoever gives up on it has to see to what it may still do. */
export function bounded<T>(work: Promise<T>, limit_ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(Object.assign(new Error(`the lock server did not answer within ${limit_ms} ms`), { code: 'ETIMEDOUT' }))
    }, limit_ms)
    work.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error) => {
        clearTimeout(timer)
        reject(error)
      },
    )
  })
}

/**
 * Within this a lock server answers or is treated as gone: a third of the TTL, since a later grant would be due for
 * renewal when it comes; at least 50 ms, which a busy event loop can cost; at most 2 s, so that callers fail fast.
 */
export function answerLimit(ttl_ms: number): number {
  return Math.min(Math.max(Math.floor(ttl_ms / 3), 50), 2000)
}
