/** Locks on the servers that LOCK_BACKEND and LOCK_REDIS_URLS name, opened as API and workers open them. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import t from 'tap'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { readConfig } from '../../src/shared/config.ts'
import { createLog } from '../../src/shared/log.ts'
import { openLocks } from '../../src/shared/open-locks.ts'
import { openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'
import { startRedis } from '../support/redis-server.ts'
import { startLockServer } from './lock-servers.ts'

type Scope = { teardown(done: () => unknown): void }

async function redisOf(t: Scope, args: string[] = []) {
  const server = await startRedis(args)
  t.teardown(() => server.stop())
  return server
}

/** Opens the locks as a process with an unreachable REDIS_URL does, so that they cannot use it. */
async function opened(t: Scope, env: Record<string, string>) {
  const config = readConfig({ DATABASE_URL: 'postgres://nowhere', REDIS_URL: 'redis://127.0.0.1:1', ...TTL, ...env })
  const redis = new Redis(config.redis_url, { lazyConnect: true })
  const { locks, checks, close } = await openLocks({ config, redis, log: createLog('silent', 'test'), events: {} })
  t.teardown(close)
  await until(
    () =>
      checks.locks?.().then(
        () => true,
        () => false,
      ),
    { what: 'the lock servers to be reached' },
  )
  return locks
}

t.test('sale on three lock servers: continues when one is killed, stops when two are', async (t) => {
  const world = await openWorld(t)
  const servers = await Promise.all([1, 2, 3].map(() => redisOf(t)))
  const urls = servers.map(({ port }) => `redis://127.0.0.1:${port}`).join()
  const env = { ...TTL, LOCK_REDIS_URLS: urls }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const call = contract(api.url)
  const ask = { resource: 'quorum:1', mode: 'exclusive', ttl_ms: 30_000, owner: 'ada lovelace' }
  const lease = await call('POST', '/api/leases', { body: ask })
  t.equal(lease.status, 201)
  t.equal((await call('POST', '/api/leases', { body: ask })).status, 409)
  t.match((await call('POST', '/api/leases', { body: { ...ask, ttl_ms: 60_001 } })).body.errors, [{ field: 'ttl_ms' }])
  const permit = await call('POST', '/api/leases', { body: { ...ask, mode: 'permit', limit: 2 } })
  t.match([permit.status, permit.body.code], [422, 'mode_unavailable'], 'a quorum has no permits')
  const ref = await shop.units('product', 100)
  const first = rush(shop, ref, 60)
  servers[0]?.kill()
  const second = rush(shop, ref, 60)
  await settled(t, shop, ref, [...(await first), ...(await second)], 100)
  const before = await servers[1]?.client().get(`${world.env.REDIS_PREFIX}lock:{${ref}}:fence`)
  t.ok(Number(before) > 0, 'the leases were there')
  t.equal((await call('PUT', `/api/leases/${lease.body.lease_id}`)).status, 200, 'renewed on two of three')
  t.match((await call('GET', '/api/locks/quorum:1')).body.holders, [{ owner: 'ada lovelace' }])
  t.equal((await call('DELETE', '/api/locks/quorum:1')).status, 200)
  t.equal((await call('PUT', `/api/leases/${lease.body.lease_id}`)).status, 410)

  servers[1]?.kill()
  const ready = await until(async () => {
    const answer = await fetch(`${api.url}/readyz`)
    const body = (await answer.json()) as { checks: Record<string, { status: string }> }
    return answer.status === 503 ? body : undefined
  })
  t.match(ready.checks, { locks: { status: 'down' }, redis: { status: 'up' } })
})

t.test('LOCK_BACKEND=redis on a Cluster, by two of its seeds', async (t) => {
  const server = await startLockServer('cluster')
  t.teardown(() => server.stop())
  const seeds = server.address.ports.slice(1).map((port) => `redis+cluster://127.0.0.1:${port}`)
  const locks = await opened(t, { LOCK_BACKEND: 'redis', LOCK_REDIS_URLS: seeds.join() })
  const resources = ['a:1', 'b:2', 'c:3', 'd:4', 'e:5', 'f:6']
  await using set = await locks.acquireAll(resources)
  t.equal(set.leases.size, 6)
  t.same(await locks.tryAcquireMany(resources), new Map())
})

t.test('LOCK_BACKEND=redis by Sentinel, LOCK_MIN_REPLICAS=1: without the replica the lock is released', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-sentinel-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const main = await redisOf(t, ['--dir', folder, '--repl-diskless-sync-delay', '0'])
  const replica = await redisOf(t, ['--dir', folder, '--replicaof', '127.0.0.1', String(main.port)])
  const port = await anyFreePort()
  const file = join(folder, 'sentinel.conf')
  writeFileSync(file, `port ${port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 ${main.port} 1\n`)
  const sentinel = spawn('redis-server', [file, '--sentinel'], { stdio: 'ignore' })
  t.teardown(() => sentinel.kill('SIGKILL'))
  const synced = async () => /master_link_status:up/.test(await replica.client().info('replication'))
  await until(synced, { what: 'the replica to follow' })

  const servers = { LOCK_BACKEND: 'redis', LOCK_REDIS_URLS: `redis+sentinel://127.0.0.1:${port}/shop` }
  const locks = await opened(t, { ...servers, LOCK_MIN_REPLICAS: '1' })
  // A busy machine may keep the replica from answering in a tenth of the TTL.
  const lease = await until(() => locks.acquire('sentinel:1').catch(() => undefined), { what: 'a replicated lock' })
  t.match(await replica.client().get('lock:{sentinel:1}'), new RegExp(` ${lease.token} `))
  replica.kill()
  await t.rejects(locks.acquire('sentinel:2'), { code: 'not_replicated' })
  t.equal(await main.client().exists('lock:{sentinel:2}'), 0)
})

t.test('LOCK_MIN_REPLICAS on REDIS_URL, no replica: WAIT delays no other command of REDIS_URL', async (t) => {
  const server = await redisOf(t)
  const redis_url = `redis://127.0.0.1:${server.port}`
  const replicas = { LOCK_MIN_REPLICAS: '1', LEASE_TTL_MS: '10000' }
  const config = readConfig({ DATABASE_URL: 'postgres://nowhere', REDIS_URL: redis_url, ...replicas })
  const redis = server.client()
  const { locks, checks, close } = await openLocks({ config, redis, log: createLog('silent', 'test'), events: {} })
  t.teardown(close)
  t.same(checks, {}, 'the check of REDIS_URL covers the locks')
  const refused = t.rejects(locks.acquire('wait:1'), { code: 'not_replicated' })
  const observer = server.client()
  const waiting = async () => /blocked_clients:1\b/.test(await observer.info('clients'))
  await until(waiting, { what: 'WAIT to be under way' })
  await redis.ping()
  t.ok(await waiting(), 'the answer came before WAIT ended')
  await refused
})
