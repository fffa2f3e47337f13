/**
 * Locks on etcd under faults: it hangs, crashes or loses its data, answers are lost, waiters and holders are killed.
 */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import type { Lease } from '../../src/shared/locks/api.ts'
import { until } from '../support/environment.ts'
import { startProxy } from '../support/tcp-proxy.ts'
import { startEtcd } from './etcd-servers.ts'
import { forkWaiter } from './lock-servers.ts'

const server = await startEtcd()
t.teardown(() => server.stop())

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

const lost = (lease: Lease) =>
  new Promise<number>((resolve) => {
    lease.signal.addEventListener('abort', () => resolve(performance.now()), { once: true })
  })

/** etcd's minimum TTL is 2 s, and it checks every half second for expired leases. */
const SERVER_TTL_MS = 2500

t.test('etcd hangs, TTL 1 s: signals abort in time, requests fail fast, and locks work when it resumes', async (t) => {
  const ttl_ms = 1000
  const locks = server.locks({ ttl_ms })
  // The first connection may take longer than so short a TTL allows.
  const lease = await until(() => locks.acquire('hang:1'))
  const aborted = lost(lease)
  const stood = locks.acquire('hang:1', { wait_ms: 20_000, ttl_ms: 3000 }).catch((error) => error)
  await until(async () => (await lease.extend()).waiting === 1)
  server.pause()
  const paused = performance.now()
  const acquiring = await locks.tryAcquire('hang:2').catch((error) => error)
  t.match(acquiring, Error)
  t.ok(performance.now() - paused < ttl_ms, `an acquire fails after ${Math.round(performance.now() - paused)} ms`)
  const after = (await aborted) - paused
  t.ok(after < ttl_ms, `the signal aborts ${Math.round(after)} ms into the hang`)
  t.match(lease.signal.reason, { code: 'lease_lost', why: 'unreachable' })
  t.throws(() => lease.assertValid(), { code: 'lease_lost' })
  t.same(await lease.release(), { released: false, reason: 'unreachable' })
  t.match(await stood, Error, 'a waiter does not wait for ever')
  server.resume()
  const other = server.locks({ ttl_ms })
  const woken = performance.now()
  const next = await until(() => other.acquire('hang:1', { wait_ms: 5000 }).catch(() => undefined))
  t.ok(next.token > lease.token)
  t.ok(performance.now() - woken < SERVER_TTL_MS + 1000, 'the old holder costs no more than its TTL')
})

t.test('reset connection: neither the holder nor the waiter is affected', async (t) => {
  const proxy = await startProxy(server.port, () => {})
  t.teardown(() => proxy.stop())
  // With this TTL a waiter rechecks only once a second.
  const locks = server.locks({ hosts: [`http://127.0.0.1:${proxy.port}`], ttl_ms: 60_000 })
  const lease = await locks.acquire('reset:1')
  const next = locks.acquire('reset:1', { wait_ms: 20_000 })
  await until(async () => (await lease.extend()).waiting === 1)
  for (const link of proxy.links) link.reset()
  t.same(await lease.extend(), { waiting: 1 })
  for (const link of proxy.links) link.reset()
  await (await locks.acquire('reset:2')).release()
  t.notOk(lease.signal.aborted)
  await until(async () => (await server.watches()) >= 2, { what: 'the watches to be there again' })
  const began = performance.now()
  await lease.release()
  await (await next).release()
  const took = performance.now() - began
  t.ok(took < 500, `the waiter got it ${Math.round(took)} ms after the release`)
})

t.test('each answer lost in turn: never two holders, never a token twice, nothing left behind', async (t) => {
  let sent = 0
  let lose = 0
  let cuts = 0
  const proxy = await startProxy(server.port, (link) => {
    sent += 1
    if (sent !== lose) return
    cuts += 1
    link.mute()
    // Not before etcd has executed the request.
    setTimeout(link.cut, 40)
  })
  t.teardown(() => proxy.stop())
  const direct = server.locks({ ttl_ms: 3000 })
  const tokens: number[] = []
  for (lose = 1; lose <= 16; lose++) {
    sent = 0
    // A new connection each time, so that the count begins with its first bytes.
    const locks = server.locks({ hosts: [`http://127.0.0.1:${proxy.port}`], ttl_ms: 3000 })
    const lease = await locks.acquire('lost:1')
    t.match((await direct.inspect('lost:1')).holders, [{ token: lease.token }], 'the lease matches the state of etcd')
    await lease.extend()
    tokens.push(lease.token)
    t.same(await lease.release(), { released: true })
    const after = await direct.acquire('lost:1')
    tokens.push(after.token)
    await after.release()
    await locks.close()
  }
  t.ok(cuts >= 10, `${cuts} answers were lost`)
  t.same(
    tokens,
    [...new Set(tokens)].sort((a, b) => a - b),
    'tokens rise',
  )
})

