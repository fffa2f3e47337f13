/** The steps of a history of one lock, each with its postconditions. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type AcquireOptions, type Lease, LeaseLostError, LockBusyError } from '../../../src/shared/locks/api.ts'
import type { HistoryWorld } from './environment.ts'
import { admission, type Given, type Memory, renewed, statusOf, type Wish } from './model.ts'

/** A store with one row for each resource: its fencing token and its value. */
export interface Fenced {
  /** `SET fence = token WHERE fence <= token`: the value, or undefined when the fence is higher. */
  raise(resource: string, token: number): Promise<number | undefined>
  /** `SET value WHERE fence <= token`. */
  write(resource: string, token: number, value: number): Promise<boolean>
  fenceOf(resource: string): Promise<number>
}

interface Waiting {
  wish: Wish
  ttl_ms: number
  stop: AbortController
  outcome?: { lease: Lease } | { error: unknown }
  ended: Promise<unknown>
  /** By the server's clock at that time. */
  asked_ms: number
  /** No fault so far may have cost its position. */
  in_order: boolean
}

/** Counters of events in all histories of a run. */
export interface Seen {
  [what: string]: number
}

export interface History {
  world: HistoryWorld
  sql: Fenced
  resource: string
  memory: Memory
  snapshot: Memory | undefined
  given: Given[]
  waiting: Waiting[]
  tokens: Set<number>
  highest: number
  /** The last holder that raised the token, and the stored value: compared with the store. */
  owner: Given | undefined
  value: number
  offset_s: number
  seen: Seen
}

export function newHistory(world: HistoryWorld, sql: Fenced, resource: string, seen: Seen): History {
  const memory = { ends: new Map(), last: 0 }
  const lists = { given: [], waiting: [], tokens: new Set<number>() }
  return {
    ...{ world, sql, resource, memory, seen, ...lists },
    ...{ snapshot: undefined, highest: 0, owner: undefined, value: 0, offset_s: 0 },
  }
}

export function must(truth: boolean, what: string): asserts truth {
  if (!truth) throw new Error(what)
}

export function note({ seen }: History, what: string): void {
  seen[what] = (seen[what] ?? 0) + 1
}

const optionsOf = ({ mode, limit }: Wish) => (mode === 'permit' ? { mode, limit } : { mode }) as AcquireOptions

/** After a grant: checks that no other holder conflicts, and that the token is new. */
function entered(h: History, lease: Given, asked_ms: number): void {
  const now_ms = h.world.now_ms()
  must(admission(h.memory, lease, now_ms) !== 'never', `${lease.mode} was granted beside a conflicting holder`)
  must(!h.tokens.has(lease.token), `token ${lease.token} was given twice`)
  must(lease.token > h.memory.last, `token ${lease.token} is not above ${h.memory.last}, which the server knew`)
  must(lease.token > asked_ms * 1000 - 1_000_000, 'a token from long ago')
  // Only a server that lost its data and whose clock was set back may give a lower one.
  if (lease.token < h.highest) {
    must(h.memory.last < h.highest && asked_ms * 1000 < h.highest + 1000, `token ${lease.token} is below ${h.highest}`)
    note(h, 'lower tokens after a loss with the clock set back')
  }
  h.tokens.add(lease.token)
  h.highest = Math.max(h.highest, lease.token)
  h.memory.last = lease.token
  h.given.push(lease)
  renewed(h.memory, lease, asked_ms, now_ms)
}

export async function acquire(h: History, by: number, wish: Wish, local: boolean, ttl_ms: number, above = 0) {
  const locks = h.world.fleet[by % h.world.fleet.length] as HistoryWorld['fleet'][number]
  const asked_ms = h.world.now_ms()
  const before = admission(h.memory, wish, asked_ms)
  const options = { ...optionsOf(wish), ttl_ms, above }
  try {
    const lease = local
      ? givenLocal(await locks.acquire(h.resource, options), wish, ttl_ms)
      : await givenRemote(h, by, wish, ttl_ms, above)
    must(h.waiting.length === 0, 'granted in front of waiters')
    must(above === 0 || lease.token > above, 'not above the floor')
    entered(h, lease, asked_ms)
    note(h, 'granted')
    return lease
  } catch (error) {
    if (!(error instanceof LockBusyError)) throw error
    must(
      before !== 'must' || h.waiting.length > 0,
      `${wish.mode} was refused without a conflicting holder: ${error.message}`,
    )
    note(h, 'refused')
    return undefined
  }
}

