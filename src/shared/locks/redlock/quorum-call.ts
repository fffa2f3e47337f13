/**
 * Calls all voters at once; such a call is a round. Invariant: once a majority has answered, the round waits for a late voter
 * no longer than stragglerLimit, and not at all once the outcome is decided; it ends before answerLimit, the time limit that
 * core/ gives the whole request. An answer that comes after the end of the round is still written into `answers`.
 */
import { withTimeout } from '../../timeout.ts'
import { answerLimit } from '../core/answer-limit.ts'
import type { Voter } from './voter.ts'

export interface Round<T> {
  /** The answers by voter; undefined if a voter has not answered, or not in time. An answer itself is never undefined. */
  answers: (T | undefined)[]
  /** Settles when every voter has answered, failed or timed out. */
  all: Promise<unknown>
}

export function callVoters<T>(
  voters: readonly Voter[],
  call: (voter: Voter) => Promise<T>,
  ttl_ms: number,
  decided: (answers: T[], pending: number) => boolean = () => false,
): Promise<Round<T>> {
  const answers: (T | undefined)[] = voters.map(() => undefined)
  let pending = voters.length
  let late = false
  return new Promise((resolve) => {
    const end_ms = answerLimit(ttl_ms) * 0.8
    const each = voters.map(async (voter, i) => {
      try {
        answers[i] = await withTimeout(call(voter), end_ms)
      } catch {
        // A voter without an answer does not count for any outcome.
      }
      pending -= 1
      checkDone()
    })
    const round: Round<T> = { answers, all: Promise.all(each) }

    function checkDone(): void {
      const sofar = answered(answers)
      if (pending > 0 && !(late && sofar.length > voters.length / 2) && !decided(sofar, pending)) return
      clearTimeout(straggling)
      resolve(round)
    }

    // setImmediate: if the event loop was blocked, read the answers that wait in the sockets first.
    const straggling = setTimeout(
      () =>
        setImmediate(() => {
          late = true
          checkDone()
        }),
      stragglerLimit(ttl_ms),
    )
    if (voters.length === 0) checkDone()
  })
}

export function answered<T>(answers: readonly (T | undefined)[]): T[] {
  return answers.filter((answer) => answer !== undefined)
}

/**
 * Returns the milliseconds after which a round no longer waits for late voters if a majority has answered: 4 % of the TTL,
 * because two rounds must leave nearly all of the TTL; at least 50 ms, which a busy event loop can cost; at most two
 * fifths of answerLimit.
 */
export function stragglerLimit(ttl_ms: number): number {
  return Math.ceil(Math.min(Math.max(ttl_ms * 0.04, 50), answerLimit(ttl_ms) * 0.4))
}
