/** Time limits for answers of the lock server: no request of the locks waits for ever. */
import { type Interruptible, withTimeout } from '../../timeout.ts'

/**
 * Returns the milliseconds after which a lock server that has not answered counts as gone: a third of the TTL, because a later
 * grant would already be due for renewal; at least 50 ms, which a busy event loop can cost; at most 2 s, so that callers fail
 * fast.
 */
export function answerLimit(ttl_ms: number): number {
  return Math.min(Math.max(Math.floor(ttl_ms / 3), 50), 2000)
}

/**
 * Waits for an answer and returns it.
 * @throws Error ETIMEDOUT after answerLimit, or the waiter's reason as soon as the waiter is aborted
 */
export function awaitAnswer<T>(answer: Promise<T>, ttl_ms: number, waiter?: Interruptible): Promise<T> {
  return withTimeout(answer, answerLimit(ttl_ms), 'the lock server did not answer', waiter)
}
