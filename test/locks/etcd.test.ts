/** Locks on etcd: order, modes, tokens, and what is left behind. */
import t from 'tap'
import { type Lease, LockBusyError, type LockState, type Locks } from '../../src/shared/locks/api.ts'
import { until } from '../support/environment.ts'
import { startEtcd } from './etcd-servers.ts'

const server = await startEtcd()
t.teardown(() => server.stop())

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

function waitersReach(locks: Locks, resource: string, count: number): Promise<LockState> {
  const reached = async () => {
    const state = await locks.inspect(resource)
    return state.waiters.length === count ? state : undefined
  }
  return until(reached, { what: `${count} to wait for ${resource}` })
}

t.test('twenty waiters in two processes: served in the order of arrival, with rising tokens', async (t) => {
  const two = [server.locks({ ttl_ms: 3000 }), server.locks({ ttl_ms: 3000 })] as const
  const holder = await two[0].acquire('order:1')
  const served: number[] = []
  const tokens = [holder.token]
  let inside = 0
  const waits: Promise<void>[] = []
  for (const n of upTo(20)) {
    waits.push(
      two[(n % 2) as 0 | 1].withLease('order:1', { wait_ms: 30_000 }, async (lease) => {
        t.equal(++inside, 1)
        served.push(n)
        tokens.push(lease.token)
        inside -= 1
      }),
    )
    await waitersReach(two[0], 'order:1', n + 1)
  }
  await holder.release()
  await Promise.all(waits)
  t.same(served, upTo(20))
  t.same(
    tokens,
    [...new Set(tokens)].sort((a, b) => a - b),
    'each token is above those before it',
  )
})

t.test('busy lock: the error names the holder; a try leaves nothing behind on etcd', async (t) => {
  const locks = server.locks({ ttl_ms: 60_000, instance: 'desk' })
  const holder = await locks.acquire('busy:1', { owner: 'alice', job: 'invoice-7' })
  t.equal(await locks.tryAcquire('busy:1'), undefined)
  const error = await locks.acquire('busy:1').catch((reason) => reason)
  t.ok(error instanceof LockBusyError)
  t.match(error, { holder: 'alice invoice-7', waiting: 0 })
  t.ok(error.retry_after_ms > 0 && error.retry_after_ms <= 60_000, `${error.retry_after_ms} ms`)
  await until(async () => (await server.raw.leaseClient.leaseLeases()).leases.length === 1, {
    what: "the tries' leases to be gone, and the holder's alone to be left",
  })
  t.same(await holder.release(), { released: true })
  await until(async () => (await server.raw.leaseClient.leaseLeases()).leases.length === 0)
})

t.test('waiting writer: no new reader gets in, the writer gets the lock after the present ones', async (t) => {
  const locks = server.locks({ ttl_ms: 3000 })
  const shared = { mode: 'shared' } as const
  const readers = await Promise.all(upTo(3).map(() => locks.acquire('doc:1', shared)))
  t.equal(await locks.tryAcquire('doc:1'), undefined, 'no writer beside readers')
  const order: string[] = []
  const entered = (name: string, lease: Lease) => {
    order.push(name)
    return lease
  }
  const writer = locks.acquire('doc:1', { wait_ms: 10_000 }).then((lease) => entered('writer', lease))
  await waitersReach(locks, 'doc:1', 1)
  t.equal(await locks.tryAcquire('doc:1', shared), undefined, 'no new reader before the writer')
  const later = upTo(2).map(() =>
    locks.acquire('doc:1', { ...shared, wait_ms: 10_000 }).then((lease) => entered('reader', lease)),
  )
  await waitersReach(locks, 'doc:1', 3)
  for (const reader of readers) await reader.release()
  await (await writer).release()
  const both = await Promise.all(later)
  t.same(order, ['writer', 'reader', 'reader'])
  t.match((await locks.inspect('doc:1')).holders, [{ mode: 'shared' }, { mode: 'shared' }])
  await locks.releaseMany(both)
})

t.test('five permits, forty contenders: never six, and all five used', async (t) => {
  const all = upTo(4).map(() => server.locks({ ttl_ms: 6000 }))
  const tokens = new Set<number>()
  let inside = 0
  let most = 0
  const together = new Set<Lease>()
  await Promise.all(
    upTo(40).map((n) =>
      (all[n % 4] as Locks).withLease('pool:1', { mode: 'permit', limit: 5, wait_ms: 30_000 }, async (lease) => {
        inside += 1
        most = Math.max(most, inside)
        tokens.add(lease.token)
        together.add(lease)
        // The first round ends only when all five are in.
        await until(() => together.size >= 5, { what: 'five to be inside at once' })
        await lease.extend()
        inside -= 1
      }),
    ),
  )
  t.equal(most, 5)
  t.equal(tokens.size, 40, 'each with a token of its own')
})

