/**
 * The fleet figures that workers export: queues and invariants. One worker reads them, all export them, and old figures
 * disappear.
 */
import { Redis } from 'ioredis'
import t from 'tap'
import { openDb } from '../../src/shared/db/client.ts'
import { readFleetStatus } from '../../src/shared/fleet-status.ts'
import { blockedQueues, verify } from '../../src/shared/invariants.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { pollFleetOnce } from '../../src/workers/maintenance/fleet-monitor.ts'
import { openShop } from '../support/api-client.ts'
import { openWorld } from '../support/environment.ts'

const world = await openWorld(t)
const api = await world.startApi()
const log = createLog('silent', 'test')
const prefix = world.env.REDIS_PREFIX

t.test('queue that does not move: read by one worker, exported by all, and gone when Redis is gone', async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const redis = new Redis(world.env.REDIS_URL, {
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    retryStrategy: null,
  })
  t.teardown(() => redis.disconnect())
  const db = openDb(world.env.DATABASE_URL, { max: 1, name: 'test-watch', idle_in_transaction_ms: 60_000 })
  t.teardown(() => db.close())
  await new Promise((resolve) => redis.once('ready', resolve))
  const locks = createLocks({ redis, prefix, ttl_ms: 60_000 })
  t.teardown(() => locks.close())
  const worker = (client = db.client) => ({
    client,
    locks,
    redis,
    prefix,
    metrics: createMetrics(),
    log,
  })
  const first = worker()
  // A client without methods: a worker that queried the database would fail.
  const second = worker({} as typeof db.client)
  const shown = async ({ metrics }: typeof first) => {
    const page = await metrics.registry.metrics()
    const value = (name: string) => new RegExp(`^${name} (.+)$`, 'm').exec(page)?.[1]
    return [
      value('holdfast_queue_depth'),
      value('holdfast_queue_oldest_age_seconds'),
      value('holdfast_invariant_violations'),
    ]
  }
  t.same(await shown(first), [undefined, undefined, undefined], 'no figure is exported before the first poll')

  const ref = await shop.units('product', 5)
  const bought = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
  await shop.client`UPDATE purchases SET created_at = now() - interval '2 minutes' WHERE id = ${bought.body.id}`

  await pollFleetOnce(first)
  const [rows, oldest, broken] = await shown(first)
  t.equal(rows, '1')
  t.ok(Number(oldest) >= 120 && Number(oldest) < 180, `${oldest} s`)
  t.equal(broken, '1')
  const { verification } = await readFleetStatus(redis, prefix)
  t.match(verification?.broken, [{ invariant: /no queue with a queued row/, offenders: [bought.body.id] }])

  await pollFleetOnce(second)
  t.same(await shown(second), [rows, oldest, broken], 'the other worker exports the same figures, without a query')

  const keys = await redis.keys(`${prefix}watched:*`)
  for (const key of keys) t.ok((await redis.pttl(key)) > 0, `${key} ends by itself`)
  await redis.unlink(...keys)
  await pollFleetOnce(second)
  t.same(await shown(second), [undefined, undefined, undefined], 'a poll that fails exports no figure')

  await shop.client`UPDATE purchases SET created_at = now() WHERE id = ${bought.body.id}`
  await redis.unlink(...(await redis.keys(`${prefix}watched:*`)))
  await pollFleetOnce(first)
  t.same(
    (await shown(first)).filter((_, i) => i !== 1),
    ['1', '0'],
    'a queue whose row is new breaks no invariant',
  )

  redis.disconnect()
  await pollFleetOnce(first)
  t.same(await shown(first), [undefined, undefined, undefined], 'without Redis no figure is exported')
})

t.test('queue that does not move while its lease is held: named with the holder, and no other queue', async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const redis = new Redis(world.env.REDIS_URL)
  const locks = createLocks({ redis, prefix, ttl_ms: 60_000, instance: 'host:1' })
  t.teardown(async () => {
    await locks.close()
    redis.disconnect()
  })
  const [ref, other] = [await shop.units('product', 5), await shop.units('product', 5)]
  const buy = async (resource: string) =>
    (await shop.buy({ customer: 'ada', lines: [{ resource, units: 1 }] })).body.id as string
  const [first, second] = [await buy(ref), await buy(ref)]
  await buy(other)
  const age = (seconds: number) =>
    shop.client`UPDATE purchases SET created_at = now() - ${seconds} * interval '1 s' WHERE status = 'queued'`
  const lease = await locks.acquire(ref, { job: 'job 7' })
  t.same(await blockedQueues(shop.client, locks), [], 'a queue whose rows are new is not blocked')
  await age(11)
  t.same(await blockedQueues(shop.client, locks), [`${ref} (held by host:1 job 7)`], 'the other queue has no holder')
  const findings = await verify(shop.client, { locks })
  const blocked = findings.find(({ invariant }) => /no queue is blocked/.test(invariant))
  t.same(blocked?.offenders, [`${ref} (held by host:1 job 7)`])

  const metrics = createMetrics()
  await redis.unlink(...(await redis.keys(`${prefix}watched:*`)))
  await pollFleetOnce({ client: shop.client, locks, redis, prefix, metrics, log })
  t.match(await metrics.registry.metrics(), /^holdfast_queues_blocked 1$/m)

  await shop.client`UPDATE purchases SET status = 'rejected', settled_at = now() WHERE id = ${first}`
  t.same(await blockedQueues(shop.client, locks), [], 'a queue that settles rows is long, not blocked')
  await shop.client`UPDATE purchases SET settled_at = now() - interval '11 s' WHERE id = ${first}`
  t.equal((await blockedQueues(shop.client, locks)).length, 1)
  await lease.release()
  t.same(await blockedQueues(shop.client, locks), [], 'a queue whose lease has no holder is late, not blocked')
  await shop.client`UPDATE purchases SET status = 'cancelled', settled_at = now() WHERE id = ${second}`
})
