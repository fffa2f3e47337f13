/** Merges the states that the voters report. Invariant: a holder or waiter is listed only if a quorum of voters knows it. */
import type { LockState } from '../api.ts'
import { readId, splitHolder } from '../redis/wire-format.ts'
import { ticketOf } from './two-phase-acquire.ts'

type Inspected = [fencing_token: unknown, holders: (string | number)[], queue: string[]]

interface Seen {
  token: number
  since_us: number
  ttl_left_ms: number
}

/** Returns the locks (not the votes) by id, from pairs of "id token since_us" and ttl_left_ms. */
function locksIn(pairs: readonly unknown[]): Map<string, Seen> {
  const locks = new Map<string, Seen>()
  for (let i = 0; i + 1 < pairs.length; i += 2) {
    const { id, token, since_us } = splitHolder(String(pairs[i]))
    if (token > 0) locks.set(id, { token, since_us, ttl_left_ms: Number(pairs[i + 1]) })
  }
  return locks
}

function holderOf(id: string, seen: readonly Seen[]): LockState['holders'][number] {
  const token = Math.max(...seen.map((one) => one.token))
  const since_us = Math.min(...seen.map((one) => one.since_us))
  const ttl_left_ms = Math.min(...seen.map((one) => one.ttl_left_ms))
  return { ...readId(id), token, since_ms: Math.floor(since_us / 1000), ttl_left_ms }
}

function groupById<T>(maps: readonly Map<string, T>[]): Map<string, T[]> {
  const all = new Map<string, T[]>()
  for (const map of maps) for (const [id, one] of map) all.set(id, [...(all.get(id) ?? []), one])
  return all
}

export function quorumState(resource: string, answers: readonly Inspected[], quorum: number): LockState {
  const locks = groupById(answers.map(([, holders]) => locksIn(holders)))
  const holders = [...locks].filter(([, seen]) => seen.length >= quorum)
  const held = new Set(holders.map(([id]) => id))
  // Count an id that only has a vote as a waiter: its vote is about to become a lock.
  const queues = answers.map(([, pairs, queue]) => {
    const slots = new Map<string, number>()
    for (let i = 0; i + 1 < queue.length; i += 2) slots.set(queue[i] ?? '', Number(queue[i + 1]))
    for (let i = 0; i < pairs.length; i += 2) {
      const { id, token } = splitHolder(String(pairs[i]))
      if (token === 0) slots.set(id, ticketOf(id))
    }
    return slots
  })
  const waiters = [...groupById(queues)]
    .filter(([id, seen]) => seen.length >= quorum && !held.has(id))
    .map(([id, [ticket = 0]]) => ({ ...readId(id), since_ms: Math.floor(ticket / 1000) }))
    .sort((a, b) => a.since_ms - b.since_ms)
  return {
    resource,
    fencing_token: Math.max(...answers.map(([fencing_token]) => Number(fencing_token))),
    holders: holders.map(([id, seen]) => holderOf(id, seen)),
    waiters,
  }
}

/** Returns every holder that at least one voter had a lock for: the forced release has removed them from a quorum. */
export function revokedHolders(answers: readonly (readonly unknown[])[]): LockState['holders'] {
  const locks = groupById(answers.map(locksIn))
  return [...locks].map(([id, seen]) => holderOf(id, seen))
}
