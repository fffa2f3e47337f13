/** Conformance of waiting: exclusion, order, time limits, cancelling, and no starvation. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LockBusyError } from '../../../src/shared/locks/api.ts'
import type { LockServer } from '../lock-servers.ts'
import { casesOf, inEachMode, locksOf, unused, upTo, waitersReach } from './contract.ts'

export function conformQueueing(server: LockServer): void {
  t.test('24 loops in three processes on an unprotected counter: no lost update', async (t) => {
    const fleet = await Promise.all([locksOf(t, server), locksOf(t, server), locksOf(t, server)])
    for (const { mode, ask } of casesOf(server)) {
      if (mode === 'shared') continue
      const tokens: number[] = []
      let counter = 0
      const loops = upTo(24).map(async (n) => {
        for (let round = 0; round < 4; round++) {
          await fleet[n % 3]?.withLease(`counter:${mode}`, { ...ask, wait_ms: 30_000 }, async (lease) => {
            tokens.push(lease.token)
            const read = counter
            await sleep(0)
            counter = read + 1
          })
        }
      })
      await Promise.all(loops)
      t.equal(counter, 96)
      t.same(
        tokens,
        [...new Set(tokens)].sort((a, b) => a - b),
        'every token is higher than the one before',
      )
    }
  })

  t.test('waiters: served in the order of arrival, no caller gets in front', async (t) => {
    const fleet = await Promise.all([locksOf(t, server), locksOf(t, server)])
    const [locks] = fleet
    await inEachMode(server, 'order', async ({ mode, ask, rival }, resource) => {
      const holder = await locks.acquire(resource, rival)
      const waits: Promise<number>[] = []
      for (const n of upTo(10)) {
        const locks = fleet[n % 2] ?? fleet[0]
        waits.push(
          locks.withLease(resource, { ...ask, wait_ms: 20_000 }, async ({ token }) => {
            await sleep(1)
            return token
          }),
        )
        await waitersReach(locks, resource, n + 1)
      }
      await holder.extend() // This one may share the current renewal, which may be older than the last waiter.
      t.same(await holder.extend(), { waiting: 10 })
      await holder.release()
      const tokens = await Promise.all(waits)
      // Waiters that share it get it together: all of them vote on a quorum at once.
      if (mode === 'shared') t.ok(new Set(tokens).size === 10 && Math.min(...tokens) > holder.token)
      else
        t.same(
          tokens,
          [...tokens].sort((a, b) => a - b),
        )
      await unused(locks, resource)
    })
  })

  t.test('wait_ms over: the wait ends then, and leaves no entry', async (t) => {
    const locks = await locksOf(t, server)
    await inEachMode(server, 'limit', async ({ ask, rival }, resource) => {
      const holder = await locks.acquire(resource, { ...rival, owner: 'in the way' })
      const began = performance.now()
      const error = await locks.acquire(resource, { ...ask, wait_ms: 120 }).catch((error) => error)
      const waited = performance.now() - began
      t.ok(error instanceof LockBusyError)
      t.match(error, { holder: 'in the way', waiting: 0 })
      t.ok(waited > 110 && waited < 600, `${Math.round(waited)} ms`)
      while ((await locks.inspect(resource)).waiters.length > 0) await sleep(5)
      t.ok(performance.now() - began < 1000, 'well before the slot would have expired')
      await holder.release()
      await unused(locks, resource)
    })
  })

  t.test('aborted wait: leaves no entry, and hands its turn over', async (t) => {
    const locks = await locksOf(t, server)
    await inEachMode(server, 'cancel', async ({ ask, rival }, resource) => {
      const holder = await locks.acquire(resource, rival)
      const first = new AbortController()
      const second = new AbortController()
      const wait = (signal?: AbortSignal) =>
        locks.acquire(resource, { ...ask, wait_ms: 20_000, ...(signal && { signal }) })
      const head = wait(first.signal)
      head.catch(() => {})
      await waitersReach(locks, resource, 1)
      const middle = wait(second.signal)
      await waitersReach(locks, resource, 2)
      const third = wait()
      await waitersReach(locks, resource, 3)
      second.abort(new Error('enough'))
      await t.rejects(middle, { message: 'enough' })
      await waitersReach(locks, resource, 2)
      // The head aborts at the moment when it is notified of its turn.
      const free = holder.release()
      first.abort()
      await free
      await t.rejects(head, { name: 'AbortError' })
      const began = performance.now()
      await (await third).release()
      t.ok(performance.now() - began < 450, 'the next waiter was notified, and did not depend on its recheck')
      await unused(locks, resource)
    })
  })

  t.test('abort while the acquire is in flight: the granted lock is released', async (t) => {
    const locks = await locksOf(t, server)
    await inEachMode(server, 'flight', async ({ ask }, resource) => {
      for (const wait_ms of [0, 1000]) {
        const controller = new AbortController()
        const wait = locks.acquire(resource, { ...ask, wait_ms, signal: controller.signal })
        controller.abort()
        await t.rejects(wait, { name: 'AbortError' })
        await unused(locks, resource)
      }
      await t.rejects(locks.acquire(resource, { ...ask, signal: AbortSignal.abort() }), { name: 'AbortError' })
    })
  })

  t.test('close: ends waits and leases, and leaves nothing behind', async (t) => {
    const other = await locksOf(t, server)
    await inEachMode(server, 'close', async ({ ask, rival }, resource) => {
      const locks = await server.open(3000)
      const holder = await locks.acquire(resource, rival)
      t.notOk(holder.signal.aborted)
      const wait = locks.acquire(resource, { ...ask, wait_ms: 20_000 })
      wait.catch(() => {})
      await waitersReach(other, resource, 1)
      await locks.close()
      t.match(holder.signal.reason, { why: 'released' })
      await t.rejects(wait, { message: /closed/ })
      await t.rejects(locks.acquire(resource, ask), { message: /closed/ })
      await unused(other, resource)
    })
  })

  if (!server.modes.includes('shared')) return
  t.test('endless readers: a writer gets the lock within one TTL', async (t) => {
    const ttl_ms = 1500
    const fleet = await Promise.all([locksOf(t, server, ttl_ms), locksOf(t, server, ttl_ms)])
    let [reading, read, over] = [0, 0, false]
    const readers = upTo(4).map(async (n) => {
      await sleep(n * 15)
      while (!over) {
        await fleet[n % 2]?.withLease('starve:1', { mode: 'shared', wait_ms: 20_000 }, async () => {
          reading += 1
          await sleep(60)
          reading -= 1
          read += 1
        })
      }
    })
    while (read < 12) await sleep(10)
    const began = performance.now()
    await fleet[0].withLease('starve:1', { wait_ms: 20_000 }, async () => {
      const waited = performance.now() - began
      t.equal(reading, 0, 'alone')
      t.ok(waited < ttl_ms, `after ${Math.round(waited)} ms`)
    })
    const since = read
    while (read < since + 4) await sleep(10)
    over = true
    await Promise.all(readers)
  })
}