function givenLocal(lease: Lease, wish: Wish, ttl_ms: number): Given {
  const given: Given = {
    ...{ ...wish, token: lease.token, ttl_ms, over: false, release_sent: false, local: true, read: undefined },
    extend: () => lease.extend(),
    async release() {
      given.over = true
      return await lease.release()
    },
  }
  lease.signal.addEventListener('abort', () => {
    given.over = true
  })
  return given
}

async function givenRemote(h: History, by: number, wish: Wish, ttl_ms: number, above: number): Promise<Given> {
  const { fleet } = h.world
  const locks = (n: number) => fleet[n % fleet.length] as HistoryWorld['fleet'][number]
  const { handle, token } = await locks(by).remote.acquire(h.resource, { ...optionsOf(wish), ttl_ms, above })
  return {
    ...{ ...wish, token, ttl_ms, over: false, release_sent: false, local: false, read: undefined },
    extend: () => locks(by + 1).remote.extend(handle),
    release: () => locks(by + 2).remote.release(handle),
  }
}

/** Joins the queue, behind all waiters. */
export async function enqueue(h: History, by: number, wish: Wish, ttl_ms: number): Promise<void> {
  const locks = h.world.fleet[by % h.world.fleet.length] as HistoryWorld['fleet'][number]
  const stop = new AbortController()
  const wait = locks.acquire(h.resource, { ...optionsOf(wish), ttl_ms, wait_ms: 600_000, signal: stop.signal })
  const asked_ms = h.world.now_ms()
  const one: Waiting = { wish, ttl_ms, stop, asked_ms, in_order: true, ended: Promise.resolve() }
  one.ended = wait.then(
    (lease) => {
      one.outcome = { lease }
    },
    (error) => {
      one.outcome = { error }
    },
  )
  h.waiting.push(one)
  await settle(h)
}

export async function cancel(h: History, which: number): Promise<void> {
  const [one] = h.waiting.splice(which % h.waiting.length, 1)
  if (!one) return
  one.stop.abort()
  await one.ended
  if (one.outcome && 'lease' in one.outcome) {
    entered(h, givenLocal(one.outcome.lease, one.wish, one.ttl_ms), one.asked_ms)
  }
  note(h, 'cancelled')
  await settle(h)
}

/**
 * Waits until every waiter that can be served is served and the others are queued; then compares the server's state
 * with the model.
 */
export async function settle(h: History): Promise<void> {
  const patience = performance.now() + 8000
  for (;;) {
    await served(h)
    const first = h.waiting[0]
    const next = first ? admission(h.memory, first.wish, h.world.now_ms()) : 'never'
    const state = await h.world.fleet[0]?.inspect(h.resource)
    must(state !== undefined, 'no answer')
    await served(h)
    if (next !== 'must' && state.waiters.length === h.waiting.length) {
      const there = state.holders.map((holder) => holder.token)
      for (const [lease] of h.memory.ends) {
        const status = statusOf(h.memory, lease, h.world.now_ms())
        const is = there.includes(lease.token)
        // A lease seen as ended stays so, even after the clock is set back.
        if (!is && status !== 'alive') h.memory.ends.delete(lease)
        if (status === 'unsure') continue
        must(
          is === (status === 'alive'),
          `the lease ${lease.token} is ${status}, and the server says ${is ? 'held' : 'free'}`,
        )
      }
      const known = new Set(Array.from(h.memory.ends.keys(), (lease) => lease.token))
      must(
        there.every((token) => known.has(token)),
        'the server has an unknown holder',
      )
      return
    }
    const state_text = `${state.waiters.length} queued, ${h.waiting.length} waiting, the first ${next} be granted`
    must(performance.now() < patience, `a waiter is forgotten: ${state_text}`)
    await sleep(1)
  }
}

