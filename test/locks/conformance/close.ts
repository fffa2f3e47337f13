/** Conformance of close(): everything pending when the locks are closed or a caller aborts is released. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Locks } from '../../../src/shared/locks/api.ts'
import { type LockServer, spawnLeaver } from '../lock-servers.ts'
import { casesOf, inEachMode, locksOf, unused, waitersReach } from './contract.ts'

/** A TTL longer than any test, so that leftovers are detected. */
const LONG_MS = 60_000

/** Every way to acquire a lease. */
const WAYS: Record<string, (locks: Locks, resource: string, signal?: AbortSignal) => Promise<unknown>> = {
  acquire: (locks, resource, signal) => locks.acquire(resource, { wait_ms: 5000, ...(signal && { signal }) }),
  tryAcquire: (locks, resource, signal) => locks.tryAcquire(resource, signal ? { signal } : {}),
  withLease: (locks, resource, signal) =>
    locks.withLease(resource, signal ? { signal } : {}, async () => t.fail('the body must not run')),
  acquireAll: (locks, resource, signal) => locks.acquireAll([resource, `${resource}:b`], signal ? { signal } : {}),
  'acquireAll that waits': (locks, resource, signal) =>
    locks.acquireAll([resource, `${resource}:b`], { wait_ms: 5000, ...(signal && { signal }) }),
  tryAcquireMany: (locks, resource, signal) =>
    locks.tryAcquireMany([resource, `${resource}:b`], signal ? { signal } : {}),
  'remote.acquire': (locks, resource, signal) => locks.remote.acquire(resource, signal ? { signal } : {}),
}

const ended = (pending: Promise<unknown>): Promise<unknown> =>
  pending.then(
    () => 'granted',
    (error) => error,
  )

async function allUnused(locks: Locks, resource: string): Promise<void> {
  for (const name of [resource, `${resource}:b`]) await unused(locks, name)
}

export function conformClosing(server: LockServer): void {
  t.test('close during an acquire: the lock is released, and the caller gets the closed error', async (t) => {
    const other = await locksOf(t, server)
    const ways = Object.entries(WAYS)
    const opened = await Promise.all(ways.map(() => server.open(LONG_MS)))
    t.teardown(() => server.resume())
    server.pause()
    const pending = ways.map(([name, way], n) => ended(way(opened[n] as Locks, `closing:${name}`)))
    await sleep(20)
    const closed = opened.map((locks) => locks.close())
    server.resume()
    for (const [n, [name]] of ways.entries()) {
      t.match(await pending[n], { code: 'closed', message: 'the locks are closed' }, name)
      await closed[n]
      await allUnused(other, `closing:${name}`)
    }
  })

  t.test('close at the moment of the grant: the lock is released', async (t) => {
    const other = await locksOf(t, server)
    const each = Object.entries(WAYS).map(async ([name, way]) => {
      const locks: Locks = await server.open(LONG_MS, { events: { acquired: () => void locks.close() } })
      t.match(await ended(way(locks, `moment:${name}`)), { code: 'closed' }, name)
      await locks.close()
      await allUnused(other, `moment:${name}`)
    })
    await Promise.all(each)
  })

  t.test('close during acquireAll: the locks granted so far are released', async (t) => {
    const other = await locksOf(t, server)
    const holder = await other.acquire('between:b')
    const locks = await server.open(LONG_MS)
    const set = locks.acquireAll(['between:a', 'between:b'], { wait_ms: 30_000 })
    set.catch(() => {})
    await waitersReach(other, 'between:b', 1)
    await locks.close()
    await t.rejects(set, { code: 'closed' })
    await unused(other, 'between:a')
    await holder.release()
    await unused(other, 'between:b')
  })

  t.test('after close: every acquire rejects, and every lease is over', async (t) => {
    const other = await locksOf(t, server)
    await inEachMode(server, 'over', async ({ ask }, resource) => {
      const locks = await server.open(LONG_MS)
      const [lease, released] = await Promise.all([
        locks.acquire(resource, ask),
        locks.acquire(`${resource}:released`, ask),
      ])
      const set = await locks.acquireAll([`${resource}:set`])
      await released.release()
      await Promise.all([locks.close(), locks.close()])
      await unused(other, resource)
      await unused(other, `${resource}:set`)
      // The first read of each of these signals.
      t.match(lease.signal.reason, { code: 'lease_lost', why: 'released' })
      t.ok(set.signal.aborted)
      t.notOk(released.signal.aborted, 'a release by its holder is not a loss')
      for (const [name, way] of Object.entries(WAYS)) await t.rejects(way(locks, resource), { code: 'closed' }, name)
      await t.rejects(locks.acquire(resource, { ...ask, within: lease }), { code: 'closed' })
    })
  })

  t.test('abort signal during any acquire: it rejects in the same tick, also while the server hangs', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    t.teardown(() => server.resume())
    for (const after_ms of [0, 50]) {
      server.pause()
      const pending = Object.entries(WAYS).map(async ([name, way]) => {
        const controller = new AbortController()
        const outcome = ended(way(locks, `abort:${name}`, controller.signal))
        if (after_ms > 0) await sleep(after_ms)
        controller.abort()
        // Before the server resumes: the caller does not wait for it.
        t.match(await outcome, { name: 'AbortError' }, `${name}, after ${after_ms} ms`)
      })
      await Promise.all([...pending, sleep(400)])
      server.resume()
      for (const name of Object.keys(WAYS)) await allUnused(locks, `abort:${name}`)
    }
  })

  t.test('forced release: the signal of every kind of held lease aborts at once', async (t) => {
    // Heartbeats are 20 s apart: an earlier notification comes from a message.
    const other = await locksOf(t, server)
    const held: Record<string, (locks: Locks, resource: string) => Promise<AbortSignal | undefined>> = {
      acquire: async (locks, resource) => (await locks.acquire(resource)).signal,
      acquireAll: async (locks, resource) => (await locks.acquireAll([resource])).signal,
      tryAcquireMany: async (locks, resource) => (await locks.tryAcquireMany([resource])).get(resource)?.signal,
      within: async (locks, resource) => {
        const set = await locks.acquireAll([resource])
        const whole = set.leases.get(resource)
        return whole && (await locks.acquire(resource, { within: whole })).signal
      },
    }
    for (const { mode, ask } of casesOf(server)) {
      held[`a set, ${mode}`] = async (locks, resource) =>
        (await locks.acquireAll([{ ...ask, resource }] as [{ resource: string }])).signal
    }
    await Promise.all(
      Object.entries(held).map(async ([name, take]) => {
        const locks = await locksOf(t, server, LONG_MS)
        const signal = await take(locks, `heard:${name}`)
        // The first heartbeat comes after half a second.
        await sleep(1500)
        const began = performance.now()
        const notified = new Promise((resolve) => signal?.addEventListener('abort', resolve, { once: true }))
        await other.forceRelease(`heard:${name}`)
        await notified
        t.ok(performance.now() - began < 9000, `${name}: after ${Math.round(performance.now() - began)} ms`)
      }),
    )
  })

  t.test('process that closes its client but not the locks: exits', async (t) => {
    const child = spawnLeaver(server.address, 6000)
    t.teardown(() => child.kill('SIGKILL'))
    const exited = once(child, 'exit')
    await once(child.stdout, 'data')
    const code = await Promise.race([exited.then(([code]) => code), sleep(15_000, 'still running', { ref: false })])
    t.equal(code, 0)
  })
}
