/** Nudges that APIs hold back while a worker has published the queue as hot. */
import { Redis } from 'ioredis'
import t from 'tap'
import { openQueue, QUEUES } from '../../src/shared/jobs/bullmq.ts'
import type { NudgeJob } from '../../src/shared/jobs/nudges.ts'
import { formatHotQueue, hotQueueChannel } from '../../src/shared/redis.ts'
import { openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

/**
 * Milliseconds without a message after which an API may nudge the queue. If the machine was later than this, the test
 * cannot show anything.
 */
const LATE_MS = 300

t.test('purchases of a hot queue: add no job until its worker leaves or falls silent', async (t) => {
  const world = await openWorld(t)
  const { REDIS_URL, REDIS_PREFIX, DATABASE_URL } = world.env
  const api = await world.startApi()
  const shop = openShop(t, [api.url], DATABASE_URL)
  const redis = new Redis(REDIS_URL)
  const queue = openQueue<NudgeJob>(QUEUES.nudges, redis, REDIS_PREFIX)
  t.teardown(async () => {
    await queue.close()
    redis.disconnect()
  })
  const said = (resource: string, hot: boolean) =>
    redis.publish(hotQueueChannel(REDIS_PREFIX), formatHotQueue(resource, hot))
  const nudged = async () => (await queue.getWaiting()).flatMap((job) => job.data.resources).sort()
  const buy = async (resource: string) => {
    t.equal((await shop.buy({ customer: 'c', lines: [{ resource, units: 1 }] })).status, 202)
  }

  const [left, silent, cold] = [
    await shop.units('product', 50),
    await shop.units('product', 50),
    await shop.units('product', 50),
  ]
  await until(async () => (await said(left, true)) > 0, { what: 'the API to listen' })
  let last = performance.now()
  let late_ms = 0
  const flowing = setInterval(() => {
    late_ms = Math.max(late_ms, performance.now() - last)
    last = performance.now()
    said(left, true).catch(() => {})
  }, 20)
  t.teardown(() => clearInterval(flowing))
  for (let n = 0; n < 20; n++) await buy(left)
  await buy(cold)
  await until(async () => (await nudged()).length > 0, { what: 'the first job' })
  if (late_ms < LATE_MS) t.same(await nudged(), [cold], 'the job names the queue that no worker has reported as hot')
  clearInterval(flowing)
  await said(left, false)
  await until(async () => (await nudged()).length > 1, { what: 'the job of the line that was left' })
  t.same(await nudged(), [cold, left].sort(), 'which is one for all')
  await buy(left)
  await said(silent, true)
  await buy(silent)
  await until(async () => (await nudged()).includes(silent), { what: 'the job of the queue whose worker is silent' })
})

t.test('worker of a hot queue killed: the queued purchases are settled', async (t) => {
  const world = await openWorld(t)
  const [api, second, victim] = await Promise.all([world.startApi(TTL), world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url, second.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const redis = new Redis(world.env.REDIS_URL)
  t.teardown(async () => redis.disconnect())
  await redis.subscribe(hotQueueChannel(world.env.REDIS_PREFIX))
  const hot = new Promise<void>((resolve) => {
    redis.on('message', (_channel, message) => {
      if (message === formatHotQueue(ref, true)) resolve()
    })
  })
  const acknowledged = rush(shop, ref, 400)
  await hot
  victim.kill('SIGKILL')
  await victim.exited
  await world.startWorker(TTL)
  await settled(t, shop, ref, await acknowledged, 100)
})