const tokenOf = ({ outcome }: Waiting) => (outcome && 'lease' in outcome ? outcome.lease.token : 0)

/** Waiters that were granted a shared lock together learn of it in any order: waits for those with lower tokens. */
async function endedWaits(h: History): Promise<Waiting[]> {
  const patience = performance.now() + 2000
  for (;;) {
    const over = h.waiting.filter((one) => one.outcome)
    if (over.length === 0) return over
    const tokens = over.map(tokenOf)
    const holders = (await h.world.fleet[0]?.inspect(h.resource))?.holders ?? []
    const missing = holders.some(
      ({ token }) => token < Math.max(...tokens) && !h.tokens.has(token) && !tokens.includes(token),
    )
    if (!missing || performance.now() > patience) return over
    await sleep(2)
  }
}

/** Records the waits that have ended. */
async function served(h: History): Promise<void> {
  const over = await endedWaits(h)
  over.sort((a, b) => tokenOf(a) - tokenOf(b))
  for (const one of over) {
    const position = h.waiting.indexOf(one)
    const in_front = h.waiting.slice(0, position).filter((other) => !other.outcome || tokenOf(other) > tokenOf(one))
    // Another message may arrive a moment later.
    for (let i = 0; one.in_order && i < 400 && in_front.some((other) => !other.outcome); i++) await sleep(5)
    const overtaken = in_front.some((other) => !other.outcome || tokenOf(other) > tokenOf(one))
    must(!overtaken || !one.in_order, 'a waiter was served before an earlier one')
    if (one.outcome && 'error' in one.outcome) throw one.outcome.error
    if (!one.outcome) continue
    h.waiting.splice(h.waiting.indexOf(one), 1)
    const lease = givenLocal(one.outcome.lease, one.wish, one.ttl_ms)
    entered(h, lease, one.asked_ms)
    note(h, 'served from the queue')
    // A lock that was handed over gets its whole TTL.
    const asked_ms = h.world.now_ms()
    await lease.extend()
    renewed(h.memory, lease, asked_ms, h.world.now_ms())
  }
}

export async function extend(h: History, lease: Given): Promise<void> {
  const asked_ms = h.world.now_ms()
  // Its own process knows better than a server with older data.
  const was_over = lease.local && lease.over
  const status = was_over ? 'gone' : statusOf(h.memory, lease, asked_ms)
  const error = await lease.extend().then(
    () => undefined,
    (error: unknown) => error,
  )
  if (error && !(error instanceof LeaseLostError)) throw error
  must(
    status === 'unsure' || !error === (status === 'alive'),
    `a lease that is ${status} was ${error ? 'not ' : ''}renewed`,
  )
  if (was_over) return
  if (error) h.memory.ends.delete(lease)
  else renewed(h.memory, lease, asked_ms, h.world.now_ms())
  note(h, error ? 'renewals refused' : 'renewed')
}

export async function release(h: History, lease: Given): Promise<void> {
  // A second release in its own process sends nothing.
  if (lease.local && lease.release_sent) return void (await lease.release())
  const was_over = lease.over
  const status = statusOf(h.memory, lease, h.world.now_ms())
  lease.release_sent = true
  const { released } = await lease.release()
  // A server with older data may still have a lease that its own process has lost.
  const right = was_over || status === 'unsure' || released === (status === 'alive')
  must(right, `a lease that is ${status} was released: ${released}`)
  h.memory.ends.delete(lease)
  note(h, released ? 'released' : 'released too late')
  await settle(h)
}

/** Ends all waits and leases: whatever is left then was left behind. */
export async function finish(h: History): Promise<void> {
  while (h.waiting.length > 0) await cancel(h, 0)
  await settle(h)
  for (const lease of [...h.memory.ends.keys()]) await release(h, lease)
  h.world.setClock(0)
}
