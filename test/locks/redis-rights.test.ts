/** The rights of a Redis user for the locks: the line in docs/locks.md is enough, and a missing right is reported. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import type { Locks } from '../../src/shared/locks/api.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createRedlock } from '../../src/shared/locks/redlock/locks.ts'
import { type OwnRedis, startRedis } from '../support/redis-server.ts'
import { startLockServer } from './lock-servers.ts'

const PREFIX = 'shop:'
const LONG_MS = 30_000

/** The words of ACL SETUSER in the guide, for our prefix. */
const RIGHTS = (/ACL SETUSER locks ([^`]*?)```/.exec(readFileSync('docs/locks.md', 'utf8'))?.[1] ?? '')
  .replaceAll('PREFIX', PREFIX)
  .replaceAll('PASSWORD', 'secret')
  .split(/\s+/)
  .filter((word) => word !== '' && word !== '\\')

async function serverFor(t: { teardown(done: () => unknown): void }, rights: string[]): Promise<OwnRedis> {
  const server = await startRedis()
  t.teardown(() => server.stop())
  await server.client().call('ACL', 'SETUSER', 'locks', ...rights)
  return server
}

function clientOf(t: { teardown(done: () => unknown): void }, { port }: OwnRedis): Redis {
  const redis = new Redis({ host: '127.0.0.1', port, username: 'locks', password: 'secret' })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

/** What the server has refused to any user. */
async function refused(admin: Redis): Promise<string[]> {
  const log = (await admin.call('ACL', 'LOG')) as unknown[][]
  return log.map((entry) => `${entry[3]} ${entry[5]} ${entry[7]}`)
}

async function useAll(locks: Locks, permits: boolean): Promise<void> {
  const holder = await locks.acquire('all:1')
  const next = locks.acquire('all:1', { wait_ms: LONG_MS })
  while ((await holder.extend()).waiting < 1) await sleep(5)
  const late = locks.acquire('all:1', { wait_ms: LONG_MS })
  while ((await holder.extend()).waiting < 2) await sleep(5)
  await locks.inspect('all:1')
  await locks.list()
  await holder.release()
  await (await next).release()
  const revoked = await late
  const notified = new Promise((resolve) => revoked.signal.addEventListener('abort', resolve, { once: true }))
  await locks.forceRelease('all:1')
  await notified
  const set = await locks.acquireAll(['all:2', { resource: 'all:3', mode: 'shared' }])
  await locks.acquire('all:2', { wait_ms: 50 }).catch(() => {})
  await set.release()
  const readers = [await locks.acquire('all:4', { mode: 'shared' }), await locks.acquire('all:4', { mode: 'shared' })]
  const writer = locks.acquire('all:4', { wait_ms: LONG_MS })
  while (((await readers[0]?.extend())?.waiting ?? 0) < 1) await sleep(5)
  await locks.releaseMany(readers)
  await (await writer).release()
  if (permits) {
    const one = await locks.acquire('all:5', { mode: 'permit', limit: 1 })
    const two = locks.acquire('all:5', { mode: 'permit', limit: 1, wait_ms: LONG_MS })
    while ((await one.extend()).waiting < 1) await sleep(5)
    await one.release()
    await (await two).release()
  }
  await locks.remote.release((await locks.remote.acquire('all:6')).handle)
}

t.test('rights of the guide: enough on one Redis and on three', async (t) => {
  t.ok(RIGHTS.length > 10)
  const servers = await Promise.all([1, 2, 3].map(() => serverFor(t, RIGHTS)))
  const denied: string[] = []
  const options = { prefix: PREFIX, ttl_ms: 6000, events: { denied: (right: string) => denied.push(right) } }
  const one = createLocks({ redis: clientOf(t, servers[0] as OwnRedis), ...options })
  await useAll(one, true)
  await one.close()
  const quorum = createRedlock({ nodes: servers.map((server) => clientOf(t, server)), ...options })
  await useAll(quorum as Locks, false)
  await quorum.close()
  t.same(denied, [])
  for (const server of servers) t.same(await refused(server.client()), [])
})

t.test('rights of the guide: enough on a Cluster', async (t) => {
  const server = await startLockServer('cluster')
  t.teardown(() => server.stop())
  const admins = server.address.ports.map((port) => new Redis({ host: '127.0.0.1', port }))
  for (const admin of admins) await admin.call('ACL', 'SETUSER', 'locks', ...RIGHTS)
  const seeds = server.address.ports.map((port) => ({ host: '127.0.0.1', port }))
  const redis = new Cluster(seeds, { redisOptions: { username: 'locks', password: 'secret' } })
  t.teardown(() => {
    redis.disconnect()
    for (const admin of admins) admin.disconnect()
  })
  const denied: string[] = []
  const locks = createLocks({ redis, prefix: PREFIX, ttl_ms: 6000, events: { denied: (right) => denied.push(right) } })
  await useAll(locks, true)
  await locks.close()
  t.same(denied, [])
  for (const admin of admins) t.same(await refused(admin), [])
})

for (const kind of ['one Redis', 'three Redis'] as const) {
  t.test(
    `${kind}, user without channels: every operation works, by rechecks, and the right is reported at start`,
    async (t) => {
      const rights = [...RIGHTS.filter((word) => !word.startsWith('&')), 'resetchannels']
      const servers = await Promise.all((kind === 'one Redis' ? [1] : [1, 2, 3]).map(() => serverFor(t, rights)))
      const denied: string[] = []
      const options = { prefix: PREFIX, ttl_ms: 3000, events: { denied: (right: string) => denied.push(right) } }
      const nodes = servers.map((server) => clientOf(t, server))
      const [redis] = nodes as [Redis]
      const locks = (
        kind === 'one Redis' ? createLocks({ redis, ...options }) : createRedlock({ nodes, ...options })
      ) as Locks
      t.teardown(() => locks.close())
      while (!denied.some((right) => right.includes('publish'))) await sleep(5)
      t.ok(
        denied.every((right) => right.includes(`&${PREFIX}lock:wake:*`)),
        denied.join('; '),
      )

      const holder = await locks.acquire('mute:1')
      const next = locks.acquire('mute:1', { wait_ms: LONG_MS })
      while ((await holder.extend()).waiting < 1) await sleep(5)
      t.same(await holder.release(), { released: true }, 'the lock was handed over, and the answer says so')
      const heir = await next
      heir.assertValid()
      const { revoked_holders } = await locks.forceRelease('mute:1')
      t.match(revoked_holders, [{ token: heir.token }])
      await t.rejects(heir.extend(), { code: 'lease_lost' })
      t.same((await locks.inspect('mute:1')).holders, [])
    },
  )
}

t.test('missing right: reported at start, also without a callback', async (t) => {
  const server = await serverFor(t, [...RIGHTS, '-zadd', '-evalsha'])
  const warnings: string[] = []
  const warned = (warning: Error) => warnings.push(warning.message)
  process.on('warning', warned)
  t.teardown(() => process.off('warning', warned))
  const locks = createLocks({ redis: clientOf(t, server), prefix: PREFIX, ttl_ms: 3000 })
  t.teardown(() => locks.close())
  while (!warnings.some((one) => one.includes('+evalsha'))) await sleep(5)
  await server.client().call('ACL', 'SETUSER', 'locks', '+evalsha')
  const others = createLocks({ redis: clientOf(t, server), prefix: PREFIX, ttl_ms: 3000 })
  t.teardown(() => others.close())
  while (!warnings.some((one) => one.includes('+zadd'))) await sleep(5)
})
