import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import { type Lease, LeaseLostError, LockBusyError, type Locks } from '../../src/shared/locks/api.ts'
import { script } from '../../src/shared/locks/redis/script.ts'
import { createRedlockBackend } from '../../src/shared/locks/redlock/backend.ts'
import { createRedlock } from '../../src/shared/locks/redlock/locks.ts'
import { createVoter } from '../../src/shared/locks/redlock/voter.ts'
import { type OwnRedis, startRedis } from '../support/redis-server.ts'
import { startProxy } from '../support/tcp-proxy.ts'

type Scope = { teardown(done: () => unknown): void }

/** Fails at once while a server is away. */
const AT_ONCE = { enableOfflineQueue: false, autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0 }

async function serversOf(t: Scope, count = 3): Promise<OwnRedis[]> {
  const servers = await Promise.all(Array.from({ length: count }, () => startRedis()))
  t.teardown(() => Promise.all(servers.map((server) => server.stop())))
  return servers
}

/** Locks of one process, with its own connections to each server. */
async function locksOn(t: Scope, servers: readonly OwnRedis[], ttl_ms = 2000, max_ttl_ms = ttl_ms) {
  const nodes = servers.map((server) => server.client(AT_ONCE))
  await Promise.all(nodes.map((node) => once(node, 'ready')))
  const locks = createRedlock({ nodes, ttl_ms, max_ttl_ms })
  t.teardown(() => locks.close())
  return locks
}

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await sleep(2)
}

const waitersOf = async (locks: Locks, resource: string) => (await locks.inspect(resource)).waiters.length

/** A quorum is enough for a lease; the heartbeat repairs the other servers. */
async function everywhere(servers: readonly OwnRedis[], { resource, token }: Lease): Promise<void> {
  for (const server of servers) {
    const client = server.client()
    await until(async () => (await client.get(`lock:{${resource}}`))?.includes(` ${token} `) ?? false)
  }
}

/** What a resource has on a server except its last token. */
async function leftOn(redis: Redis, resource: string): Promise<string[]> {
  const keys = await redis.keys(`lock:{${resource}}*`)
  return keys.filter((key) => !key.endsWith(':fence'))
}

const shared = await serversOf(t)

t.test('permits on a quorum do not typecheck; an even number of servers is refused', async (t) => {
  const locks = await locksOn(t, shared)
  // @ts-expect-error a quorum has no permits
  await t.rejects(locks.acquire('types:1', { mode: 'permit', limit: 2 }), RangeError)
  const [one, two, three] = shared.map((server) => server.client(AT_ONCE)) as [Redis, Redis, Redis]
  for (const nodes of [[], [one], [one, two], [one, two, three, one], [one, two, two]]) {
    t.throws(() => createRedlock({ nodes, ttl_ms: 1000 }), RangeError, `${nodes.length} servers`)
  }
  t.throws(() => createRedlock({ nodes: [one, two, three], ttl_ms: 1000, max_ttl_ms: 500 }), RangeError)
  await t.rejects(locks.acquire('types:1', { ttl_ms: 60_000 }), RangeError, 'longer than a voter stays out of votes')
})

t.test('one of three servers frozen: locks work; another one killed: no quorum', async (t) => {
  const servers = await serversOf(t)
  const [first, second] = servers as [OwnRedis, OwnRedis, OwnRedis]
  const [locks, hasty] = [await locksOn(t, servers, 3000), await locksOn(t, servers, 1000, 3000)]
  const early = await locks.acquire('lost:1')
  first.pause()
  const started = performance.now()
  const late = await locks.acquire('lost:2')
  await late.extend()
  t.same(await late.release(), { released: true })
  t.ok(performance.now() - started < 1000, 'a frozen server costs one timeout at most')
  await early.extend()
  const waiter = locks.acquire('lost:1', { wait_ms: 10_000 })
  await until(async () => (await early.extend()).waiting === 1)
  await early.release()
  const handed = await waiter
  t.ok(handed.token > early.token && late.token > 0)

  second.kill()
  for (const wait_ms of [0, 60_000]) {
    const sent_at = performance.now()
    // ETIMEDOUT is the core's own limit, which comes first if the event loop was blocked.
    await t.rejects(hasty.acquire('lost:3', { wait_ms }), { code: /^(no_quorum|ETIMEDOUT)$/ })
    t.ok(performance.now() - sent_at < 1000, `refused after ${Math.round(performance.now() - sent_at)} ms`)
  }
  await t.rejects(locks.inspect('lost:1'), { code: 'no_quorum' })
  first.resume()
})

