import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { type OwnRedis, startRedis } from '../support/redis-server.ts'
import { startProxy } from '../support/tcp-proxy.ts'
import { forkWaiter } from './lock-servers.ts'

type Scope = { teardown(done: () => unknown): void }

async function redisOf(t: Scope): Promise<OwnRedis> {
  const server = await startRedis()
  t.teardown(() => server.stop())
  return server
}

/** Through a proxy, which sees what the client sends. */
async function behindProxy(t: Scope, server: OwnRedis, onRequest: Parameters<typeof startProxy>[1]) {
  const proxy = await startProxy(server.port, onRequest)
  t.teardown(() => proxy.stop())
  return proxy
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(2)
}

t.test('SIGKILL of the first five of twenty waiters: costs less than one TTL', async (t) => {
  const server = await redisOf(t)
  const redis = server.client()
  const ttl_ms = 1500
  const locks = createLocks({ redis, ttl_ms })
  t.teardown(() => locks.close())
  const holder = await locks.acquire('killed:1')
  const children: ChildProcess[] = []
  for (let n = 0; n < 5; n++) {
    const child = forkWaiter({ kind: 'redis', ports: [server.port] }, ttl_ms)
    t.teardown(() => child.kill('SIGKILL'))
    children.push(child)
  }
  await Promise.all(children.map((child) => once(child, 'message')))
  for (const child of children) child.send('killed:1')
  await until(async () => (await holder.extend()).waiting === 5)
  const served: number[] = []
  const waits: Promise<unknown>[] = []
  for (let n = 0; n < 15; n++) {
    waits.push(locks.withLease('killed:1', { wait_ms: 30_000 }, async () => served.push(n)))
    await until(async () => (await holder.extend()).waiting === 6 + n)
  }
  const gone = children.map((child) => once(child, 'exit'))
  for (const child of children) child.kill('SIGKILL')
  await Promise.all(gone)
  const started = performance.now()
  await holder.release()
  await Promise.all(waits)
  const took = performance.now() - started
  t.ok(took < ttl_ms, `the fifteen were served ${Math.round(took)} ms after the release`)
  t.same(
    served,
    Array.from({ length: 15 }, (_, n) => n),
  )
})

t.test('frozen waiter: skipped, and back in front when it resumes', async (t) => {
  const server = await redisOf(t)
  const redis = server.client()
  const locks = createLocks({ redis, ttl_ms: 600 })
  t.teardown(() => locks.close())
  const holder = await locks.acquire('frozen:1')
  const child = forkWaiter({ kind: 'redis', ports: [server.port] }, 600)
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'message')
  child.send('frozen:1')
  await until(async () => (await holder.extend()).waiting === 1)
  const second = locks.acquire('frozen:1', { wait_ms: 30_000 })
  const third = locks.acquire('frozen:1', { wait_ms: 30_000 })
  await until(async () => (await holder.extend()).waiting === 3)
  child.kill('SIGSTOP')
  const started = performance.now()
  await holder.release()
  const passed = await second
  t.ok(performance.now() - started < 600, 'a frozen head costs less than one TTL')
  const served = once(child, 'message')
  child.kill('SIGCONT')
  await until(async () => (await passed.extend()).waiting === 2)
  await passed.release()
  t.same(await served, ['served', undefined], 'in front of the third, which arrived later')
  const exit = once(child, 'exit')
  child.send('go')
  await (await third).release()
  await exit
})

t.test('pub/sub muted: costs at most the recheck interval', async (t) => {
  const server = await redisOf(t)
  let muted = 0
  const proxy = await behindProxy(t, server, (link, chunk) => {
    if (!/subscribe/i.test(chunk)) return
    link.mute()
    muted += 1
  })
  const locks = createLocks({ redis: server.client({ port: proxy.port }), ttl_ms: 1500 })
  t.teardown(() => locks.close())
  const holder = await locks.acquire('muted:1')
  const next = locks.acquire('muted:1', { wait_ms: 10_000 })
  await until(async () => muted > 0 && (await holder.extend()).waiting === 1)
  const started = performance.now()
  await holder.release()
  await (await next).release()
  const took = performance.now() - started
  t.ok(took < 250 + 100, `waited ${Math.round(took)} ms; the recheck is at 250`)
})

t.test('reply to an acquire lost with its connection: the same lease, once', async (t) => {
  const server = await redisOf(t)
  let cuts = 0
  const proxy = await behindProxy(t, server, (link, chunk) => {
    if (cuts > 0 || !chunk.includes('lock:{lost:1}')) return
    cuts += 1
    link.mute()
    setTimeout(link.cut, 30)
  })
  const direct = server.client()
  const locks = createLocks({ redis: server.client({ port: proxy.port }), ttl_ms: 2000 })
  t.teardown(() => locks.close())
  await (await locks.acquire('known:1')).release() // Redis knows the scripts now: the first message acquires the lock.
  const lease = await locks.acquire('lost:1')
  t.equal(cuts, 1)
  t.equal(await direct.get('lock:{lost:1}:fence'), String(lease.token), 'one token, not two')
  t.match(await direct.get('lock:{lost:1}'), new RegExp(` ${lease.token} `))
  await lease.release()
})

