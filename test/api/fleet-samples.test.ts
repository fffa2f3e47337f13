/** The history of figures: what a sample says, that an outage of Postgres leaves no gap, and that a day of samples is kept. */
import { Redis } from 'ioredis'
import t from 'tap'
import type { Collected } from '../../src/api/dashboard/collector.ts'
import type { FleetProcess } from '../../src/api/dashboard/facts.ts'
import { readSamples, sampleOnce, settledSince } from '../../src/api/dashboard/fleet-samples.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { createLog } from '../../src/shared/log.ts'
import { SECONDS } from '../../src/shared/metrics.ts'
import { openWorld } from '../support/environment.ts'

const world = await openWorld(t)
const { client, close } = openDb(world.env.DATABASE_URL, { max: 1, name: 'test', idle_in_transaction_ms: 60_000 })
const redis = new Redis(world.env.REDIS_URL)
t.teardown(async () => {
  redis.disconnect()
  await close()
})

/** A process that has settled `settled` rows within the n-th bucket's end. */
function worker(id: string, seen_ms: number, settled: number, bucket = 0, uptime_ms = 3_600_000): FleetProcess {
  const waits = SECONDS.map((_, n) => (n >= bucket ? settled : 0))
  waits.push(settled)
  return { id, role: 'worker', seen_ms, uptime_ms, settled, waits } as unknown as FleetProcess
}

/** What the collector found: this level, these processes, and whether Postgres is down. */
function collected(level: string, { processes = [] as FleetProcess[], down = false } = {}): Collected {
  const dependencies = [{ name: 'postgres', answered_ms: 0, ...(down && { down: 'refused' }) }]
  const queues = down ? null : [{ resource: 'product:1', length: 7, more: false, oldest_ms: 1_240, holder: null }]
  return {
    facts: { dependencies, processes, queues },
    snapshot: {
      condition: { level, sentence: `it is ${level}` },
      throughput: { errors_per_minute: 3 },
      queues,
      more_queues: 0,
    },
  } as unknown as Collected
}
const options = (found: Collected) => ({
  client,
  redis,
  prefix: world.env.REDIS_PREFIX,
  collect: async () => found,
  log: createLog('silent', 'test'),
})
const ago = (seconds: number) => new Date(Math.floor(Date.now() / 10_000) * 10_000 - seconds * 1_000)

t.test('rows settled: a rate per process, and quantiles of the waits since the last sample', async (t) => {
  const before = { a: worker('a', 0, 100), gone: worker('gone', 0, 50) }
  const same = settledSince(before, [worker('a', 10_000, 100)])
  t.same(same, { per_second: 0, wait_p50_ms: null, wait_p95_ms: null })
  const one = worker('a', 10_000, 300)
  // 0.1 s is the end of bucket 6: half of the rows waited between 50 ms and 100 ms.
  const other = worker('new', 10_000, 200, 6, 2_000)
  t.same(settledSince(before, [one, other]), { per_second: 120, wait_p50_ms: 1, wait_p95_ms: 95 })
  const restarted = { ...worker('a', 10_000, 40, 0, 4_000) }
  t.match(settledSince(before, [restarted]), { per_second: 10 }, 'an id that is used again')
})

t.test('Postgres away: its samples are stored when it is back; older ones than a day are deleted', async (t) => {
  const waiting: Parameters<typeof sampleOnce>[2] = []
  await client`INSERT INTO fleet_samples (at, level, sentence) VALUES (now() - interval '25 hours', 'red', 'old')`
  await sampleOnce(options(collected('red', { down: true })), ago(30), waiting)
  t.equal(waiting.length, 1)
  t.same(await readSamples(client, '5m'), [])
  const fleet = [worker('a', 1_000, 10)]
  await sampleOnce(options(collected('amber', { processes: fleet })), ago(20), waiting)
  t.same(waiting, [])
  const later = [worker('a', 11_000, 110)]
  await sampleOnce(options(collected('green', { processes: later })), ago(10), waiting)
  // Another process that samples at the same time.
  await sampleOnce(options(collected('green', { processes: later })), ago(10), [])
  const nothing = { per_second: null, wait_p50_ms: null, wait_p95_ms: null }
  const queue = { queued: 7, oldest_s: 1.2, errors_per_minute: 3 }
  t.match(await readSamples(client, '5m'), [
    { ...nothing, queued: null, oldest_s: null, level: 'red', sentence: 'it is red' },
    { ...nothing, ...queue, level: 'amber' },
    { per_second: 10, wait_p50_ms: 1, wait_p95_ms: 1, ...queue, level: 'green' },
  ])
  const [{ old } = { old: undefined }] = await client`SELECT count(*) AS old FROM fleet_samples WHERE sentence = 'old'`
  t.equal(old, 0)
})

t.test('a day: at most 361 steps, each as bad as its worst sample', async (t) => {
  await client`DELETE FROM fleet_samples`
  await client`INSERT INTO fleet_samples (at, per_second, queued, level, sentence)
    SELECT date_bin('10 s', now(), 'epoch') - n * interval '10 s', 100, n, CASE n WHEN 3000 THEN 'red' ELSE 'green' END, 's' || n
    FROM generate_series(0, 8639) n`
  for (const range of ['5m', '1h', '6h', '24h'] as const) {
    const samples = await readSamples(client, range)
    t.ok(samples.length >= 30 && samples.length <= 361, `${range}: ${samples.length}`)
    t.match(samples.at(-1), { per_second: 100, level: 'green' })
    t.same(
      samples.filter(({ level }) => level === 'red').map(({ sentence }) => sentence),
      range === '24h' ? ['s3000'] : [],
      range,
    )
  }
})
