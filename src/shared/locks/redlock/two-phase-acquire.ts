/**
 * How a lease is acquired from a quorum. Invariant: a lease is granted once a quorum of voters has confirmed it, each voter for
 * a whole TTL; and a voter confirms no other id while a lock lasts. Any two quorums share a voter, so two ids cannot both be
 * granted an exclusive lock.
 *
 * First the client asks all voters for their vote; then it asks them to confirm the vote with one token. Votes for later tickets
 * give way to earlier tickets, so a split vote goes to the earliest ticket instead of to none. If no other id is in the way, a
 * voter confirms at once, with the proposed token; if too few voters did, those locks become slots in the wait queue.
 */
import type { Answer, Attempt, BusyAnswer } from '../core/backend.ts'
import { readId, splitHolder } from '../redis/wire-format.ts'
import { answered, callVoters, type Round } from './quorum-call.ts'
import type { Proposal, Vote, Voter } from './voter.ts'

class NoQuorumError extends Error {
  override name = 'NoQuorumError'
  readonly code = 'no_quorum'
  /** @param answered number of voters that were reached and may vote */
  constructor(resource: string, answered: number, of: number) {
    super(`${answered} of ${of} lock servers may vote on ${resource}: no majority`)
  }
}

/** Returns the answers of a round. @throws NoQuorumError when fewer than a quorum of voters have answered */
export function requireQuorum<T>(resource: string, { answers }: Pick<Round<T>, 'answers'>, quorum: number): T[] {
  const all = answered(answers)
  if (all.length < quorum) throw new NoQuorumError(resource, all.length, answers.length)
  return all
}

interface Outcome {
  answer: Answer | NoQuorumError
  /** true if another try may succeed and no message will say when */
  retry: boolean
}

/**
 * Milliseconds in which the servers may start one after the other; after that, uninitialized servers that are up count as having
 * lost their data.
 */
const FIRST_START_MS = 5000

/**
 * Microseconds by which a proposed token is ahead of the servers' clocks: a margin for the network, and for clocks that differ
 * slightly.
 */
const LEAD_US = 50_000

interface Try {
  /** Minimum tokens of the votes that other waiters handed over to this one since the last try. */
  handed: readonly number[]
  vote_ms: number
  /** true on the first try, the only one that proposes a token */
  first: boolean
  /** Returns false once the attempt was abandoned and the id was used for another request, which nothing may overtake. */
  latest(): boolean
}

export class TwoPhaseAcquire {
  #voters: readonly Voter[]
  #quorum: number
  #uninitialized_since: number | undefined
  /** Microseconds by which the clocks of a quorum are ahead of this process's clock, according to the last votes. */
  #ahead_us = 0

  constructor(voters: readonly Voter[], quorum: number) {
    this.#voters = voters
    this.#quorum = quorum
  }