t.test('two servers restarted empty under a lease: no second holder, and later they vote again', async (t) => {
  const servers = await serversOf(t)
  const [first, second, third] = servers as [OwnRedis, OwnRedis, OwnRedis]
  const [locks, others] = [await locksOn(t, servers, 1200), await locksOn(t, servers, 1200)]
  const lease = await locks.acquire('empty:1')
  await everywhere(servers, lease)
  await Promise.all([second.restart(), third.restart()])
  const restarted = performance.now()
  let refused = 0
  let repaired_ms = 0
  for (let voted = false; !voted; ) {
    const busy = await others.acquire('empty:1').then(
      () => t.fail(`a second holder, and the first was ${lease.signal.aborted ? '' : 'not '}notified`),
      (error) => error,
    )
    refused += 1
    const both = await Promise.all([second, third].map((server) => server.client().get('lock:{empty:1}')))
    if (repaired_ms === 0 && both.every((value) => value?.includes(` ${lease.token} `))) {
      repaired_ms = performance.now() - restarted
    }
    voted = busy instanceof LockBusyError
    if (!voted) t.match(busy, { code: 'no_quorum' })
    await sleep(20)
  }
  t.ok(performance.now() - restarted > 1100, 'they stay out of votes for the longest TTL')
  t.ok(repaired_ms > 0 && repaired_ms < 1000, `a renewal repaired them after ${Math.round(repaired_ms)} ms`)
  t.ok(refused > 1)
  lease.assertValid()
  first.kill()
  await lease.extend()
  t.same(await lease.release(), { released: true }, 'the repaired servers count')
  await (await others.acquire('empty:1')).release()
})

t.test('FLUSHALL on two servers: no second holder', async (t) => {
  const servers = await serversOf(t)
  const [first, second] = servers as [OwnRedis, OwnRedis, OwnRedis]
  const [locks, others] = [await locksOn(t, servers, 1000), await locksOn(t, servers, 1000)]
  const lease = await locks.acquire('flush:1')
  await everywhere(servers, lease)
  await Promise.all([first.client().flushall(), second.client().flushall()])
  await t.rejects(others.acquire('flush:1'), { code: 'no_quorum' })
  await lease.extend()
  t.equal((await locks.inspect('flush:1')).holders[0]?.token, lease.token)
})

t.test('split votes of two and of three: go to the first arrival', async (t) => {
  const servers = await serversOf(t)
  const requester = { waiter_id: 1, owner: 'o', mode: 'exclusive', limit: 0, ttl_ms: 2000 } as const
  const own = () => servers.map((server) => server.client(AT_ONCE))
  const rivals = [1, 2, 3].map(() => createRedlockBackend(own(), { prefix: '', ttl_ms: 2000, max_ttl_ms: 2000 }))
  const voters = own().map((node) => createVoter(node, '', 2000))
  await (await locksOn(t, servers)).withLease('split:0', {}, async () => {})
  async function decide(split: number[]): Promise<void> {
    const resource = `split:${split.join('')}`
    // Ids are made in the order of arrival; then the votes are assigned crosswise, and the last id attempts first.
    const ids = split.map((_, i) => rivals[i]?.newOwnerId(requester) ?? '')
    await Promise.all(split.map((rival, i) => voters[i]?.vote(resource, ids[rival] ?? '', 1000, 1000)))
    const answers = ids.map(async (id, i) => {
      const attempt = { resource, id, mode: 'exclusive', limit: 0, ttl_ms: 2000, above: 0 } as const
      return await rivals[i]?.attempt({ ...attempt, slot_ttl_ms: 1000, ticket: 0 })
    })
    const granted = (await Promise.all(answers.reverse())).reverse().map((answer) => answer?.granted)
    t.same(granted, [true, false, false].slice(0, split.length), split.join(' '))
  }
  for (const split of [
    [2, 0, 1],
    [1, 2, 0],
    [2, 1, 0],
  ])
    await decide(split)
  servers[2]?.kill()
  for (const split of [
    [1, 0],
    [0, 1],
  ])
    await decide(split)
})

