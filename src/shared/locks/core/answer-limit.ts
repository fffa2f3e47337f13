/** How long the lock server may take for an answer: no request here waits for it for ever. */
import { type Interruptible, withTimeout } from '../../timeout.ts'

/**
 * A lock server that does not answer within this counts as gone: a third of the TTL, since a later grant would already
 * be due for renewal; at least 50 ms, which a busy event loop can cost; at most 2 s, so that callers fail fast.
 */
export function answerLimit(ttl_ms: number): number {
  return Math.min(Math.max(Math.floor(ttl_ms / 3), 50), 2000)
}

/** The answer. @throws Error ETIMEDOUT after answerLimit, or the reason of the waiter, as soon as it is aborted */
export function awaitAnswer<T>(answer: Promise<T>, ttl_ms: number, waiter?: Interruptible): Promise<T> {
  return withTimeout(answer, answerLimit(ttl_ms), 'the lock server did not answer', waiter)
}