  /**
   * Initializes voters that do not know whether they ever voted. If all voters answer and none of them knows, this is the first
   * vote ever.
   * @returns whether the client should ask for votes again
   */
  async #initializeVoters(votes: readonly (Vote | undefined)[], ttl_ms: number): Promise<boolean> {
    const uninitialized = this.#voters.filter((_, i) => isUninitialized(votes[i]))
    if (uninitialized.length === this.#voters.length) {
      await callVoters(uninitialized, (voter) => voter.initialize(true), ttl_ms)
      return true
    }
    if (uninitialized.length === 0) {
      this.#uninitialized_since = undefined
      return false
    }
    this.#uninitialized_since ??= performance.now()
    const others = answered(votes).length > uninitialized.length
    if (others || performance.now() - this.#uninitialized_since > FIRST_START_MS) {
      void callVoters(uninitialized, (voter) => voter.initialize(false), ttl_ms)
    }
    return false
  }

  #updateClockOffset(votes: readonly (Vote | undefined)[]): void {
    const now_us = wallUs()
    const offsets = votes.flatMap((one) => (one?.kind === 'vote' ? one.server_us - now_us : []))
    const offset = offsets.sort((a, b) => a - b)[this.#quorum - 1]
    if (offset !== undefined) this.#ahead_us = offset
  }

  async #vote(attempt: Attempt, vote_ms: number, proposal?: Proposal): Promise<(Vote | undefined)[]> {
    const { resource, id, ttl_ms, slot_ttl_ms } = attempt
    for (let retry = false; ; retry = true) {
      const { answers } = await callVoters(
        this.#voters,
        (voter) => voter.vote(resource, id, vote_ms, slot_ttl_ms, proposal),
        ttl_ms,
        (votes, pending) => {
          if (votes.some(isUninitialized)) return false
          const mine = votes.filter(hasVote).length
          const voting = votes.filter((one) => one.kind !== 'not_eligible').length
          return mine >= this.#quorum || (mine + pending < this.#quorum && voting >= this.#quorum)
        },
      )
      const votes = [...answers]
      if (!(await this.#initializeVoters(votes, ttl_ms)) || retry) return votes
    }
  }

  /** Asks all voters to confirm, including voters whose vote has not arrived, because they may have voted. */
  async #confirm(attempt: Attempt, min_token: number, latest: () => boolean): Promise<number | 'lost'> {
    const { resource, id, ttl_ms } = attempt
    let token = min_token
    for (let retry = false; ; retry = true) {
      const round = await callVoters(
        this.#voters,
        (voter) => voter.confirm(resource, id, token, ttl_ms),
        ttl_ms,
        (answers, pending) => {
          const confirmed = answers.filter((answer) => answer === 'confirmed').length
          return confirmed >= this.#quorum || (confirmed + pending < this.#quorum && answers.length >= this.#quorum)
        },
      )
      const answers = requireQuorum(resource, round, this.#quorum)
      if (answers.filter((answer) => answer === 'confirmed').length >= this.#quorum) return token
      const fences = answers.flatMap((answer) => (typeof answer === 'object' ? answer.fence : []))
      if (retry || fences.length === 0 || !latest()) return 'lost'
      token = Math.max(token, ...fences) + 1
    }
  }

  #busyAnswer({ id, slot_ttl_ms }: Attempt, votes: readonly (Vote | undefined)[]): BusyAnswer {
    const busy = votes.filter((one) => one?.kind === 'busy')
    const holders = busy.flatMap((one) => (one.holder === undefined ? [] : splitHolder(one.holder)))
    const holder = holders.sort((a, b) => b.token - a.token)[0]
    const ends = votes.map((one) => {
      if (one?.kind === 'busy' && one.free_in_ms >= 0) return one.free_in_ms
      return hasVote(one) ? 0 : Number.POSITIVE_INFINITY
    })
    const free_in_ms = ends.sort((a, b) => a - b)[this.#quorum - 1] ?? Number.POSITIVE_INFINITY
    return {
      granted: false,
      ticket: slot_ttl_ms > 0 ? ticketOf(id) : 0,
      // Slot 0: a hand-over on a quorum gives a vote and not a lock, so the core must attempt again.
      slot: 0,
      ahead: busy.length > 0 ? Math.min(...busy.map((one) => one.ahead)) : 0,
      waiting: Math.max(0, ...busy.map((one) => one.waiting)),
      free_in_ms: Number.isFinite(free_in_ms) ? free_in_ms : -1,
      holder: holder && (readId(holder.id).owner || holder.id),
    }
  }

  /**
   * Gives up locks that too few voters confirmed at once. It must send this immediately, because a later try may win these
   * locks.
   */
  #stepBackFrom({ resource, id, ttl_ms, slot_ttl_ms }: Attempt, votes: readonly (Vote | undefined)[]): void {
    const locked = this.#voters.filter((_, i) => {
      const one = votes[i]
      return one?.kind === 'lock' || (one?.kind === 'vote' && one.locked)
    })
    if (locked.length > 0) void callVoters(locked, (voter) => voter.stepBack(resource, id, slot_ttl_ms), ttl_ms)
  }

  /** Tries once to acquire a lease; backend.ts may make several tries. */
  async tryOnce(attempt: Attempt, { handed, vote_ms, first, latest }: Try): Promise<Outcome> {
    const { resource, id, ttl_ms, above, slot_ttl_ms } = attempt
    let votes: (Vote | undefined)[] = []
    let minTokens = handed
    if (minTokens.length < this.#quorum) {
      const token = Math.max(above + 1, wallUs() + this.#ahead_us + LEAD_US)
      votes = await this.#vote(attempt, vote_ms, first ? { token, ttl_ms } : undefined)
      if (votes.filter((one) => one?.kind === 'lock').length >= this.#quorum)
        return { answer: { granted: true, token }, retry: false }
      this.#updateClockOffset(votes)
      if (!latest()) return { answer: this.#busyAnswer(attempt, votes), retry: false }
      minTokens = votes.flatMap((one) => (one?.kind === 'vote' ? one.min_token : one?.kind === 'lock' ? token : []))
      if (minTokens.length < this.#quorum) this.#stepBackFrom(attempt, votes)
    }
    if (minTokens.length >= this.#quorum) {
      const token = await this.#confirm(attempt, Math.max(above + 1, ...minTokens), latest)
      if (token !== 'lost') return { answer: { granted: true, token }, retry: false }
      // Another waiter with an earlier ticket has taken over votes, or is about to: give up the other votes.
      if (slot_ttl_ms > 0 && latest())
        void callVoters(this.#voters, (voter) => voter.stepBack(resource, id, slot_ttl_ms), ttl_ms)
      return { answer: this.#busyAnswer(attempt, votes), retry: slot_ttl_ms === 0 }
    }
    const voting = answered(votes).filter((one) => one.kind !== 'not_eligible')
    if (voting.length < this.#quorum) {
      // Retry if voters are unreachable or uninitialized, which may end soon; voters that lost their data stay out for long.
      const retry = answered(votes).length < this.#quorum || votes.some(isUninitialized)
      return { answer: new NoQuorumError(resource, voting.length, this.#voters.length), retry }
    }
    const split = minTokens.length > 0 && mostHeld(voting) <= this.#voters.length - this.#quorum
    return { answer: this.#busyAnswer(attempt, votes), retry: split && slot_ttl_ms === 0 }
  }
}

/** Returns the ticket that the client has put into the id (see voter.lua). */
export function ticketOf(id: string): number {
  return Number(id.match(/^\S+ \S+ \S*\/\d+-(\d+)-/)?.[1] ?? 0)
}

/** Returns the wall-clock time in µs, computed from the monotonic clock, so that it runs evenly. */
export function wallUs(): number {
  return Math.floor((performance.timeOrigin + performance.now()) * 1000)
}

function hasVote(vote: Vote | undefined): boolean {
  return vote?.kind === 'vote' || vote?.kind === 'lock'
}

/** Returns the highest number of voters on which one owner holds the lock. All readers count as one owner. */
function mostHeld(votes: readonly Vote[]): number {
  const counts = new Map<string, number>()
  for (const one of votes) {
    const { id, token } = splitHolder((one.kind === 'busy' && one.holder) || '')
    const owner = readId(id).mode === 'exclusive' ? id : 'readers'
    if (token > 0) counts.set(owner, (counts.get(owner) ?? 0) + 1)
  }
  return Math.max(0, ...counts.values())
}

function isUninitialized(vote: Vote | undefined): boolean {
  return vote?.kind === 'not_eligible' && vote.left_ms < 0
}