t.test('three rivals confirmed at once by one server each: all step back, and the first gets the lock', async (t) => {
  const requester = { waiter_id: 1, owner: 'o', mode: 'exclusive', limit: 0, ttl_ms: 2000 } as const
  const own = () => shared.map((server) => server.client(AT_ONCE))
  const rivals = [1, 2, 3].map(() => createRedlockBackend(own(), { prefix: '', ttl_ms: 2000, max_ttl_ms: 2000 }))
  const direct = own()
  await Promise.all(direct.map((node) => once(node, 'ready')))
  const voters = direct.map((node) => createVoter(node, '', 2000))
  await (await locksOn(t, shared)).withLease('locked:1', {}, async () => {})
  for (const slot_ttl_ms of [1000, 0]) {
    const resource = `locked:${slot_ttl_ms}`
    const ids = rivals.map((rival) => rival.newOwnerId(requester))
    const token = Math.floor(Date.now() * 1000) + 500_000
    const given = await Promise.all(
      voters.map((voter, i) => voter.vote(resource, ids[i] ?? '', 1000, slot_ttl_ms, { token, ttl_ms: 2000 })),
    )
    t.ok(given.every(({ kind }) => kind === 'lock'))
    const started = performance.now()
    const attempt = (i: number, ticket = 0) =>
      rivals[i]?.attempt({ ...requester, resource, id: ids[i] ?? '', above: 0, slot_ttl_ms, ticket })
    const all = await Promise.all([2, 1, 0].map((i) => attempt(i)))
    // In the queue, the first gets the votes of the others as they step back. Without waiting it may be refused
    // together with the others, but a later try finds the votes free.
    let first = all.find((answer) => answer?.granted)
    while (!first && performance.now() - started < 10_000) {
      const answer = await attempt(0, slot_ttl_ms > 0 ? 1 : 0)
      if (answer?.granted) first = answer
    }
    t.ok(first?.granted && first.token > token, `after ${Math.round(performance.now() - started)} ms`)
    t.ok(all.filter((answer) => answer?.granted).length <= 1)
    await Promise.all(rivals.map((rival, i) => rival.cancel(resource, ids[i] ?? '')))
    for (const server of shared) t.same(await leftOn(server.client(), resource), [])
  }
})

t.test('twenty waiters of two processes: served in the order of arrival, by messages', async (t) => {
  const [locks, others] = [await locksOn(t, shared, 6000), await locksOn(t, shared, 6000)]
  const holder = await locks.acquire('line:1')
  const served: number[] = []
  const tokens: number[] = [holder.token]
  const waits: Promise<unknown>[] = []
  for (let n = 0; n < 20; n++) {
    const one = (n % 2 === 0 ? locks : others).withLease('line:1', { wait_ms: 30_000 }, async (lease) => {
      served.push(n)
      tokens.push(lease.token)
    })
    waits.push(one)
    if (n < 2) await until(async () => (await waitersOf(locks, 'line:1')) === n + 1)
  }
  await until(async () => (await waitersOf(locks, 'line:1')) === 20)
  const started = performance.now()
  await holder.release()
  await Promise.all(waits)
  // Each recheck is due after a second.
  t.ok(
    performance.now() - started < 4000,
    `all were served ${Math.round(performance.now() - started)} ms after the release`,
  )
  t.same(
    served,
    Array.from({ length: 20 }, (_, n) => n),
  )
  t.same(tokens, [...new Set(tokens)].sort(), 'tokens rise')
})

t.test('one server after the other fails and returns: tokens rise strictly', async (t) => {
  const servers = await serversOf(t)
  const locks = await locksOn(t, servers, 1500)
  const fences = servers.map((server) => server.client())
  let last = 0
  let inside = 0
  async function some(): Promise<void> {
    for (let n = 0; n < 5; n++) {
      await locks.withLease('tokens:1', { wait_ms: 5000 }, async ({ token }) => {
        inside += 1
        t.ok(inside === 1 && token > last, `${token}`)
        last = token
        await sleep(1)
        inside -= 1
      })
    }
  }
  // The clocks of two servers were an hour ahead once: tokens continue above what was confirmed then.
  await some()
  for (const fence of fences.slice(0, 2)) await fence.set('lock:{tokens:1}:fence', String(last + 3_600_000_000))
  last += 3_600_000_000
  for (const server of servers) {
    await Promise.all([some(), some()])
    server.pause()
    await Promise.all([some(), some()])
    server.resume()
  }
  servers[0]?.kill()
  await Promise.all([some(), some()])
  await servers[0]?.restart()
  await Promise.all([some(), some()])
})

