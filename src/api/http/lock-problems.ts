/** Lock errors as problems: the lock is held by another owner (409), or the lock server does not answer (503). */
import { UnavailableError } from '../../shared/breaker.ts'
import { LeaseLostError, LockBusyError } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'

/** Returns the 409 problem for a busy lock. `waiters`: the wait queue in order, if the route reports it. */
export const lockBusy = (error: LockBusyError, waiters?: object[]) =>
  new Problem(409, 'lock_busy', error.message, {
    holder: error.holder ?? null,
    waiting: error.waiting,
    ...(waiters && { waiters }),
    retry_after_ms: error.retry_after_ms,
    retry_after: Math.max(1, Math.ceil(error.retry_after_ms / 1000)),
  })

/** Runs the body and rethrows errors of the lock library. Any other error means that the lock server did not answer: 503. */
export async function onLockServer<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    const known = [Problem, UnavailableError, LockBusyError, LeaseLostError, RangeError, TypeError].some(
      (type) => error instanceof type,
    )
    throw known ? error : new UnavailableError('the lock server', error)
  }
}
