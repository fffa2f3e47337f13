/**
 * The backend on a quorum of independent Redis servers. Invariant: a lock that a quorum has not confirmed is not a lease, and
 * the client withdraws from every voter whatever an attempt may have left there. two-phase-acquire.ts describes how a lease is
 * acquired.
 */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { LockEvents, LockState } from '../api.ts'
import { answerLimit } from '../core/answer-limit.ts'
import type { Answer, Attempt, Backend, OnLockMessage, Requester } from '../core/backend.ts'
import { slotTtl } from '../core/wait-queue.ts'
import { type Subscription, subscribe } from '../redis/subscription.ts'
import { kindOf } from '../redis/wire-format.ts'
import { answered, callVoters, stragglerLimit } from './quorum-call.ts'
import { quorumState, revokedHolders } from './quorum-state.ts'
import { requireQuorum, TwoPhaseAcquire, wallUs } from './two-phase-acquire.ts'
import { createVoter, type Voter } from './voter.ts'

export interface RedlockBackendOptions {
  prefix: string
  /** The TTL of requests that name none. */
  ttl_ms: number
  /** The longest TTL of all clients: a voter that has lost its data does not vote for this long. */
  max_ttl_ms: number
  events?: LockEvents | undefined
}

export function createRedlockBackend(nodes: readonly Redis[], options: RedlockBackendOptions): Backend {
  const channel = `${options.prefix}lock:wake:${randomUUID().slice(0, 13)}`
  const { prefix, max_ttl_ms, events } = options
  const voters = nodes.map((node) => createVoter(node, prefix, max_ttl_ms, { channel, events }))
  return new RedlockBackend(nodes, voters, channel, options)
}

class RedlockBackend implements Backend {
  #nodes: readonly Redis[]
  #voters: readonly Voter[]
  #quorum: number
  #channel: string
  #default_ttl_ms: number
  #max_ttl_ms: number
  #acquire: TwoPhaseAcquire
  #tickets = ticketSource()
  #connected: Promise<unknown>
  #subscriptions: Subscription[] = []
  /** waiter_id → voter → minimum token of the vote that was handed over since the last attempt */
  #handed = new Map<number, Map<number, number>>()
  #renewing = new Set<string>()
  /** id → current attempt. An abandoned attempt must do nothing more once there is a later attempt or the id is withdrawn. */
  #attempts = new Map<string, symbol>()

  constructor(nodes: readonly Redis[], voters: readonly Voter[], channel: string, options: RedlockBackendOptions) {
    this.#nodes = nodes
    this.#voters = voters
    this.#quorum = Math.floor(nodes.length / 2) + 1
    this.#channel = channel
    this.#default_ttl_ms = options.ttl_ms
    this.#max_ttl_ms = options.max_ttl_ms
    this.#acquire = new TwoPhaseAcquire(voters, this.#quorum)
    this.#connected = Promise.all(voters.map((voter) => voter.firstConnection))
  }

  newOwnerId({ waiter_id, owner, mode, limit, ttl_ms }: Requester): string {
    if (mode === 'permit') throw new RangeError('a quorum does not count permits: use one Redis or etcd')
    if (ttl_ms > this.#max_ttl_ms) {
      throw new RangeError(`ttl_ms must not be above max_ttl_ms, ${this.#max_ttl_ms}: ${ttl_ms}`)
    }
    return `${kindOf(mode, limit)} ${ttl_ms} ${this.#channel}/${waiter_id}-${this.#tickets()}-${randomUUID()} ${owner}`
  }

