/** A sale while Redis dies: leases and jobs are lost, acknowledged purchases are not. */
import { Redis } from 'ioredis'
import t from 'tap'
import { openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { startProxy } from '../support/tcp-proxy.ts'

async function flush(url: string): Promise<void> {
  const redis = new Redis(url)
  await redis.flushall()
  redis.disconnect()
}

t.test('FLUSHALL during a sale: every acknowledged purchase is settled', async (t) => {
  const world = await openWorld(t)
  const redis = await world.ownRedis()
  const env = { ...TTL, REDIS_URL: redis.url }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const first = rush(shop, ref, 250)
  await flush(redis.url)
  const second = rush(shop, ref, 250)
  await flush(redis.url)
  await settled(t, shop, ref, [...(await first), ...(await second)], 100)
})

t.test(
  'Redis frozen for 10 s: purchases are accepted, /readyz reports it, and the queue settles afterwards',
  async (t) => {
    const world = await openWorld(t)
    const redis = await world.ownRedis()
    const env = { ...TTL, REDIS_URL: redis.url }
    const [api, worker] = await Promise.all([world.startApi(env), world.startWorker(env)])
    const shop = openShop(t, [api.url], world.env.DATABASE_URL)
    const ref = await shop.units('product', 100)
    await redis.stop('SIGSTOP')
    const since = performance.now()
    const acknowledged = await rush(shop, ref, 150)
    t.equal(acknowledged.length, 150, 'POST answers 202')
    for (const url of [api.url, worker.url]) {
      const ready = await fetch(`${url}/readyz`)
      t.equal(ready.status, 503)
      t.match(await ready.json(), { checks: { redis: { status: 'down' }, postgres: { status: 'up' } } })
    }
    // A restock needs a lease: its caller gets 503, because Redis does not answer, and not 500.
    const body = JSON.stringify({ delta: 1, reason: 'delivery' })
    const headers = { 'content-type': 'application/json' }
    const path = `/api/resources/${ref.replace(':', '/')}/restock`
    const restock = await fetch(`${api.url}${path}`, { method: 'POST', headers, body })
    t.match(restock, { status: 503 })
    t.ok(restock.headers.get('retry-after'))
    await new Promise((resolve) => setTimeout(resolve, 10_000 - (performance.now() - since)))
    t.equal(await shop.queued(), 150, 'nothing was settled without leases')
    await redis.stop('SIGCONT')
    await settled(t, shop, ref, acknowledged, 100)
  },
)

t.test('Redis restarted empty: the queue goes on', async (t) => {
  const world = await openWorld(t)
  const redis = await world.ownRedis()
  const env = { ...TTL, REDIS_URL: redis.url }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const first = rush(shop, ref, 100)
  await redis.restart({ empty: true })
  await settled(t, shop, ref, [...(await first), ...(await rush(shop, ref, 100))], 100)
})

t.test('connections reset while they resubscribe: no process ends', async (t) => {
  const world = await openWorld(t)
  const address = new URL(world.env.REDIS_URL)
  let subscribed = 0
  let resets = 0
  let hostile = false
  const proxy = await startProxy(Number(address.port), (link, chunk) => {
    if (!/\bsubscribe\b/i.test(chunk)) return
    subscribed += 1
    if (!hostile) return
    resets += 1
    link.reset()
  })
  t.teardown(() => proxy.stop())
  address.port = String(proxy.port)
  const api = await world.startApi({ ...TTL, REDIS_URL: address.href, LOG_LEVEL: 'fatal' })
  await until(() => subscribed > 0, { what: 'the first subscription' })
  // Redis gets this request after the subscription, so it has answered the subscription first.
  t.equal((await fetch(`${api.url}/readyz`)).status, 200)
  hostile = true
  for (const link of proxy.links) link.reset()
  await until(() => resets > 2, { what: 'three subscriptions to be cut' })
  t.equal((await fetch(`${api.url}/livez`)).status, 200)
  hostile = false
  await until(async () => (await fetch(`${api.url}/readyz`)).status === 200, { what: 'readyz to be well' })
})
