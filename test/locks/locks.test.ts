import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type Lease, LeaseLostError, type LockEvents, type Locks } from '../../src/shared/locks/api.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { blockEventLoop } from '../support/block.ts'
import { startRedis } from '../support/redis-server.ts'

const server = await startRedis()
t.teardown(() => server.stop())
const redis = server.client()

type Scope = { teardown(done: () => unknown): void }

function locksOf(t: Scope, ttl_ms = 2000, events: LockEvents = {}): Locks {
  const locks = createLocks({ redis, ttl_ms, events })
  t.teardown(() => locks.close())
  return locks
}

/** A process that has just subscribed renews its leases once: after this it sends only what the test sends. */
async function listening(lease: Lease): Promise<void> {
  while (((await redis.pubsub('CHANNELS', 'lock:wake:*')) as string[]).length === 0) await sleep(2)
  await lease.extend()
}

const queueOf = (resource: string) => redis.zrange(`lock:{${resource}}:queue`, '0', '-1')

async function queueReaches(resource: string, count: number): Promise<void> {
  while ((await queueOf(resource)).length !== count) await sleep(2)
}

const aborted = (lease: Lease) =>
  new Promise<LeaseLostError>((resolve) => {
    lease.signal.addEventListener('abort', () => resolve(lease.signal.reason), { once: true })
  })

function whyInvalid(lease: Lease): string {
  try {
    lease.assertValid()
    return 'valid'
  } catch (error) {
    return error instanceof LeaseLostError ? error.why : String(error)
  }
}

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

t.test('lease: a key with a TTL, its token the time of Redis', async (t) => {
  const locks = locksOf(t)
  const first = await locks.acquire('product:1')
  t.equal(await redis.exists('lock:{product:1}'), 1)
  const ttl = await redis.pttl('lock:{product:1}')
  t.ok(ttl > 1000 && ttl <= 2000)
  t.equal(await redis.get('lock:{product:1}:fence'), String(first.token))
  t.ok(first.token > 1.6e15, 'the time in microseconds')
  await first.release()
  t.equal(await redis.exists('lock:{product:1}'), 0)
  const second = await locks.acquire('product:1', { above: first.token + 5_000_000_000 })
  await second.release()
  const third = await locks.acquire('product:1')
  t.ok(third.token > second.token && third.token < second.token + 20_000, 'a little above, while the clock is behind')
  await third.release()
  t.same(await first.release(), { released: true })
  t.throws(() => createLocks({ redis, ttl_ms: 5 }), RangeError)
})

t.test('five hundred leases: renewed together, beyond their TTL', async (t) => {
  const locks = locksOf(t, 1500)
  const leases = await locks.tryAcquireMany(upTo(500).map((n) => `crowd:${n}`))
  t.equal(leases.size, 500)
  await sleep(2500)
  for (const lease of leases.values()) lease.assertValid()
  await locks.releaseMany(leases.values())
  t.equal(await redis.exists(...upTo(500).map((n) => `lock:{crowd:${n}}`)), 0)
})

t.test('another owner in the key: the lease aborts at the next heartbeat, the key is unchanged', async (t) => {
  const lost: string[] = []
  const locks = locksOf(t, 600, { lost: (_, why) => lost.push(why) })
  const lease = await locks.acquire('taken:1')
  await redis.set('lock:{taken:1}', 'another owner', 'PX', 60_000)
  t.match(await aborted(lease), { code: 'lease_lost', why: 'taken', resource: 'taken:1', token: lease.token })
  t.equal(whyInvalid(lease), 'taken')
  t.same(await lease.release(), { released: false, reason: 'taken' })
  t.equal(await redis.get('lock:{taken:1}'), 'another owner')
  t.same(lost, ['taken'], 'counted once')
})

t.test('release after the end: its reason says why', async (t) => {
  const lost: string[] = []
  const locks = locksOf(t, 2000, { lost: (_, why) => lost.push(why) })
  const expired = await locks.acquire('typed:1')
  await listening(expired)
  await redis.del('lock:{typed:1}')
  t.same(await expired.release(), { released: false, reason: 'expired' })
  const old = await locks.acquire('typed:2')
  await redis.del('lock:{typed:2}')
  const young = await locks.acquire('typed:2')
  t.same(await old.release(), { released: false, reason: 'taken' })
  t.same(lost, ['expired', 'taken'])
  t.same(await young.extend(), { waiting: 0 }, 'the release of another owner did nothing')
  await young.release()
})

