/** What a client is told about locks that are not given: somebody else has it, or nobody knows. */
import { UnavailableError } from '../../shared/breaker.ts'
import { LeaseLostError, LockBusyError } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'

/** A busy lease as the contract's problem; `waiters`: who stands in line, in order, where that was asked for. */
export const lockBusy = (error: LockBusyError, waiters?: object[]) =>
  new Problem(409, 'lock_busy', error.message, {
    holder: error.holder ?? null,
    waiting: error.waiting,
    ...(waiters && { waiters }),
    retry_after_ms: error.retry_after_ms,
    retry_after: Math.max(1, Math.ceil(error.retry_after_ms / 1000)),
  })

/** Answers of the locks pass; for everything else it is the lock server that did not answer: 503. */
export async function onLockServer<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    const ours = [Problem, UnavailableError, LockBusyError, LeaseLostError, RangeError, TypeError].some(
      (known) => error instanceof known,
    )
    throw ours ? error : new UnavailableError('the lock server', error)
  }
}