  /** Returns the waiter_id of an id that this process made; -1 for ids of other processes. */
  #waiterIdOf(id: string): number {
    const at = id.indexOf(` ${this.#channel}/`)
    return at < 0 ? -1 : Number.parseInt(id.slice(at + this.#channel.length + 2), 10)
  }

  async attempt(attempt: Attempt): Promise<Answer> {
    const { resource, id, ttl_ms, slot_ttl_ms } = attempt
    const waiter_id = this.#waiterIdOf(id)
    const limit_ms = stragglerLimit(ttl_ms)
    const until = performance.now() + answerLimit(ttl_ms) - 2 * limit_ms
    const self = Symbol()
    this.#attempts.set(id, self)
    const latest = () => this.#attempts.get(id) === self
    await this.#connected
    for (let first = attempt.ticket === 0 && attempt.mode === 'exclusive'; ; first = false) {
      const handed = [...(this.#handed.get(waiter_id)?.values() ?? [])]
      if (slot_ttl_ms > 0) this.#handed.set(waiter_id, new Map())
      const { answer, retry } = await this.#acquire.tryOnce(attempt, {
        handed,
        vote_ms: slotTtl(ttl_ms),
        first,
        latest,
      })
      const pause_ms = Math.random() * limit_ms
      if (retry && latest() && performance.now() + pause_ms < until) {
        await new Promise((resolve) => setTimeout(resolve, pause_ms))
        continue
      }
      const over = latest() && this.#attempts.delete(id)
      if (answer instanceof Error) throw answer
      if (answer.granted) this.#handed.delete(waiter_id)
      else if (slot_ttl_ms === 0 && over) await this.#withdraw(resource, id)
      return answer
    }
  }

  #withdraw(resource: string, id: string) {
    this.#renewing.delete(id)
    this.#attempts.delete(id)
    this.#handed.delete(this.#waiterIdOf(id))
    const ttl_ms = Number(id.split(' ', 2)[1])
    const released = (answers: string[]) => answers.filter((answer) => answer === 'released').length >= this.#quorum
    return callVoters(this.#voters, (voter) => voter.withdraw(resource, id, ttl_ms), ttl_ms, released)
  }

  async extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'> {
    this.#renewing.add(id)
    const { answers, all } = await callVoters(
      this.#voters,
      (voter) => voter.renew(resource, id, ttl_ms),
      ttl_ms,
      (sofar) => sofar.filter((answer) => typeof answer === 'object').length >= this.#quorum,
    )
    const kept = answered(answers).filter((answer) => typeof answer === 'object')
    const withoutLock = () => this.#voters.filter((_, i) => answers[i] === 'forgotten')
    const token = Math.max(0, ...kept.map((one) => one.token))
    const waiting = Math.max(0, ...kept.map((one) => one.waiting))
    if (kept.length >= this.#quorum) {
      void all
        .then(() => this.#repair(resource, id, token, ttl_ms, withoutLock()))
        .finally(() => this.#renewing.delete(id))
      return waiting
    }
    const repaired = kept.length > 0 ? await this.#repair(resource, id, token, ttl_ms, withoutLock()) : 0
    this.#renewing.delete(id)
    if (kept.length + repaired >= this.#quorum) return waiting
    requireQuorum(resource, { answers }, this.#quorum)
    return answers.includes('taken') ? 'taken' : 'expired'
  }

  /**
   * Restores the lock on voters that have lost it or never had it, so that the next failure of a voter does not end the
   * lease.
   */
  async #repair(resource: string, id: string, token: number, ttl_ms: number, to: readonly Voter[]) {
    // Do nothing if the lease was released in the meantime.
    if (!this.#renewing.has(id)) return 0
    const { answers } = await callVoters(to, (voter) => voter.repair(resource, id, token, ttl_ms), ttl_ms)
    return answers.filter((repaired) => repaired).length
  }

  async release(resource: string, id: string): Promise<'released' | 'expired' | 'taken'> {
    const answers = requireQuorum(resource, await this.#withdraw(resource, id), this.#quorum)
    const released = answers.filter((answer) => answer === 'released').length
    // Count voters that did not answer, because they may have had the lock.
    if (released > 0 && released + this.#voters.length - answers.length >= this.#quorum) return 'released'
    return answers.includes('taken') ? 'taken' : 'expired'
  }

  async cancel(resource: string, id: string): Promise<void> {
    // If a voter cannot be reached now, voter.ts sends it the withdrawal later.
    const { all } = await this.#withdraw(resource, id)
    await all
  }

  async force(resource: string, above: number): ReturnType<Backend['force']> {
    const minTokens = requireQuorum(
      resource,
      await callVoters(this.#voters, (voter) => voter.minToken(resource), this.#default_ttl_ms),
      this.#quorum,
    )
    const token = Math.max(above, ...minTokens)
    // Use one token for all voters, because a later quorum may share only one voter with those that answer now.
    const revoked = requireQuorum(
      resource,
      await callVoters(this.#voters, (voter) => voter.revoke(resource, token), this.#default_ttl_ms),
      this.#quorum,
    )
    return { token, revoked_holders: revokedHolders(revoked) }
  }

  inspect(resources: readonly string[]): Promise<LockState[]> {
    return Promise.all(
      resources.map(async (resource) => {
        const round = await callVoters(this.#voters, (voter) => voter.inspect(resource), this.#default_ttl_ms)
        return quorumState(resource, requireQuorum(resource, round, this.#quorum), this.#quorum)
      }),
    )
  }

  async list(): Promise<string[]> {
    const round = await callVoters(this.#voters, (voter) => voter.list(), this.#default_ttl_ms)
    return [...new Set(requireQuorum('any resource', round, this.#quorum).flat())]
  }

  listen(onMessage: OnLockMessage): void {
    if (this.#subscriptions.length > 0) return
    this.#nodes.forEach((node, i) => {
      const onError = (error: unknown) => this.#voters[i]?.onError(error)
      this.#subscriptions.push(subscribe(node, this.#channel, this.#messagesFrom(i, onMessage), onError))
    })
  }

  #messagesFrom(voter: number, onMessage: OnLockMessage): OnLockMessage {
    return ((waiter_id: number | 'all', what?: { token: number } | 'taken') => {
      if (waiter_id === 'all') return onMessage(waiter_id)
      if (what === 'taken') return onMessage(waiter_id, what)
      const votes = this.#handed.get(waiter_id)
      if (!votes || !what) return
      votes.set(voter, what.token)
      // Wake the waiter at exactly a quorum: fewer votes are useless, and each further vote would only wake it again.
      if (votes.size === this.#quorum) onMessage(waiter_id)
    }) as OnLockMessage
  }

  async close(): Promise<void> {
    for (const subscription of this.#subscriptions) subscription.disconnect()
    for (const voter of this.#voters) voter.close()
  }
}

/**
 * Returns a source of tickets: wall-clock times in µs, strictly rising in a process. All voters order their wait queues by
 * ticket.
 */
function ticketSource(): () => number {
  let last = 0
  return () => {
    last = Math.max(last + 1, wallUs())
    return last
  }
}