t.test('FLUSHALL: the holder learns of it, every waiter is served, the token still rises', async (t) => {
  const locks = locksOf(t, 600)
  const holder = await locks.acquire('flush:1')
  const served: [number, number][] = []
  const waits: Promise<void>[] = []
  for (const n of upTo(5)) {
    const wait = locks.withLease('flush:1', { wait_ms: 10_000 }, async (lease) => {
      served.push([n, lease.token])
      await sleep(1)
    })
    waits.push(wait)
    await queueReaches('flush:1', n + 1)
  }
  const notified = aborted(holder)
  // The second waiter may recheck first after the loss and get in first: the queue was lost. None is forgotten.
  await redis.flushall()
  t.match((await notified).why, /expired|taken/)
  await Promise.all(waits)
  t.equal(served.length, 5)
  let last = holder.token
  for (const [, token] of served) {
    t.ok(token > last, 'the token still rises')
    last = token
  }
})

t.test('one signal for a hundred waits: stops all, with one listener', async (t) => {
  const locks = locksOf(t)
  await using _holder = await locks.acquire('stop:1')
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const stop = new AbortController()
  const waits = upTo(100).map(() => locks.acquire('stop:1', { wait_ms: 10_000, signal: stop.signal }))
  const ended = Promise.allSettled(waits)
  await queueReaches('stop:1', 100)
  stop.abort()
  for (const end of await ended) t.equal(end.status, 'rejected')
  await queueReaches('stop:1', 0)
  t.same(warnings, [])
})

t.test('expired holder: the next waiter gets in when the key ends', async (t) => {
  const locks = locksOf(t, 6000)
  await redis.set('lock:{expired:1}', 'dead/1 1 1 a dead process', 'PX', 300)
  const started = performance.now()
  const lease = await locks.acquire('expired:1', { wait_ms: 5000 })
  const waited = performance.now() - started
  t.ok(waited > 280 && waited < 400, `after ${waited} ms: when the key ended, not at the next recheck`)
  await lease.release()
})

t.test('long wait: live waiters are not evicted', async (t) => {
  const locks = locksOf(t, 300)
  const holder = await locks.acquire('patient:1')
  const served: number[] = []
  const waits = upTo(3).map((n) => locks.withLease('patient:1', { wait_ms: 10_000 }, async () => void served.push(n)))
  await queueReaches('patient:1', 3)
  const before = await queueOf('patient:1')
  for (let round = 0; round < 10; round++) {
    await sleep(100)
    t.same(await queueOf('patient:1'), before)
    t.same(await holder.extend(), { waiting: 3 })
  }
  await holder.release()
  await Promise.all(waits)
  t.same(served, [0, 1, 2])
})

t.test('waiter evicted while paused: returns to its old position', async (t) => {
  const locks = locksOf(t, 300)
  const holder = await locks.acquire('evicted:1')
  const served: number[] = []
  const waits: Promise<void>[] = []
  for (const n of upTo(3)) {
    waits.push(locks.withLease('evicted:1', { wait_ms: 10_000 }, async () => void served.push(n)))
    await queueReaches('evicted:1', n + 1)
  }
  const before = await queueOf('evicted:1')
  const evict = redis.multi()
  for (const key of ['lock:{evicted:1}:queue', 'lock:{evicted:1}:alive']) evict.zrem(key, before[0] as string)
  await evict.exec()
  await queueReaches('evicted:1', 3)
  t.same(await queueOf('evicted:1'), before)
  await holder.release()
  await Promise.all(waits)
  t.same(served, [0, 1, 2])
})

t.test('hand-over message for a lost slot: ignored', async (t) => {
  const locks = locksOf(t)
  const holder = await locks.acquire('stale:1')
  let served = false
  const wait = locks.acquire('stale:1', { wait_ms: 10_000 }).then((lease) => {
    served = true
    return lease
  })
  await queueReaches('stale:1', 1)
  const [id = ''] = await queueOf('stale:1')
  const slot = Number(await redis.zscore('lock:{stale:1}:alive', id))
  // The message of an earlier slot, as a process reads it that was frozen while it held the lock, and has rechecked.
  await redis.publish(id.slice(0, id.indexOf('/')), `${id} ${slot - 1000} ${holder.token - 1}`)
  await sleep(50)
  t.notOk(served)
  await holder.release()
  const lease = await wait
  t.ok(lease.token > holder.token)
  t.ok((await redis.pttl('lock:{stale:1}')) <= 1000, 'handed over for the rest of the slot')
  await sleep(50)
  t.ok((await redis.pttl('lock:{stale:1}')) > 1500, 'and soon renewed for a whole TTL')
  await lease.release()
})

