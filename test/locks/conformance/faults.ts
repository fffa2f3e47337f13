/** Conformance when things break: a server that hangs, connections that are reset, answers that are lost. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LockBusyError } from '../../../src/shared/locks/api.ts'
import type { LockServer } from '../lock-servers.ts'
import { heldByNodeRedlock } from '../node-redlock.ts'
import { casesOf, inEachMode, inLine, lateness, locksOf, lossOf, unused } from './contract.ts'

export function conformInFaults(server: LockServer): void {
  t.test('one reset connection is no loss: the renewal is tried again', async (t) => {
    const lost: string[] = []
    const locks = await locksOf(t, server, 1500, { wired: true, events: { lost: (_, why) => lost.push(why) } })
    await inEachMode(server, 'reset', async ({ ask }, resource) => {
      const lease = await locks.acquire(resource, ask)
      await sleep(100)
      server.cut()
      // The renewal that is due at 500 ms meets the reset connection; it holds for two TTLs.
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

  t.test(
    'each answer in turn is lost with its connection: nothing is left behind, and no token given twice',
    async (t) => {
      const direct = await locksOf(t, server)
      // A minute: what is left behind would be seen.
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
      // Of one resource each: two resources may have the same token, where they are given in the same microsecond.
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
        if (took > 2500) t.fail(`after answer ${after} was lost, something stayed for ${Math.round(took)} ms`)
        if (losing.state === 'waiting') break
        lost += 1
      }
      t.ok(lost > 5, `${lost} answers were lost`)
      t.equal(new Set(tokens).size, tokens.length)
    },
  )

  t.test(
    'a server that is away for longer than a place lives: who waits waits on, and stands in line again',
    async (t) => {
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
          if (name === 'second') await inLine(locks, resource, 1)
          const lease = await locks.acquire(resource, { ...rival, wait_ms: 60_000 })
          began.get(resource)?.push(name)
          await lease.release()
        }),
      )
      const told = Promise.all(waits)
      told.catch(() => {})
      for (const { mode } of casesOf(server)) await inLine(locks, `away:${mode}`, 2)
      server.pause()
      await sleep(3 * ttl_ms)
      server.resume()
      await t.resolves(told)
      for (const [resource, names] of began) {
        // Both places had died: the waiter that asks first when the server is back may be either.
        t.same(names.sort(), ['first', 'second'], resource)
        await unused(locks, resource)
      }
    },
  )

  t.test('who waits for a server that stays away is told so at the end of the wait', async (t) => {
    const locks = await locksOf(t, server, 1000)
    t.teardown(() => server.resume())
    const other = await locksOf(t, server, 1000)
    const holder = await other.acquire('gone:1')
    const began = performance.now()
    const waiting = locks.acquire('gone:1', { wait_ms: 4000 }).catch((error) => error)
    await inLine(other, 'gone:1', 1)
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
    'the server hangs: the signal aborts before the TTL is over, and node-redlock’s does not; free again soon after',
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
      const asked = t.rejects(locks.acquire('hang:asked', { wait_ms: 60_000 }))
      for (const { lease, loss, resource } of held) {
        const { at, why } = await loss
        const after = at - renewed - (await late)
        t.ok(after < ttl_ms, `${resource}: aborted ${Math.round(after)} ms after the renewal`)
        t.ok(at - began > ttl_ms * 0.9, 'and not before it had to')
        t.equal(why, 'unreachable')
        t.throws(() => lease.assertValid(), { code: 'lease_lost' })
        const before = performance.now()
        t.same(await lease.release(), { released: false, reason: 'unreachable' })
        t.ok(performance.now() - before < 600, 'release does not hang either')
      }
      await asked
      if (other) {
        await sleep(Math.max(0, other.since + ttl_ms * 2 - performance.now()))
        t.notOk(other.signal.aborted, 'node-redlock says nothing when its lock has been gone for a whole TTL')
      }
      server.resume()
      for (const { resource } of held) await unused(locks, resource)
      await unused(locks, 'hang:asked')
    },
  )
}