t.test('answer to each operation in turn lost with its connection: nothing is left behind', async (t) => {
  // Each script is known to the servers: the client sends its hash.
  const warm = await locksOn(t, shared)
  await warm.withLease('answers:0', {}, (lease) => lease.extend())
  const verbs = ['vote', 'confirm', 'renew', 'withdraw'] as const
  for (const lossy of [1, 3]) {
    for (const lose of verbs) {
      const resource = `answers:${lossy}${lose}`
      let seen = 0
      const fast = { vote: ['redlock/vote-fast'], withdraw: ['redlock/withdraw-fast'], confirm: [], renew: [] } as const
      const { sha } = script(...fast[lose], 'redis/prelude', 'redlock/voter', `redlock/${lose}`)
      // An exclusive request without rivals needs no second round.
      const mode = lose === 'confirm' ? 'shared' : 'exclusive'
      const proxies = await Promise.all(
        shared.slice(0, lossy).map((server) => {
          let lost = false
          return startProxy(server.port, (link, chunk) => {
            if (lost || !chunk.includes(sha)) return
            lost = true
            seen += 1
            link.mute()
            setTimeout(link.cut, 10)
          })
        }),
      )
      t.teardown(() => Promise.all(proxies.map((proxy) => proxy.stop())))
      const nodes = shared.map((server, i) => server.client({ ...AT_ONCE, port: proxies[i]?.port ?? server.port }))
      await Promise.all(nodes.map((node) => once(node, 'ready')))
      const locks = createRedlock({ nodes, ttl_ms: 3000, max_ttl_ms: 3000 })
      let lease: Lease | undefined
      for (let tries = 0; !lease && tries < 50; tries++) {
        lease = await locks.tryAcquire(resource, { mode }).catch(() => undefined)
        if (!lease) await sleep(20)
      }
      if (!lease) throw new Error(`${resource} was never free again`)
      await lease.extend()
      lease.assertValid()
      await lease.release()
      await until(() => seen === lossy)
      t.pass(`${lossy} answers to ${lose} were lost`)
      const free_at = performance.now()
      for (const server of shared) {
        const direct = server.client()
        await until(async () => (await leftOn(direct, resource)).length === 0)
      }
      t.ok(performance.now() - free_at < 1500, 'gone long before its TTL')
      await locks.close()
    }
  }
})

t.test('waiting writer on a quorum: keeps new readers out, and gets the lock after the last one', async (t) => {
  const [locks, others] = [await locksOn(t, shared), await locksOn(t, shared)]
  const readers = [
    await locks.acquire('read:1', { mode: 'shared' }),
    await others.acquire('read:1', { mode: 'shared' }),
  ]
  const writer = others.acquire('read:1', { wait_ms: 10_000 })
  await until(async () => (await waitersOf(locks, 'read:1')) === 1)
  t.equal(await locks.tryAcquire('read:1', { mode: 'shared' }), undefined)
  const behind = [1, 2].map(() => locks.acquire('read:1', { mode: 'shared', wait_ms: 10_000 }))
  await until(async () => (await waitersOf(locks, 'read:1')) === 3)
  t.equal((await locks.inspect('read:1')).holders.length, 2)
  for (const reader of readers) await reader.release()
  const wrote = await writer
  t.same(
    (await locks.inspect('read:1')).holders.map(({ mode }) => mode),
    ['exclusive'],
  )
  await wrote.release()
  const both = await Promise.all(behind)
  t.equal(new Set([...readers, wrote, ...both].map(({ token }) => token)).size, 5)
  t.ok(both.every(({ token }) => token > wrote.token))
  await locks.releaseMany(both)
  for (const server of shared) t.same(await leftOn(server.client(), 'read:1'), [])
})

t.test('forced release: reaches every server, notifies the holder, and raises the token', async (t) => {
  const [locks, others] = [await locksOn(t, shared), await locksOn(t, shared)]
  const lease = await locks.acquire('force:1', { owner: 'revoked' })
  const waiter = locks.acquire('force:1', { wait_ms: 10_000 })
  await until(async () => (await waitersOf(others, 'force:1')) === 1)
  t.same((await others.list()).filter(({ resource }) => resource === 'force:1').length, 1)
  const started = performance.now()
  const aborted = lease.signal.aborted ? undefined : once(lease.signal, 'abort')
  const { token, revoked_holders } = await others.forceRelease('force:1', { above: lease.token + 50 })
  await aborted
  t.ok(performance.now() - started < 1000)
  t.match(revoked_holders, [{ owner: 'revoked', token: lease.token }])
  t.ok(token >= lease.token + 50 && (await waiter).token > token)
  t.match(await lease.release(), { released: false })
  await (await waiter).release()
})

t.test('remote lease: another process renews and releases it by its handle', async (t) => {
  const [locks, others] = [await locksOn(t, shared), await locksOn(t, shared)]
  const { handle, token } = await locks.remote.acquire('remote:1')
  t.equal((await others.remote.extend(handle)).token, token)
  t.same(await others.remote.release(handle), { released: true })
  await t.rejects(locks.remote.extend(handle), LeaseLostError)
})