t.test('client without resending: the error reaches the caller, and the lock is released', async (t) => {
  const server = await redisOf(t)
  let cuts = 0
  const proxy = await behindProxy(t, server, (link, chunk) => {
    if (cuts > 0 || !chunk.includes('lock:{given:1}')) return
    cuts += 1
    link.mute()
    setTimeout(link.cut, 30)
  })
  const direct = server.client()
  const redis = server.client({ port: proxy.port, autoResendUnfulfilledCommands: false, enableOfflineQueue: false })
  await once(redis, 'ready')
  const locks = createLocks({ redis, ttl_ms: 60_000 })
  t.teardown(() => locks.close())
  await (await locks.acquire('known:1')).release()
  const failed = t.rejects(locks.acquire('given:1'))
  await until(async () => (await direct.exists('lock:{given:1}')) === 1)
  await failed
  await until(async () => (await direct.exists('lock:{given:1}')) === 0)
})

t.test('reset connection during a renewal: it is retried, the lease is kept', async (t) => {
  const server = await redisOf(t)
  let sent = 0
  const proxy = await behindProxy(t, server, (link, chunk) => {
    // The second request is the first renewal.
    if (!chunk.includes('lock:{reset:1}') || ++sent !== 2) return
    link.cut()
  })
  const redis = server.client({ port: proxy.port, autoResendUnfulfilledCommands: false, enableOfflineQueue: false })
  await once(redis, 'ready')
  const locks = createLocks({ redis, ttl_ms: 900 })
  t.teardown(() => locks.close())
  // Redis knows the scripts now: one message is one command.
  const known = await locks.acquire('known:1')
  await known.extend()
  await known.release()
  const lease = await locks.acquire('reset:1')
  await sleep(1500)
  t.ok(sent > 2)
  t.notOk(lease.signal.aborted)
  lease.assertValid()
  t.same(await lease.release(), { released: true })
})

t.test('extend() during a pending renewal: waits for the next one', async (t) => {
  const server = await redisOf(t)
  const redis = server.client()
  const locks = createLocks({ redis, ttl_ms: 3000 })
  t.teardown(() => locks.close())
  const lease = await locks.acquire('joined:1')
  await lease.extend() // Redis knows the script now.
  server.pause()
  const first = lease.extend()
  await sleep(20)
  const gone = redis.del('lock:{joined:1}')
  const second = t.rejects(lease.extend(), { code: 'lease_lost', why: 'expired' })
  server.resume()
  await first
  t.equal(await gone, 1)
  await second
})

t.test('Redis down: an error at once, and withLease keeps the error of its body', async (t) => {
  const server = await redisOf(t)
  const redis = server.client({ enableOfflineQueue: false })
  await once(redis, 'ready')
  const patient = server.client()
  const locks = createLocks({ redis, ttl_ms: 2000 })
  const queued = createLocks({ redis: patient, ttl_ms: 600 })
  t.teardown(() => Promise.all([locks.close(), queued.close()]))
  const holder = await locks.acquire('down:1')
  const next = locks.acquire('down:1', { wait_ms: 60_000 })
  next.catch(() => {})
  while ((await locks.inspect('down:1')).waiters.length === 0) await sleep(5)
  const body = locks.withLease('down:2', {}, async () => {
    server.kill()
    // Not by once() of node:events, which an ECONNRESET in front of it would reject.
    await new Promise((resolve) => redis.once('close', resolve))
    throw new Error('of the body')
  })
  await t.rejects(body, { message: 'of the body' })
  const started = performance.now()
  await t.rejects(locks.acquire('down:3', { wait_ms: 60_000 }))
  t.ok(performance.now() - started < 100)
  await t.rejects(queued.acquire('down:3', { wait_ms: 60_000 }), { code: 'ETIMEDOUT' }, 'also with an offline queue')
  t.same(await holder.release(), { released: false, reason: 'unreachable' })
  // A slot lives for half a TTL: it has expired, and Redis has lost its data.
  await sleep(Math.max(0, started + 2000 - performance.now()))
  await server.restart()
  t.same(await (await next).release(), { released: true }, 'the waiter keeps waiting, and joins the queue again')
})

t.test('server without the scripts: they are loaded again', async (t) => {
  const server = await redisOf(t)
  const redis = server.client()
  const locks = createLocks({ redis, ttl_ms: 600 })
  t.teardown(() => locks.close())
  const lease = await locks.acquire('flush:1')
  await redis.script('FLUSH')
  const waits = [1, 2, 3].map(() => locks.withLease('flush:1', { wait_ms: 5000 }, async (l) => l.token))
  await redis.script('FLUSH')
  t.same(await lease.release(), { released: true })
  const tokens = await Promise.all(waits)
  t.equal(new Set(tokens).size, 3)
})
