/**
 * One question to all voters at once. The invariant: no voter is waited for longer than the limit, and none at all once
 * the others have decided; what a late one answers is still filled in.
 */
import { answerLimit, bounded } from '../bounded.ts'
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
  limit_ms: number,
  decided: (answers: T[], pending: number) => boolean = () => false,
): Promise<Round<T>> {
  const answers: (T | undefined)[] = voters.map(() => undefined)
  let pending = voters.length
  return new Promise((resolve) => {
    const each = voters.map(async (voter, i) => {
      try {
        answers[i] = await bounded(question(voter), limit_ms)
      } catch {
        // No answer is an answer: it counts for nobody.
      }
      pending -= 1
      if (pending === 0 || decided(given(answers), pending)) resolve(round)
    })
    const round: Round<T> = { answers, all: Promise.all(each) }
    if (voters.length === 0) resolve(round)
  })
}

export function given<T>(answers: readonly (T | undefined)[]): T[] {
  return answers.filter((answer) => answer !== undefined)
}

/**
 * A voter answers within this or is done without: 4 % of the TTL, since two rounds shall leave nearly all of it; at least
 * 50 ms, which a busy event loop can cost; and never so long that two rounds outlast what the core waits for both.
 */
export function voterLimit(ttl_ms: number): number {
  return Math.ceil(Math.min(Math.max(ttl_ms * 0.04, 50), answerLimit(ttl_ms) * 0.4))
}
