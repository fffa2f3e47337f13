/**
 * One question to all voters at once. The invariant: a straggler is waited for no longer than its share of the TTL once a
 * majority has answered, nobody once the others have decided, and a round ends before the core gives it up. What comes
 * later is still filled in.
 */
import { answerLimit, bounded } from '../../timeout.ts'
import type { Voter } from './voter.ts'

export interface Round<T> {
  /** By voter; undefined where none has come, or none in time. An answer itself is never undefined. */
  answers: (T | undefined)[]
  /** Settles when every voter has answered or failed, or its time is over. */
  all: Promise<unknown>
}

export function ask<T>(
  voters: readonly Voter[],
  question: (voter: Voter) => Promise<T>,
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
        answers[i] = await bounded(question(voter), end_ms)
      } catch {
        // No answer is an answer: it counts for nobody.
      }
      pending -= 1
      look()
    })
    const round: Round<T> = { answers, all: Promise.all(each) }

    function look(): void {
      const sofar = given(answers)
      if (pending > 0 && !(late && sofar.length > voters.length / 2) && !decided(sofar, pending)) return
      clearTimeout(straggling)
      resolve(round)
    }

    // After a blocked event loop the answers that lie in the sockets come first.
    const straggling = setTimeout(
      () =>
        setImmediate(() => {
          late = true
          look()
        }),
      stragglerLimit(ttl_ms),
    )
    if (voters.length === 0) look()
  })
}

export function given<T>(answers: readonly (T | undefined)[]): T[] {
  return answers.filter((answer) => answer !== undefined)
}

/**
 * A voter that answers later than a majority by this is done without: 4 % of the TTL, since two rounds shall leave nearly
 * all of it; at least 50 ms, which a busy event loop can cost.
 */
export function stragglerLimit(ttl_ms: number): number {
  return Math.ceil(Math.min(Math.max(ttl_ms * 0.04, 50), answerLimit(ttl_ms) * 0.4))
}
