/** Conformance of deadlines: no renewal for a holder without progress, none beyond max_hold_ms. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Lease, LockEvents } from '../../../src/shared/locks/api.ts'
import { blockEventLoop } from '../../support/block.ts'
import { forkWaiter, type LockServer } from '../lock-servers.ts'
import { inEachMode, locksOf, lossOf, unused, waitersReach } from './contract.ts'

/** A TTL so long that a lock which becomes free before its end was released. */
const LONG_MS = 30_000

export function conformDeadlines(server: LockServer): void {
  t.test('holder without progress: loses the lease, and the next waiter gets it at once', async (t) => {
    const lost: string[] = []
    const events: LockEvents = { lost: (resource, why) => lost.push(`${resource} ${why}`) }
    const locks = await locksOf(t, server, LONG_MS, { events })
    await inEachMode(server, 'stalled', async ({ ask, rival }, resource) => {
      const lease = await locks.acquire(resource, { ...ask, progress_ms: 700 })
      const loss = lossOf(lease)
      const next = locks.acquire(resource, { ...rival, wait_ms: LONG_MS })
      const began = performance.now()
      const { why } = await loss
      t.equal(why, 'stalled')
      await (await next).release()
      t.ok(performance.now() - began < LONG_MS / 2, 'released, not expired')
      t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'stalled' })
      lease.progress()
      t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'stalled' }, 'a lost lease is not revived')
      t.equal(lease.remaining_ms, 0)
      await t.rejects(lease.extend(), { code: 'lease_lost', why: 'stalled' })
      t.ok(lost.includes(`${resource} stalled`))
    })
  })

  t.test('progress() and extend() keep a lease, the automatic heartbeat alone does not', async (t) => {
    const locks = await locksOf(t, server, 3000)
    await inEachMode(server, 'progress', async ({ ask }, resource) => {
      const lease = await locks.acquire(resource, { ...ask, progress_ms: 1500 })
      for (let n = 0; n < 10; n++) {
        await sleep(300)
        if (n % 2 === 0) lease.progress()
        else await lease.extend()
        lease.assertValid()
      }
      // The TTL is three seconds: heartbeats continue, and do not keep the lease.
      t.equal((await lossOf(lease)).why, 'stalled')
      await unused(locks, resource)
    })
  })

  t.test('max_hold_ms: the lease ends then, in spite of extend() and progress()', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    await inEachMode(server, 'max_hold', async ({ ask }, resource) => {
      const lease = await locks.acquire(resource, { ...ask, max_hold_ms: 900 })
      const began = performance.now()
      const loss = lossOf(lease)
      t.ok(lease.remaining_ms > 0 && lease.remaining_ms <= 900, 'the first deadline counts, not the TTL')
      await lease.extend()
      lease.progress()
      t.ok(lease.remaining_ms <= 900)
      const { at, why } = await loss
      t.equal(why, 'max_hold')
      t.ok(at - began > 800)
      await unused(locks, resource)
      t.ok(performance.now() - began < LONG_MS / 2, 'released, not expired')
      t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'max_hold' })
    })
  })

  t.test('blocked event loop past the deadline: the lease is lost before a renewal or write', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    const wakes: ((lease: Lease) => unknown)[] = [
      (lease) => lease.progress(),
      (lease) => lease.extend().catch(() => {}),
      (lease) => t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'stalled' }),
    ]
    for (const [n, wake] of wakes.entries()) {
      const resource = `late:${n}`
      const lease = await locks.acquire(resource, { progress_ms: 300 })
      blockEventLoop(310)
      wake(lease)
      t.match(lease.signal.reason, { why: 'stalled' })
      await unused(locks, resource)
    }
  })

  t.test('deadlines of acquireAll and tryAcquireMany: as those of one lease', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    const set = await locks.acquireAll(['deadline:a', 'deadline:b'], { progress_ms: 800 })
    t.ok(set.remaining_ms <= 800)
    await sleep(300)
    set.progress()
    t.ok(set.remaining_ms > 500, 'restarted')
    const each = await Promise.all([...set.leases.values()].map(lossOf))
    t.same(
      each.map(({ why }) => why),
      ['stalled', 'stalled'],
    )
    const many = await locks.tryAcquireMany(['deadline:c', 'deadline:d'], { max_hold_ms: 300 })
    t.equal(many.size, 2)
    for (const lease of many.values()) t.equal((await lossOf(lease)).why, 'max_hold')
    for (const name of ['a', 'b', 'c', 'd']) await unused(locks, `deadline:${name}`)
  })

  t.test('nested lease: shares the deadlines, and its progress counts for the parent', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    const whole = await locks.acquire('deadline:part', { progress_ms: 900 })
    const part = await locks.acquire('deadline:part', { within: whole })
    await sleep(300)
    part.progress()
    t.ok(whole.remaining_ms > 600 && part.remaining_ms > 600)
    await part.release()
    t.equal(part.remaining_ms, 0)
    t.ok(whole.remaining_ms > 0)
    t.equal((await lossOf(whole)).why, 'stalled')
  })

  t.test('remaining_ms: counted from before the renewal, 0 after the release', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    const lease = await locks.acquire('remaining:1')
    t.ok(lease.remaining_ms > 0 && lease.remaining_ms < LONG_MS)
    await sleep(50)
    const before = lease.remaining_ms
    await lease.extend()
    t.ok(lease.remaining_ms > before)
    await lease.release()
    t.equal(lease.remaining_ms, 0)
    for (const ms of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await t.rejects(locks.acquire('remaining:1', { max_hold_ms: ms }), { name: 'RangeError', message: /max_hold_ms/ })
      await t.rejects(locks.acquire('remaining:1', { progress_ms: ms }), { name: 'RangeError', message: /progress_ms/ })
    }
    await t.rejects(locks.remote.acquire('remaining:1', { progress_ms: 500 }), { message: /progress_ms/ })
    await t.rejects(locks.remote.acquire('remaining:1', { max_hold_ms: 500 }), { message: /max_hold_ms/ })
    await unused(locks, 'remaining:1')
  })

  t.test('process frozen past its deadline: does not renew the lock when it wakes', async (t) => {
    const locks = await locksOf(t, server, LONG_MS)
    const child = forkWaiter(server.address, LONG_MS, 1500)
    t.teardown(() => child.kill('SIGKILL'))
    await once(child, 'message')
    const served = once(child, 'message')
    child.send('frozen:1')
    await served
    const next = locks.acquire('frozen:1', { wait_ms: LONG_MS })
    await waitersReach(locks, 'frozen:1', 1)
    child.kill('SIGSTOP')
    await sleep(2500)
    t.equal((await locks.inspect('frozen:1')).waiters.length, 1, 'a frozen process releases nothing')
    const woken = performance.now()
    child.kill('SIGCONT')
    await (await next).release()
    t.ok(
      performance.now() - woken < LONG_MS / 2,
      `after ${Math.round(performance.now() - woken)} ms, not after the TTL`,
    )
    await unused(locks, 'frozen:1')
  })
}
