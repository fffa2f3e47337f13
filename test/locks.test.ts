import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type Lease, type LeaseLostError, LockBusyError } from '../src/shared/locks/lease.ts'
import { createLocks } from '../src/shared/locks/redis.ts'
import { startRedis } from './locks-redis.ts'

const server = await startRedis()
t.teardown(() => server.stop())
const redis = server.client()

function locksOf(t: Tap, ttl_ms = 2000) {
  const locks = createLocks({ redis, ttl_ms })
  t.teardown(() => locks.close())
  return locks
}
type Tap = { teardown(done: () => unknown): void }

t.test('a lease is a key with a TTL, a rising token and a typed end', async (t) => {
  const locks = locksOf(t)
  const first = await locks.acquire('product:1')
  t.equal(await redis.exists('lock:{product:1}'), 1)
  t.equal(await redis.get('lock:{product:1}:fence'), String(first.token))
  t.ok(Number.isSafeInteger(first.token))
  first.assertValid()
  t.same(await first.extend(), { waiting: 0 })
  t.same(await first.release(), { released: true })
  t.same(await first.release(), { released: true }, 'idempotent')
  t.throws(() => first.assertValid(), { code: 'lease_lost', why: 'released' })
  await t.rejects(first.extend(), { code: 'lease_lost', why: 'released' })
  t.equal(await redis.exists('lock:{product:1}'), 0)
  const second = await locks.acquire('product:1', { above: first.token + 5_000_000_000 })
  t.equal(second.token, first.token + 5_000_000_001, 'above the floor that was found in SQL')
  await second.release()
  const third = await locks.acquire('product:1')
  t.equal(third.token, second.token + 1, 'and above every token before it')
  await third.release()
})

t.test('a busy lock names its holder, and a try is no place in line', async (t) => {
  const locks = locksOf(t)
  const lease = await locks.acquire('busy:1', { owner: 'the holder' })
  await t.rejects(locks.acquire('busy:1'), { code: 'lock_busy', holder: 'the holder', waiting: 0 })
  await t.rejects(locks.acquire('busy:1', { wait_ms: 30 }), LockBusyError)
  t.equal(await locks.tryAcquire('busy:1'), undefined)
  t.equal(await redis.exists('lock:{busy:1}:queue', 'lock:{busy:1}:alive'), 0)
  await lease.release()
})

t.test('twenty waiters are served in the order of their arrival', async (t) => {
  const locks = locksOf(t)
  const holder = await locks.acquire('line:1')
  const served: number[] = []
  const waits: Promise<void>[] = []
  for (let n = 0; n < 20; n++) {
    waits.push(
      locks.withLease('line:1', { wait_ms: 10_000 }, async () => {
        served.push(n)
        await sleep(2)
      }),
    )
  }
  while ((await holder.extend()).waiting < 20) await sleep(1)
  t.equal(await locks.tryAcquire('line:1'), undefined)
  await holder.release()
  t.equal(await locks.tryAcquire('line:1'), undefined, 'free, but not for who did not wait')
  await Promise.all(waits)
  t.same(
    served,
    Array.from({ length: 20 }, (_, n) => n),
  )
})

t.test('several at once: those that are free', async (t) => {
  const locks = locksOf(t)
  await using _held = await locks.acquire('many:2')
  const leases = await locks.tryAcquireMany(['many:1', 'many:2', 'many:3', 'many:1'])
  t.same([...leases.keys()], ['many:1', 'many:3'])
  await locks.releaseMany(leases.values())
  t.equal(await redis.exists('lock:{many:1}', 'lock:{many:3}'), 0)
})

t.test('the heartbeat keeps a lease for many times its TTL, and stops with it', async (t) => {
  const locks = locksOf(t, 150)
  const lease = await locks.acquire('long:1')
  await sleep(500)
  lease.assertValid()
  t.notOk(lease.signal.aborted)
  await redis.set('lock:{long:1}', 'somebody else', 'PX', 60_000)
  const why = await new Promise<LeaseLostError>((resolve) => {
    lease.signal.addEventListener('abort', () => resolve(lease.signal.reason))
  })
  t.match(why, { code: 'lease_lost', why: 'taken', resource: 'long:1', token: lease.token })
  t.same(await lease.release(), { released: false, reason: 'taken' })
  t.equal(await redis.get('lock:{long:1}'), 'somebody else')
})

t.test('the error of the body is the error of withLease', async (t) => {
  const locks = locksOf(t)
  const stolen = async (lease: Lease) => {
    await redis.del('lock:{body:1}')
    t.ok(lease.token)
    throw new Error('of the body')
  }
  await t.rejects(locks.withLease('body:1', {}, stolen), { message: 'of the body' })
  t.equal(await locks.withLease('body:1', {}, async () => 'value'), 'value')
})
