/** Conformance of one lease: token, ownership, expiry, heartbeat, loss, and the errors a caller gets. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LeaseLostError, LockBusyError } from '../../../src/shared/locks/api.ts'
import { blockEventLoop } from '../../support/block.ts'
import type { LockServer } from '../lock-servers.ts'
import { casesOf, inEachMode, locksOf, lossOf, unused } from './contract.ts'

export function conformLeases(server: LockServer): void {
  for (const { mode, ask } of casesOf(server)) {
    t.test(`${mode}: rising tokens, renewal, and a typed end`, async (t) => {
      const locks = await locksOf(t, server)
      const resource = `lease:${mode}`
      const first = await locks.acquire(resource, ask)
      t.same([first.resource, first.mode], [resource, mode])
      t.ok(Number.isSafeInteger(first.token) && first.token > 0)
      first.assertValid()
      t.same(await first.extend(), { waiting: 0 })
      t.same(await Promise.all([first.release(), first.release()]), [{ released: true }, { released: true }])
      t.throws(() => first.assertValid(), { code: 'lease_lost', why: 'released' })
      await t.rejects(first.extend(), { code: 'lease_lost', why: 'released', resource, token: first.token })
      t.notOk(first.signal.aborted, 'a release is not a loss')
      const above = first.token + 5_000_000_000
      const second = await locks.acquire(resource, { ...ask, above })
      t.ok(second.token > above, 'above the floor from SQL')
      await second.release()
      const third = await locks.acquire(resource, ask)
      t.ok(third.token > second.token, 'and above every token before it')
      await third.release()
      await unused(locks, resource)
    })
  }

  t.test('one resource in all modes in turn: no token twice', async (t) => {
    const fleet = await Promise.all([locksOf(t, server), locksOf(t, server)])
    const tokens: number[] = []
    for (let round = 0; round < 6; round++) {
      for (const { ask } of casesOf(server)) {
        const leases = await Promise.all(
          fleet.map((locks) =>
            locks
              .acquire('mixed:1', { ...(ask.mode === 'permit' ? { ...ask, limit: 2 } : ask), wait_ms: 9000 })
              .then(async (lease) => {
                tokens.push(lease.token)
                await lease.release()
              }),
          ),
        )
        t.equal(leases.length, 2)
      }
    }
    t.equal(new Set(tokens).size, tokens.length)
    t.ok(tokens.length >= 12)
  })

  t.test('busy lock: the error names the holder, and a try leaves no waiter', async (t) => {
    await inEachMode(server, 'busy', async ({ ask, rival }, resource) => {
      const failed: string[] = []
      const locks = await locksOf(t, server, 3000, { events: { failed: (_, reason) => failed.push(reason) } })
      const lease = await locks.acquire(resource, { ...rival, owner: 'the holder of it', job: '7' })
      const error = await locks.acquire(resource, ask).catch((error) => error)
      t.ok(error instanceof LockBusyError)
      t.match(error, { code: 'lock_busy', resource, holder: 'the holder of it 7', waiting: 0 })
      t.ok(error.retry_after_ms > 0)
      t.equal(await locks.tryAcquire(resource, ask), undefined)
      t.same(failed, ['lock_busy', 'lock_busy'])
      t.equal((await locks.inspect(resource)).waiters.length, 0)
      await lease.release()
    })
  })

  t.test('lease without renewals: a waiter gets the lock after its TTL, and not before', async (t) => {
    const ttl_ms = 1500
    const locks = await locksOf(t, server, ttl_ms)
    await inEachMode(server, 'expiry', async ({ mode, ask, rival }, resource) => {
      const began = performance.now()
      const dead = await locks.remote.acquire(resource, ask)
      const next = await locks.acquire(resource, { ...rival, wait_ms: 10_000 })
      const waited = performance.now() - began
      t.ok(waited >= ttl_ms - 2, `${mode}: after ${Math.round(waited)} ms`)
      t.ok(waited < server.dead_after_ms(ttl_ms) + ttl_ms, `${mode}: not much after the TTL`)
      t.ok(next.token > dead.token)
      await t.rejects(locks.remote.extend(dead.handle), { code: 'lease_lost', why: /expired|taken/ })
      t.match(await locks.remote.release(dead.handle), { released: false, reason: /expired|taken/ })
      next.assertValid()
      t.same(await next.extend(), { waiting: 0 }, 'requests of the old owner did not affect the new one')
      t.same(await next.release(), { released: true })
    })
  })

  t.test('heartbeats: keep a lease for many times its TTL', async (t) => {
    const ttl_ms = 1500
    const locks = await locksOf(t, server, ttl_ms)
    await inEachMode(server, 'heartbeat', async ({ ask, rival }, resource) => {
      const lease = await locks.acquire(resource, ask)
      for (let i = 0; i < 6; i++) {
        await sleep(ttl_ms / 2)
        lease.assertValid()
        t.equal(await locks.tryAcquire(resource, rival), undefined)
      }
      t.same(await lease.release(), { released: true })
    })
  })

  t.test(
    'forced release: the signal aborts within a second, and requests of the old owner have no effect',
    async (t) => {
      const lost: string[] = []
      const events = { lost: (_: string, why: string) => lost.push(why) }
      const [locks, other] = await Promise.all([locksOf(t, server, 6000, { events }), locksOf(t, server)])
      await inEachMode(server, 'force', async ({ ask, mode, rival }, resource) => {
        const lease = await locks.acquire(resource, { ...ask, owner: 'revoked' })
        const next = locks.acquire(resource, { ...rival, wait_ms: 9000 })
        while ((await lease.extend()).waiting < 1) await sleep(5)
        const notified = lossOf(lease)
        const began = performance.now()
        const { token, revoked_holders } = await other.forceRelease(resource, { above: lease.token + 1000 })
        t.match(revoked_holders, [{ owner: 'revoked', mode, token: lease.token }])
        t.ok(token > lease.token + 999)
        const { at, why } = await notified
        t.match(why, /taken|expired/, 'by the message, or by a renewal that was on its way')
        t.ok(at - began < 1000, `${mode}: ${Math.round(at - began)} ms`)
        t.throws(() => lease.assertValid(), LeaseLostError)
        const heir = await next
        t.ok(heir.token > token, 'later tokens are above the raised one')
        t.match(await lease.release(), { released: false })
        t.same(await heir.extend(), { waiting: 0 })
        t.same(await heir.release(), { released: true })
      })
      t.equal(lost.length, casesOf(server).length, 'each counted once')
    },
  )

  t.test('blocked event loop past the TTL: assertValid() throws before a write', async (t) => {
    const locks = await locksOf(t, server, 1200)
    for (const { ask, mode } of casesOf(server)) {
      const lease = await locks.acquire(`blocked:${mode}`, ask)
      const { signal } = lease
      blockEventLoop(1210)
      t.notOk(signal.aborted, 'no timer has run')
      t.throws(() => lease.assertValid(), { code: 'lease_lost', why: 'expired' })
      t.ok(signal.aborted)
      await lease.release()
    }
  })

  t.test("withLease and await using: reject with the body's error, onBusy replaces LockBusyError", async (t) => {
    const locks = await locksOf(t, server)
    const failing = async () => {
      throw new Error('of the body')
    }
    await inEachMode(server, 'body', async ({ ask, rival }, resource) => {
      t.equal(await locks.withLease(resource, ask, async () => 'value'), 'value')
      await t.rejects(locks.withLease(resource, ask, failing), { message: 'of the body' })
      const revoked = async () => {
        await locks.forceRelease(resource)
        return await failing()
      }
      await t.rejects(locks.withLease(resource, ask, revoked), { message: 'of the body' })
      {
        await using _held = await locks.acquire(resource, rival)
        const body = async () => 'held'
        await t.rejects(locks.withLease(resource, ask, body), LockBusyError)
        t.equal(await locks.withLease(resource, { ...ask, onBusy: 'busy' }, body), 'busy')
        const notified = (busy: LockBusyError) => busy.resource
        t.equal(await locks.withLease(resource, { ...ask, onBusy: notified }, body), resource)
        await t.rejects(locks.withLease(`${resource}:free`, { ...ask, onBusy: 'busy' }, failing), {
          message: 'of the body',
        })
      }
      t.ok(await locks.tryAcquire(resource, rival).then((lease) => lease?.release()), 'the block has released it')
    })
  })

  t.test(
    're-entry by passing the lease: same token and signal, the release leaves the lock to the parent',
    async (t) => {
      const locks = await locksOf(t, server)
      await inEachMode(server, 'within', async ({ ask, rival }, resource) => {
        const whole = await locks.acquire(resource, ask)
        const part = await locks.acquire(resource, { ...ask, within: whole })
        t.equal(part.token, whole.token)
        t.equal(part.signal, whole.signal)
        t.same(await part.extend(), { waiting: 0 })
        await part.release()
        t.throws(() => part.assertValid(), { code: 'lease_lost', why: 'released' })
        whole.assertValid()
        t.equal(await locks.tryAcquire(resource, rival), undefined, 'the lock is still held')
        await t.rejects(locks.acquire(`${resource}:other`, { ...ask, within: whole }), RangeError)
        await whole.release()
        await t.rejects(locks.acquire(resource, { ...ask, within: whole }), LeaseLostError)
        await unused(locks, resource)
      })
    },
  )

  t.test('invalid values: RangeError', async (t) => {
    const locks = await locksOf(t, server)
    await t.rejects(locks.acquire('bad:1', { ttl_ms: 0.5 }), RangeError)
    await t.rejects(locks.acquire('bad:1', { above: 2 ** 60 }), RangeError)
    await t.rejects(locks.remote.extend('no handle'), RangeError)
    await t.rejects(locks.remote.release('no handle'), RangeError)
    await t.rejects(locks.acquireAll([]), RangeError)
    await unused(locks, 'bad:1')
  })
}
