/** Conformance under faults: a server that hangs, reset connections, lost answers. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LockBusyError } from '../../../src/shared/locks/api.ts'
import type { LockServer } from '../lock-servers.ts'
import { heldByNodeRedlock } from '../node-redlock.ts'
import { casesOf, inEachMode, lateness, locksOf, lossOf, unused, waitersReach } from './contract.ts'

export function conformFaults(server: LockServer): void {
  t.test('reset connection during a renewal: it is retried, the lease is kept', async (t) => {
    const lost: string[] = []
    const locks = await locksOf(t, server, 1500, { wired: true, events: { lost: (_, why) => lost.push(why) } })
    await inEachMode(server, 'reset', async ({ ask }, resource) => {
      const lease = await locks.acquire(resource, ask)
      await sleep(100)
      server.cut()
      // The renewal due at 500 ms meets the reset connection; the lease is held for two TTLs.
      const until = performance.now() + 3000
      let cuts = 0
      while (performance.now() < until) {
        await sleep(50)
        lease.assertValid()
        if (cuts < 1 && performance.now() > until - 1500) {
          server.cut()
          cuts += 1
        }
      }
      t.notOk(lease.signal.aborted)
      await lease.extend()
      t.same(await lease.release(), { released: true })
    })
    t.same(lost, [])
  })

  t.test('each answer in turn lost with its connection: no leftovers, and no token twice', async (t) => {
    const direct = await locksOf(t, server)
    // A minute, so that leftovers are detected.
    const locks = await locksOf(t, server, 60_000, { wired: true })
    const usable = async () => {
      for (;;) {
        try {
          await (await locks.acquire('answers:usable')).release()
          return
        } catch {
          await sleep(10)
        }
      }
    }
    // Per resource: two resources may get the same token when both are granted in one microsecond.
    const tokens: string[] = []
    let lost = 0
    for (let after = 0; ; after++) {
      await usable()
      const losing = server.loseAnswer(after)
      for (const { mode, ask, rival } of casesOf(server)) {
        const resource = `answers:${after}:${mode}`
        const given: Promise<unknown>[] = []
        const use = async (options: object) => {
          const lease = await locks.acquire(resource, options)
          tokens.push(`${resource} ${lease.token}`)
          await lease.extend().catch(() => {})
          const next = locks.acquire(resource, { ...rival, wait_ms: 150 })
          given.push(
            next
              .then((lease) => {
                tokens.push(`${resource} ${lease.token}`)
                return lease.release()
              })
              .catch(() => {}),
          )
          await sleep(5)
          await lease.release()
        }
        await use(ask).catch(() => {})
        await Promise.all(given)
      }
      const began = performance.now()
      for (const { mode } of casesOf(server)) await unused(direct, `answers:${after}:${mode}`)
      const took = performance.now() - began
      if (took > 2500) t.fail(`after answer ${after} was lost, leftovers stayed for ${Math.round(took)} ms`)
      if (losing.state === 'waiting') break
      lost += 1
    }
    t.ok(lost > 5, `${lost} answers were lost`)
    t.equal(new Set(tokens).size, tokens.length)
  })

  t.test('server away for longer than a slot lives: waiters keep waiting, and join the queue again', async (t) => {
    const ttl_ms = 1500
    const locks = await locksOf(t, server, ttl_ms)
    t.teardown(() => server.resume())
    const began = new Map<string, string[]>()
    await inEachMode(server, 'away', async ({ rival }, resource) => {
      began.set(resource, [])
      await locks.acquire(resource, rival)
    })
    const waits = casesOf(server).flatMap(({ mode, rival }) =>
      ['first', 'second'].map(async (name) => {
        const resource = `away:${mode}`
        if (name === 'second') await waitersReach(locks, resource, 1)
        const lease = await locks.acquire(resource, { ...rival, wait_ms: 60_000 })
        began.get(resource)?.push(name)
        await lease.release()
      }),
    )
    const notified = Promise.all(waits)
    notified.catch(() => {})
    for (const { mode } of casesOf(server)) await waitersReach(locks, `away:${mode}`, 2)
    server.pause()
    await sleep(3 * ttl_ms)
    server.resume()
    await t.resolves(notified)
    for (const [resource, names] of began) {
      // Both slots had expired: either waiter may be the first to recheck when the server is back.
      t.same(names.sort(), ['first', 'second'], resource)
      await unused(locks, resource)
    }
  })

  t.test('server away until the end of the wait: the waiter gets the server error', async (t) => {
    const locks = await locksOf(t, server, 1000)
    t.teardown(() => server.resume())
    const other = await locksOf(t, server, 1000)
    const holder = await other.acquire('gone:1')
    const began = performance.now()
    const waiting = locks.acquire('gone:1', { wait_ms: 4000 }).catch((error) => error)
    await waitersReach(other, 'gone:1', 1)
    server.pause()
    const error = await waiting
    const waited = performance.now() - began
    t.ok(error instanceof Error && !(error instanceof LockBusyError), String(error))
    t.ok(waited > 3900, `after ${Math.round(waited)} ms`)
    server.resume()
    await holder.release()
    await unused(other, 'gone:1')
  })

  t.test(
    'server hangs: the signal aborts before the TTL ends, that of node-redlock does not; the lock is free soon after',
    async (t) => {
      const ttl_ms = 1000
      const locks = await locksOf(t, server, ttl_ms)
      const { address } = server
      const other = address.kind.startsWith('etcd') ? undefined : await heldByNodeRedlock(t, address, ttl_ms)
      t.teardown(() => server.resume())
      const began = performance.now()
      const held = await Promise.all(
        server.modes.map(async (mode) => {
          const resource = `hang:${mode}`
          const ask = mode === 'permit' ? { mode, limit: 1 } : { mode }
          const lease = await locks.acquire(resource, ask as { mode: 'shared' })
          return { resource, lease, loss: lossOf(lease) }
        }),
      )
      await Promise.all(held.map(({ lease }) => lease.extend()))
      const renewed = performance.now()
      const late = lateness(ttl_ms * 0.99)
      server.pause()
      const pending = t.rejects(locks.acquire('hang:asked', { wait_ms: 60_000 }))
      for (const { lease, loss, resource } of held) {
        const { at, why } = await loss
        const after = at - renewed - (await late)
        t.ok(after < ttl_ms, `${resource}: aborted ${Math.round(after)} ms after the renewal`)
        t.ok(at - began > ttl_ms * 0.9, 'and not too early')
        t.equal(why, 'unreachable')
        t.throws(() => lease.assertValid(), { code: 'lease_lost' })
        const before = performance.now()
        t.same(await lease.release(), { released: false, reason: 'unreachable' })
        t.ok(performance.now() - before < 600, 'release does not hang')
      }
      await pending
      if (other) {
        await sleep(Math.max(0, other.since + ttl_ms * 2 - performance.now()))
        t.notOk(other.signal.aborted, 'node-redlock has not noticed the loss a whole TTL after it')
      }
      server.resume()
      for (const { resource } of held) await unused(locks, resource)
      await unused(locks, 'hang:asked')
    },
  )
}
