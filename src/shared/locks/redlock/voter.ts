/**
 * One server of a quorum. Invariant: the server executes a withdrawal as soon as it can be reached, if that is before the lock
 * expires.
 */
import type { Redis } from 'ioredis'
import type { LockEvents } from '../api.ts'
import { openIndex } from '../redis/lock-index.ts'
import { createRights } from '../redis/rights.ts'
import { createRun, type Run, type Script, script } from '../redis/script.ts'

const verb = (name: string) => script('redis/prelude', 'redlock/voter', `redlock/${name}`)
const VOTE = script('redlock/vote-fast', 'redis/prelude', 'redlock/voter', 'redlock/vote')
const CONFIRM = verb('confirm')
const STEP_BACK = verb('step-back')
const RENEW = verb('renew')
const REPAIR = verb('repair')
const WITHDRAW = script('redlock/withdraw-fast', 'redis/prelude', 'redlock/voter', 'redlock/withdraw')
const INITIALIZE = verb('initialize')
const MIN_TOKEN = verb('min-token')
const REVOKE = verb('revoke')
const INSPECT = script('redis/prelude', 'redlock/voter', 'redis/inspect')

/**
 * Scripts that are loaded on every server before use. If a server did not know a script, the client would send the call a
 * second time, and this call could arrive after the withdrawal that undoes it.
 */
const PRELOADED = [VOTE, CONFIRM, RENEW, WITHDRAW].flatMap(({ lua, multi }) => [lua, multi.lua])

export type Vote =
  /** the voter confirmed the lock at once, with the proposed token */
  | { kind: 'lock' }
  /** the voter voted for the id; `locked`: this voter has confirmed an earlier try of the id */
  | { kind: 'vote'; min_token: number; server_us: number; locked: boolean }
  | { kind: 'busy'; ahead: number; waiting: number; free_in_ms: number; holder: string | undefined }
  /** the server has lost its data, or may have lost it; left_ms is negative if the server is not initialized */
  | { kind: 'not_eligible'; left_ms: number }

export type Renewal = { waiting: number; token: number } | 'forgotten' | 'taken'

/** A lock that a voter may confirm without a vote if no other id is in the way. */
export interface Proposal {
  token: number
  ttl_ms: number
}

export interface Voter {
  vote(resource: string, id: string, vote_ms: number, slot_ttl_ms: number, proposal?: Proposal): Promise<Vote>
  /** Confirms the vote. If that fails, returns why: the vote is lost, or the last token is not below the proposed one. */
  confirm(
    resource: string,
    id: string,
    token: number,
    ttl_ms: number,
  ): Promise<'confirmed' | 'lost' | { fence: number }>
  /** Gives up the vote or the lock, before any later request. With slot_ttl_ms 0 the id does not wait in the queue. */
  stepBack(resource: string, id: string, slot_ttl_ms: number): Promise<void>
  renew(resource: string, id: string, ttl_ms: number): Promise<Renewal>
  repair(resource: string, id: string, token: number, ttl_ms: number): Promise<boolean>
  /** Withdraws the id. The server executes this as soon as it can be reached, even after the promise has rejected. */
  withdraw(resource: string, id: string, ttl_ms: number): Promise<'released' | 'expired' | 'taken'>
  initialize(at_once: boolean): Promise<void>
  /** Returns the lowest token above all tokens that this voter has confirmed. */
  minToken(resource: string): Promise<number>
  /** Returns the raw answer of the script (revoke.lua), as inspect() does (inspect.lua). */
  revoke(resource: string, fence: number): Promise<unknown[]>
  inspect(resource: string): Promise<[fence: unknown, holders: string[], queue: string[]]>
  list(): Promise<string[]>
  /** Settles when the first connection was made or has failed. */
  firstConnection: Promise<void>
  /** Reports an error of another request if its cause is a missing right. */
  onError(error: unknown): void
  close(): void
}

/** Maximum number of unanswered requests, which limits the memory for a server that hangs for hours. */
const MAX_UNANSWERED = 10_000

/** Creates functions that send requests to one server, with a limit on requests that the server has not answered. */
function limitedRequests(redis: Redis) {
  const send = createRun(redis)
  // Count only requests of the current connection: some clients never settle requests of the previous connection.
  let unanswered = { count: 0 }
  async function limited<T>(work: () => Promise<T>): Promise<T> {
    const counted = unanswered
    if (counted.count >= MAX_UNANSWERED) throw new Error('this lock server hangs')
    counted.count += 1
    try {
      return await work()
    } finally {
      counted.count -= 1
    }
  }
  const run: Run = (...command) => limited(() => send(...command))
  /**
   * Sends a call so that the order of calls is kept: it is not combined with others, nor sent again because the script is
   * unknown.
   */
  const inOrder = ({ lua }: Script, keys: string[], ...args: (string | number)[]) =>
    limited(() => redis.eval(lua, keys.length, ...keys, ...args))
  const forgetUnanswered = () => {
    unanswered = { count: 0 }
  }
  return { run, inOrder, forgetUnanswered }
}

