/**
 * Shared by the parts of the conformance suite: each mode with a conflicting request, and helpers that wait for a
 * state.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lease, LeaseLostError, LockMode, Locks, Mode } from '../../../src/shared/locks/api.ts'
import type { LockServer, OpenOptions } from '../lock-servers.ts'

export type Scope = { teardown(done: () => unknown): void }

interface Case {
  mode: Mode
  ask: LockMode
  /** Conflicts with `ask` in both directions. */
  rival: LockMode
}

const CASES: Case[] = [
  { mode: 'exclusive', ask: {}, rival: {} },
  { mode: 'shared', ask: { mode: 'shared' }, rival: {} },
  { mode: 'permit', ask: { mode: 'permit', limit: 1 }, rival: { mode: 'permit', limit: 1 } },
]

export function casesOf(server: Pick<LockServer, 'modes'>): Case[] {
  return CASES.filter(({ mode }) => server.modes.includes(mode))
}

/** Runs the body for each mode in parallel, on a resource of its own, so that waits overlap. */
export async function inEachMode(
  server: LockServer,
  name: string,
  body: (one: Case, resource: string) => Promise<void>,
): Promise<void> {
  await Promise.all(casesOf(server).map((one) => body(one, `${name}:${one.mode}`)))
}

/** Closed with the test. */
export async function locksOf(
  t: Scope,
  server: LockServer,
  ttl_ms = 3000,
  options: OpenOptions & { wired?: boolean } = {},
): Promise<Locks> {
  const locks = await server.open(ttl_ms, options)
  t.teardown(() => locks.close())
  return locks
}

/** Resolves when the resource has this many waiters. */
export async function waitersReach(locks: Locks, resource: string, count: number): Promise<void> {
  while ((await locks.inspect(resource)).waiters.length !== count) await sleep(2)
}

/** Resolves when the resource has no holders and no waiters, and is in no list. */
export async function unused(locks: Locks, resource: string): Promise<void> {
  for (;;) {
    const { holders, waiters } = await locks.inspect(resource)
    const listed = (await locks.list()).some((state) => state.resource === resource)
    if (holders.length + waiters.length === 0 && !listed) return
    await sleep(10)
  }
}

export function lossOf(lease: Lease): Promise<{ at: number; why: string }> {
  const { signal } = lease
  return new Promise((resolve) => {
    const resolveNow = () => resolve({ at: performance.now(), why: (signal.reason as LeaseLostError).why })
    if (signal.aborted) resolveNow()
    else signal.addEventListener('abort', resolveNow, { once: true })
  })
}

/** Resolves after this many ms, with the delay until this process noticed: no library in it can be faster. */
export function lateness(ms: number): Promise<number> {
  const due = performance.now() + ms
  return new Promise((resolve) => setTimeout(() => resolve(performance.now() - due), ms))
}

export const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)
