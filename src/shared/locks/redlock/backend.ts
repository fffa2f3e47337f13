/**
 * The backend on a quorum of independent Redis servers. Invariant: what a quorum has not confirmed is not a lease, and
 * whatever an attempt may have left on a voter is withdrawn from every voter. How a lease is acquired:
 * two-phase-acquire.ts.
 */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { LockEvents } from '../api.ts'
import { answerLimit } from '../core/answer-limit.ts'
import type { Backend, OnLockMessage } from '../core/backend.ts'
import { slotTtl } from '../core/wait-queue.ts'
import { type Subscription, subscribe } from '../redis/subscription.ts'
import { kindOf } from '../redis/wire-format.ts'
import { answered, callVoters, stragglerLimit } from './quorum-call.ts'
import { quorumState, revokedHolders } from './quorum-state.ts'
import { createTwoPhaseAcquire, requireQuorum, wallUs } from './two-phase-acquire.ts'
import { createVoter, type Voter } from './voter.ts'

export interface RedlockBackendOptions {
  prefix: string
  /** For requests without a TTL. */
  ttl_ms: number
  /** The longest TTL of all clients: a voter that has lost its data does not vote for this long. */
  max_ttl_ms: number
  events?: LockEvents | undefined
}

export function createRedlockBackend(nodes: readonly Redis[], options: RedlockBackendOptions): Backend {
  const { prefix, ttl_ms: default_ttl_ms, max_ttl_ms, events } = options
  const quorum = Math.floor(nodes.length / 2) + 1
  const channel = `${prefix}lock:wake:${randomUUID().slice(0, 13)}`
  const voters = nodes.map((node) => createVoter(node, prefix, max_ttl_ms, { channel, events }))
  const tryOnce = createTwoPhaseAcquire(voters, quorum)
  const tickets = ticketSource()
  const connected = Promise.all(voters.map((voter) => voter.firstConnection))
  const subscriptions: Subscription[] = []
  /** Waiters by waiter_id: min tokens by voter, of the votes handed over since the last attempt. */
  const handed = new Map<number, Map<number, number>>()
  const renewing = new Set<string>()
  /** The current attempt by id. An abandoned one must not act once there is a later one, or the id is withdrawn. */
  const attempts = new Map<string, symbol>()

  /** The waiter_id of an id of this process; -1 for ids of other processes. */
  function waiterIdOf(id: string): number {
    const at = id.indexOf(` ${channel}/`)
    return at < 0 ? -1 : Number.parseInt(id.slice(at + channel.length + 2), 10)
  }

  function withdraw(resource: string, id: string) {
    renewing.delete(id)
    attempts.delete(id)
    handed.delete(waiterIdOf(id))
    const ttl_ms = Number(id.split(' ', 2)[1])
    const released = (answers: string[]) => answers.filter((answer) => answer === 'released').length >= quorum
    return callVoters(voters, (voter) => voter.withdraw(resource, id, ttl_ms), ttl_ms, released)
  }

  /** Repairs voters that have lost the lock or never had it: the next voter that fails must not end the lease. */
  async function repair(resource: string, id: string, token: number, ttl_ms: number, to: readonly Voter[]) {
    // Not after a release in the meantime.
    if (!renewing.has(id)) return 0
    const { answers } = await callVoters(to, (voter) => voter.repair(resource, id, token, ttl_ms), ttl_ms)
    return answers.filter((repaired) => repaired).length
  }

  function messagesFrom(voter: number, onMessage: OnLockMessage): OnLockMessage {
    return ((waiter_id: number | 'all', what?: { token: number } | 'taken') => {
      if (waiter_id === 'all') return onMessage(waiter_id)
      if (what === 'taken') return onMessage(waiter_id, what)
      const votes = handed.get(waiter_id)
      if (!votes || !what) return
      votes.set(voter, what.token)
      // Fewer than a quorum are useless, and each further one would only wake the waiter again.
      if (votes.size === quorum) onMessage(waiter_id)
    }) as OnLockMessage
  }

  return {
    newOwnerId({ waiter_id, owner, mode, limit, ttl_ms }) {
      if (mode === 'permit') throw new RangeError('a quorum does not count permits: use one Redis or etcd')
      if (ttl_ms > max_ttl_ms) throw new RangeError(`ttl_ms must not be above max_ttl_ms, ${max_ttl_ms}: ${ttl_ms}`)
      return `${kindOf(mode, limit)} ${ttl_ms} ${channel}/${waiter_id}-${tickets()}-${randomUUID()} ${owner}`
    },

    async attempt(attempt) {
      const { resource, id, ttl_ms, slot_ttl_ms } = attempt
      const waiter_id = waiterIdOf(id)
      const limit_ms = stragglerLimit(ttl_ms)
      const until = performance.now() + answerLimit(ttl_ms) - 2 * limit_ms
      const self = Symbol()
      attempts.set(id, self)
      const latest = () => attempts.get(id) === self
      await connected
      for (let first = attempt.ticket === 0 && attempt.mode === 'exclusive'; ; first = false) {
        const votes = [...(handed.get(waiter_id)?.values() ?? [])]
        if (slot_ttl_ms > 0) handed.set(waiter_id, new Map())
        const { answer, retry } = await tryOnce(attempt, { handed: votes, vote_ms: slotTtl(ttl_ms), first, latest })
        const pause_ms = Math.random() * limit_ms
        if (retry && latest() && performance.now() + pause_ms < until) {
          await new Promise((resolve) => setTimeout(resolve, pause_ms))
          continue
        }
        const over = latest() && attempts.delete(id)
        if (answer instanceof Error) throw answer
        if (answer.granted) handed.delete(waiter_id)
        else if (slot_ttl_ms === 0 && over) await withdraw(resource, id)
        return answer
      }
    },

    async extend(resource, id, ttl_ms) {
      renewing.add(id)
      const { answers, all } = await callVoters(
        voters,
        (voter) => voter.renew(resource, id, ttl_ms),
        ttl_ms,
        (sofar) => sofar.filter((answer) => typeof answer === 'object').length >= quorum,
      )
      const kept = answered(answers).filter((answer) => typeof answer === 'object')
      const withoutLock = () => voters.filter((_, i) => answers[i] === 'forgotten')
      const token = Math.max(0, ...kept.map((one) => one.token))
      const waiting = Math.max(0, ...kept.map((one) => one.waiting))
      if (kept.length >= quorum) {
        void all.then(() => repair(resource, id, token, ttl_ms, withoutLock())).finally(() => renewing.delete(id))
        return waiting
      }
      const repaired = kept.length > 0 ? await repair(resource, id, token, ttl_ms, withoutLock()) : 0
      renewing.delete(id)
      if (kept.length + repaired >= quorum) return waiting
      requireQuorum(resource, { answers }, quorum)
      return answers.includes('taken') ? 'taken' : 'expired'
    },

    async release(resource, id) {
      const answers = requireQuorum(resource, await withdraw(resource, id), quorum)
      const released = answers.filter((answer) => answer === 'released').length
      // A voter that did not answer may have had it.
      if (released > 0 && released + voters.length - answers.length >= quorum) return 'released'
      return answers.includes('taken') ? 'taken' : 'expired'
    },

    async cancel(resource, id) {
      // What a voter cannot receive now is sent when it is reachable: see voter.ts.
      const { all } = await withdraw(resource, id)
      await all
    },

    async force(resource, above) {
      const minTokens = requireQuorum(
        resource,
        await callVoters(voters, (voter) => voter.minToken(resource), default_ttl_ms),
        quorum,
      )
      const token = Math.max(above, ...minTokens)
      // One token for all voters, since a later quorum may share only one voter with those that answer now.
      const revoked = requireQuorum(
        resource,
        await callVoters(voters, (voter) => voter.revoke(resource, token), default_ttl_ms),
        quorum,
      )
      return { token, revoked_holders: revokedHolders(revoked) }
    },

    inspect: (resources) =>
      Promise.all(
        resources.map(async (resource) => {
          const round = await callVoters(voters, (voter) => voter.inspect(resource), default_ttl_ms)
          return quorumState(resource, requireQuorum(resource, round, quorum), quorum)
        }),
      ),

    async list() {
      const round = await callVoters(voters, (voter) => voter.list(), default_ttl_ms)
      return [...new Set(requireQuorum('any resource', round, quorum).flat())]
    },

    listen(onMessage) {
      if (subscriptions.length > 0) return
      nodes.forEach((node, i) => {
        subscriptions.push(subscribe(node, channel, messagesFrom(i, onMessage), (error) => voters[i]?.onError(error)))
      })
    },

    async close() {
      for (const subscription of subscriptions) subscription.disconnect()
      for (const voter of voters) voter.close()
    },
  }
}

/** The wall clock in µs, strictly rising in a process: all voters order their wait queues by it. */
function ticketSource(): () => number {
  let last = 0
  return () => {
    last = Math.max(last + 1, wallUs())
    return last
  }
}