/** Maximum number of withdrawals kept for a server that does not come back; locks beyond that number expire there. */
const MAX_PENDING_WITHDRAWALS = 10_000

/** Creates a voter. @param reporting who receives a missing right, and the channel for which the right may be missing */
export function createVoter(
  redis: Redis,
  prefix: string,
  max_ttl_ms: number,
  reporting: { channel?: string; events?: LockEvents | undefined } = {},
): Voter {
  const { channel = `${prefix}lock:wake:`, events = {} } = reporting
  const { run, inOrder, forgetUnanswered } = limitedRequests(redis)
  const index = openIndex(redis, prefix)
  const { keysOf } = index
  const rights = createRights(redis, run, { prefix, channel, kind: 'quorum', events })
  const pendingWithdrawals = new Map<string, { resource: string; until: number }>()

  function withdraw(resource: string, id: string, ttl_ms: number) {
    if (pendingWithdrawals.size < MAX_PENDING_WITHDRAWALS)
      pendingWithdrawals.set(id, { resource, until: performance.now() + ttl_ms })
    return run(WITHDRAW, readWithdrawal, keysOf(resource), id).then((answer) => {
      pendingWithdrawals.delete(id)
      return answer
    })
  }

  /**
   * Sends the pending withdrawals again. The server may have executed requests that were pending when the connection broke, but
   * not their withdrawals.
   */
  function onReady(): void {
    forgetUnanswered()
    for (const lua of PRELOADED) redis.script('LOAD', lua).catch(rights.onError)
    const all = [...pendingWithdrawals]
    pendingWithdrawals.clear()
    for (const [id, { resource, until }] of all) {
      const left_ms = until - performance.now()
      if (left_ms > 0) withdraw(resource, id, left_ms).catch(noop)
    }
  }

  rights.check()
  redis.on('ready', onReady)
  if (redis.status === 'ready') onReady()
  return {
    vote(resource, id, vote_ms, slot_ttl_ms, proposal) {
      const args = [id, max_ttl_ms, vote_ms, slot_ttl_ms]
      return run(VOTE, readVote, keysOf(resource), ...args, ...(proposal ? [proposal.ttl_ms, proposal.token] : []))
    },
    confirm: (resource, id, token, ttl_ms) =>
      run(CONFIRM, readConfirmation, keysOf(resource), id, max_ttl_ms, token, ttl_ms),
    stepBack: (resource, id, slot_ttl_ms) => inOrder(STEP_BACK, keysOf(resource), id, slot_ttl_ms).then(noop),
    renew: (resource, id, ttl_ms) => run(RENEW, readRenewal, keysOf(resource), id, ttl_ms),
    repair: (resource, id, token, ttl_ms) =>
      inOrder(REPAIR, keysOf(resource), id, token, ttl_ms).then((answer) => Number(answer) === 1),
    withdraw,
    initialize: (at_once) => run(INITIALIZE, noop, keysOf('voter'), at_once ? '0' : 'now'),
    minToken: (resource) => run(MIN_TOKEN, Number, keysOf(resource)),
    revoke: (resource, fence) => run(REVOKE, (answer) => answer as unknown[], keysOf(resource), fence),
    inspect: (resource) => run(INSPECT, (answer) => answer as [unknown, string[], string[]], keysOf(resource)),
    list: () => index.list(),
    firstConnection: whenFirstConnected(redis),
    onError: rights.onError,
    close() {
      redis.off('ready', onReady)
      rights.close()
    },
  }
}

function whenFirstConnected(redis: Redis): Promise<void> {
  if (redis.status !== 'connecting' && redis.status !== 'connect') return Promise.resolve()
  return new Promise((resolve) => {
    redis.once('ready', resolve)
    redis.once('close', resolve)
  })
}

function readVote(answer: unknown): Vote {
  if (typeof answer === 'number') return { kind: 'lock' }
  const [kind, ...rest] = answer as unknown[]
  const [first = 0, second = 0, third = 0] = rest.map(Number)
  if (Number(kind) === 1) return { kind: 'vote', min_token: first, server_us: second, locked: third > 0 }
  if (Number(kind) === 2) return { kind: 'not_eligible', left_ms: first }
  const holder = rest[3]
  return { kind: 'busy', ahead: first, waiting: second, free_in_ms: third, holder: holder ? String(holder) : undefined }
}

function readConfirmation(answer: unknown): 'confirmed' | 'lost' | { fence: number } {
  const number = Number(answer)
  return number === 1 ? 'confirmed' : number === 0 ? 'lost' : { fence: number }
}

function readRenewal(answer: unknown): Renewal {
  const [kind, waiting = 0, token = 0] = (answer as unknown[]).map(Number)
  return kind === 1 ? { waiting, token } : kind === 0 ? 'forgotten' : 'taken'
}

function readWithdrawal(answer: unknown): 'released' | 'expired' | 'taken' {
  return Number(answer) === 1 ? 'released' : Number(answer) === 0 ? 'expired' : 'taken'
}

function noop(): void {}