for (const { what, ttl_ms, leases } of [
  { what: 'the lease of its lock', ttl_ms: 60_000, leases: 2 },
  { what: 'its slot and the lease of its lock', ttl_ms: 60_000, leases: 2 },
  { what: 'the one lease that it has', ttl_ms: 3000, leases: 1 },
]) {
  t.test(`waiter that lost ${what}: gets no lock without an etcd lease (etcd-io/etcd#11456)`, async (t) => {
    const locks = server.locks({ ttl_ms, prefix: 'gone/' })
    const { leaseClient, kv } = server.raw
    const queue = async () =>
      (await kv.range({ key: Buffer.from('gone/lock/'), range_end: Buffer.from('gone/lock0') })).kvs
    const ids = async () => (await leaseClient.leaseLeases()).leases.map(({ ID }) => ID)
    const holder = await locks.acquire('gone:1')
    const before = await ids()
    const next = locks.acquire('gone:1', { wait_ms: 20_000 })
    await until(async () => (await holder.extend()).waiting === 1)
    const slots = (await queue()).map((one) => one.lease)
    const own = (await ids()).filter((id) => !before.includes(id))
    t.equal(own.length, leases)
    for (const ID of own) {
      if (what !== 'the lease of its lock' || !slots.includes(ID)) await leaseClient.leaseRevoke({ ID })
    }
    t.same(await holder.release(), { released: true })
    const lease = await next
    const [key] = await queue()
    const ID = key?.lease ?? '0'
    t.ok(
      Number((await leaseClient.leaseTimeToLive({ ID })).TTL) >= 1,
      'the key of the lock exists, and its lease is alive',
    )
    await leaseClient.leaseRevoke({ ID })
    await t.rejects(
      lease.extend(),
      { code: 'lease_lost', why: 'expired' },
      'a holder whose etcd lease is gone learns of it',
    )
  })
}

t.test('SIGKILL of the holder and of three waiters in front of ten: costs one TTL of the server', async (t) => {
  const ttl_ms = 3000
  const locks = server.locks({ ttl_ms: 6000 })
  const children: ChildProcess[] = upTo(4).map(() => forkWaiter({ kind: 'etcd', ports: [server.port] }, ttl_ms))
  t.teardown(() => {
    for (const child of children) child.kill('SIGKILL')
  })
  const ended = Promise.race(children.map((child) => once(child, 'exit'))).then(() => {
    throw new Error('a waiter ended by itself')
  })
  ended.catch(() => {})
  await Promise.race([ended, Promise.all(children.map((child) => once(child, 'message')))])
  const waiting = async (count: number) => {
    await until(async () => (await locks.inspect('killed:1')).waiters.length === count, { what: `${count} to wait` })
  }
  const [holder, ...dead] = children as [ChildProcess, ...ChildProcess[]]
  const served = once(holder, 'message')
  holder.send('killed:1')
  await Promise.race([served, ended])
  for (const child of dead) child.send('killed:1')
  await waiting(3)
  const order: number[] = []
  const waits: Promise<unknown>[] = []
  for (const n of upTo(10)) {
    waits.push(locks.withLease('killed:1', { wait_ms: 30_000 }, async () => order.push(n)))
    await waiting(4 + n)
  }
  const exits = children.map((child) => once(child, 'exit'))
  for (const child of children) child.kill('SIGKILL')
  await Promise.all(exits)
  const began = performance.now()
  await Promise.all(waits)
  const took = performance.now() - began
  t.ok(took < ttl_ms + 500 + 1000, `the ten were served ${Math.round(took)} ms after four had died`)
  t.same(order, upTo(10))
})

t.test('crash of etcd, loss of all its data, floor from SQL: tokens still rise', async (t) => {
  const locks = server.locks({ ttl_ms: 3000 })
  const tokens: number[] = []
  const once_more = async (above = 0) => {
    const lease = await until(() => locks.tryAcquire('token:1', { above }).catch(() => undefined), { what: 'a lease' })
    tokens.push(lease.token)
    await lease.release()
    return lease.token
  }
  await once_more()
  await once_more()
  await server.crash()
  await once_more()
  const high = (tokens.at(-1) ?? 0) + 10_000_000
  t.ok((await once_more(high)) > high)
  await once_more()
  await server.crash({ empty: true })
  // The clock is behind the raised floor, as after a change of the backend: the floor from SQL lifts the token again.
  t.ok((await once_more(high)) > high)
  await once_more()
  await server.crash({ empty: true })
  const second = server.locks({ ttl_ms: 3000, prefix: 'fresh/' })
  const fresh = await until(() => second.tryAcquire('token:1').catch(() => undefined))
  t.ok(fresh.token > (tokens[0] ?? 0), 'without a floor from SQL, the time of day is above earlier tokens')
  t.ok(fresh.token < Number.MAX_SAFE_INTEGER)
  await fresh.release()
  t.same(
    tokens.slice(0, 5),
    tokens.slice(0, 5).sort((a, b) => a - b),
  )
  await t.rejects(locks.tryAcquire('token:1', { above: Number.MAX_SAFE_INTEGER }), RangeError)
})

t.test('crash of etcd: a held lock survives; one dead server of two: the other is used', async (t) => {
  const dead = 'http://127.0.0.1:9'
  const locks = server.locks({ hosts: [dead, server.url], ttl_ms: 6000 })
  const lease = await locks.acquire('crash:1')
  await (await server.locks({ hosts: [server.url, dead], ttl_ms: 6000 }).acquire('crash:2')).release()
  await server.crash()
  const waiting = await until(() => lease.extend().catch(() => undefined), { what: 'the lease to be renewed' })
  t.same(waiting, { waiting: 0 })
  t.equal(
    await until(() =>
      server
        .locks({ ttl_ms: 6000 })
        .tryAcquire('crash:1')
        .then((got) => got ?? 'busy'),
    ),
    'busy',
  )
  t.same(await lease.release(), { released: true })
})