t.test('floor from SQL: also holds for a lock that is handed over', async (t) => {
  const locks = locksOf(t)
  const holder = await locks.acquire('floor:1')
  const above = holder.token + 9_000_000_000
  const wait = locks.acquire('floor:1', { wait_ms: 10_000, above })
  await queueReaches('floor:1', 1)
  await holder.release()
  const lease = await wait
  t.ok(lease.token > above && lease.token < above + 20_000)
  await lease.release()
})

t.test('slot from before the clock was set back: does not block the queue', async (t) => {
  const locks = locksOf(t)
  await redis.zadd('lock:{debris:1}:queue', 1, 'dead/1')
  await redis.zadd('lock:{debris:1}:alive', Date.now() + 3_600_000, 'dead/1')
  const lease = await locks.acquire('debris:1')
  await lease.release()
  t.equal(await redis.exists('lock:{debris:1}:queue', 'lock:{debris:1}:alive'), 0)
})

t.test('key that is not a lock: unchanged, and no lease', async (t) => {
  const locks = locksOf(t)
  await redis.rpush('lock:{list:1}', 'something')
  await t.rejects(locks.acquire('list:1'), { message: /WRONGTYPE/ })
  t.same(await redis.lrange('lock:{list:1}', 0, -1), ['something'])
})

t.test('grant read after its TTL: not returned as a lease', async (t) => {
  const locks = locksOf(t, 100)
  const used = (wait: Promise<Lease>) =>
    wait.then((lease) => {
      lease.assertValid()
      return lease.release()
    })
  const tried = used(locks.acquire('late:1'))
  const waited = used(locks.acquire('late:2', { wait_ms: 2000 }))
  const ends = Promise.allSettled([tried, waited])
  blockEventLoop(300)
  const [late] = await ends
  if (late.status === 'rejected') t.equal(late.reason.message, 'the grant came too late')
  await sleep(150)
  t.equal(await redis.exists('lock:{late:1}', 'lock:{late:2}'), 0)
})

t.test('no renewal after release', async (t) => {
  const locks = locksOf(t, 90)
  const monitor = await redis.monitor()
  t.teardown(() => monitor.disconnect())
  const seen: string[] = []
  monitor.on('monitor', (_time: string, [verb = '', key]: string[]) => {
    if (key === 'lock:{quiet:1}') seen.push(verb.toLowerCase())
  })
  const lease = await locks.acquire('quiet:1')
  await sleep(50)
  await lease.extend()
  // The release is sent while a renewal is on its way.
  const extended = t.rejects(lease.extend(), LeaseLostError)
  await lease.release()
  await extended
  await sleep(200)
  const released = seen.lastIndexOf('del')
  t.ok(released > seen.indexOf('set'))
  t.notOk(seen.slice(released).includes('pexpire'), seen.join(' '))
})

t.test('withLease: rejects with the error of the body, also when the lock is lost', async (t) => {
  const locks = locksOf(t)
  const stolen = async () => {
    await redis.del('lock:{body:1}')
    throw new Error('of the body')
  }
  await t.rejects(locks.withLease('body:1', {}, stolen), { message: 'of the body' })
  t.equal(await locks.withLease('body:1', {}, async () => 'value'), 'value')
  const unnoticed = await locks.withLease('body:1', {}, async () => redis.del('lock:{body:1}'))
  t.equal(unnoticed, 1, 'a loss that the body did not notice is not an error')
})

t.test('close: ends waits and leases, and leaves nothing behind', async (t) => {
  const locks = createLocks({ redis, ttl_ms: 2000 })
  const holder = await locks.acquire('close:1')
  const wait = locks.acquire('close:1', { wait_ms: 10_000 })
  const inFlight = locks.acquire('close:2')
  const notified = aborted(holder)
  const ends = Promise.allSettled([wait, inFlight])
  await queueReaches('close:1', 1)
  await locks.close()
  t.match(await notified, { why: 'released' })
  await ends
  await t.rejects(wait, { message: /closed/ })
  await t.rejects(locks.acquire('close:3'), { message: /closed/ })
  t.equal(await redis.exists('lock:{close:1}', 'lock:{close:1}:queue', 'lock:{close:2}', 'lock:{close:3}'), 0)
  await locks.close()
  while (await redis.call('CLIENT', 'LIST', 'TYPE', 'pubsub')) await sleep(2)
})