t.test('permits with different limits: the lowest counts, and other modes are kept out', async (t) => {
  const locks = server.locks({ ttl_ms: 3000 })
  const permit = (limit: number) => ({ mode: 'permit', limit }) as const
  const first = await locks.acquire('mix:1', permit(2))
  const second = await locks.tryAcquire('mix:1', permit(10))
  t.ok(second)
  t.equal(await locks.tryAcquire('mix:1', permit(10)), undefined, 'the holder of a permit of two sees no third')
  t.equal(await locks.tryAcquire('mix:1', { mode: 'shared' }), undefined)
  t.equal(await locks.tryAcquire('mix:1'), undefined)
  await first.release()
  t.ok(await locks.tryAcquire('mix:1', permit(10)))
})

t.test('aborted wait and expired wait: leave no key and no watch', async (t) => {
  // A separate server: clients of the other one may still be closing their watches.
  const server = await startEtcd()
  t.teardown(() => server.stop())
  const before = await server.watches()
  const locks = server.locks({ ttl_ms: 5000, prefix: 'cancelled/' })
  const holder = await locks.acquire('cancel:1')
  await until(async () => (await server.watches()) === before + 1, { what: 'the watch for revocations' })
  const controller = new AbortController()
  const waits = upTo(5).map(() => locks.acquire('cancel:1', { wait_ms: 30_000, signal: controller.signal }))
  const late = locks.acquire('cancel:1', { wait_ms: 300 })
  await waitersReach(locks, 'cancel:1', 6)
  await until(async () => (await server.watches()) === before + 2, { what: 'one watch for all six' })
  await t.rejects(late, { code: 'lock_busy' })
  controller.abort(new Error('the caller has left'))
  t.same(new Set((await Promise.allSettled(waits)).map((one) => one.status)), new Set(['rejected']))
  await waitersReach(locks, 'cancel:1', 0)
  await until(async () => (await server.watches()) === before + 1, { what: 'the watch of the queue to be closed' })
  await holder.release()
  t.equal(await server.raw.getAll().prefix('cancelled/lock/').count(), 0)
  t.same(await locks.list(), [])
  await until(async () => (await server.watches()) === before, { what: 'no watch without a held lock' })
})

t.test('name with slashes and percent signs: has its own queue', async (t) => {
  const locks = server.locks({ ttl_ms: 3000, prefix: 'names/' })
  const names = ['a', 'a/b', 'a%2Fb', 'a/', 'käse:1']
  const leases = await Promise.all(names.map((name) => locks.tryAcquire(name)))
  t.equal(leases.filter(Boolean).length, names.length)
  t.same(
    (await locks.list()).map((state) => state.resource),
    [...names].sort(),
  )
})

t.test(
  'forced release: the holder is notified at once, later tokens are higher, the next waiter gets the lock',
  async (t) => {
    const [locks, admin] = [server.locks({ ttl_ms: 30_000 }), server.locks({ ttl_ms: 30_000 })]
    const holder = await locks.acquire('force:1', { owner: 'stuck' })
    const next = locks.acquire('force:1', { wait_ms: 10_000 })
    await waitersReach(admin, 'force:1', 1)
    const aborted = new Promise((resolve) => holder.signal.addEventListener('abort', resolve))
    const began = performance.now()
    const above = holder.token + 1_000_000
    const { token, revoked_holders } = await admin.forceRelease('force:1', { above })
    t.match(revoked_holders, [{ owner: 'stuck', token: holder.token, mode: 'exclusive' }])
    t.ok(token > above)
    await aborted
    t.ok(performance.now() - began < 1000, 'within a second, though the next heartbeat is ten away')
    t.match(holder.signal.reason, { code: 'lease_lost', why: 'taken' })
    t.same(await holder.release(), { released: false, reason: 'taken' })
    const lease = await next
    t.ok(lease.token > token, 'the waiter has a token above the raised one')
    t.same(await lease.release(), { released: true })
  },
)

t.test('remote lease: another process renews and releases it by its handle', async (t) => {
  const [one, other] = [server.locks({ ttl_ms: 2000 }), server.locks({ ttl_ms: 2000 })]
  const lease = await one.remote.acquire('remote:1', { owner: 'shell' })
  await one.close()
  const renewed = await other.remote.extend(lease.handle)
  t.equal(renewed.token, lease.token)
  t.ok(renewed.expires_at_ms >= lease.expires_at_ms)
  t.match(await other.inspect('remote:1'), {
    fencing_token: lease.token,
    holders: [{ owner: 'shell', token: lease.token }],
  })
  t.same(await other.remote.release(lease.handle), { released: true })
  await t.rejects(other.remote.extend(lease.handle), { code: 'lease_lost' })
  await t.rejects(other.remote.extend('no handle'), RangeError)
})
