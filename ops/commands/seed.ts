/**
 * Loads the sample resources into DATABASE_URL once, and leaves existing ones unchanged. If REDIS_URL is set, also
 * acquires the leases that the API's examples name; each start renews them.
 */
import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { BOOKING_SAMPLES, PURCHASE_SAMPLES, SAMPLE_LEASES, WEBHOOK_SAMPLES } from '../../src/api/http/samples.ts'
import { createRedisBackend } from '../../src/shared/locks/redis/locks.ts'
import { readCommand, reasonOf } from '../dev/command.mjs'

const units = (id: string, name: string, total: number, price: number) => ({ id, kind: 'units', name, total, price })
const calendar = (id: string, name: string, price = 0) => ({ id, kind: 'calendar', name, total: 0, price })

const RESOURCES = [
  units('product:1', 'iPhone 15', 10, 99_900),
  units('product:2', 'MacBook Pro', 5, 249_900),
  units('product:3', 'AirPods Pro', 20, 24_900),
  units('event:1', 'Concert', 100, 5_000),
  // An account's unit is a cent, so its total is a balance: 1,000.00.
  units('account:1', 'Wallet', 100_000, 1),
  calendar('driver:1', 'Driver 1'),
  calendar('driver:2', 'Driver 2'),
  calendar('driver:3', 'Driver 3'),
  calendar('property:42', 'Lake house', 12_000),
  // The purchases and bookings that the API's examples name.
  units('sample:1', 'Sample', 1_000, 100),
  calendar('sample:2', 'Sample calendar'),
]

const USAGE = `
node --import=tsx ops/commands/seed.ts     loads the sample resources into DATABASE_URL, or into the npm start that runs here, once
Exit code 1 when it could not. 2: the options or an address make no sense.`

const command = readCommand({ name: 'seed', usage: USAGE })
command.checkAddresses()
const url = command.address('DATABASE_URL')
const { REDIS_URL, REDIS_PREFIX = '' } = process.env
const sql = postgres(url, { max: 1, onnotice: () => {} })
try {
  const loaded = await sql.begin(async (tx) => {
    const made = await tx`
      INSERT INTO resources ${tx(RESOURCES.map((one) => ({ ...one, available: one.total, currency: 'USD' })))}
      ON CONFLICT DO NOTHING RETURNING id, total`
    for (const { id, total } of made) {
      if (Number(total) > 0) {
        await tx`INSERT INTO ledger_entries (resource_id, delta, reason) VALUES (${id}, ${total}, 'created')`
      }
    }
    const a_week_s = 604_800
    for (const [id, hold] of [
      [PURCHASE_SAMPLES.confirmed, null],
      [PURCHASE_SAMPLES.held, a_week_s],
      [PURCHASE_SAMPLES.cancellable, a_week_s],
    ] as const) {
      await tx`
        INSERT INTO purchases (id, queue, customer, items, hold_seconds)
        VALUES (${id}, 'sample:1', 'sample', ${tx.json([{ resource: 'sample:1', units: 1 }])}, ${hold})
        ON CONFLICT DO NOTHING`
    }
    const day_ms = 86_400_000
    const date = (days: number) => new Date(Date.now() + days * day_ms).toISOString().slice(0, 10)
    for (const [id, period, hold] of [
      // A stay in progress, because only a stay that has begun can be completed.
      [BOOKING_SAMPLES.complete, `[${date(-1)},${date(6)})`, null],
      [BOOKING_SAMPLES.accept, '[2030-02-01,2030-02-08)', a_week_s],
      [BOOKING_SAMPLES.decline, '[2030-03-01,2030-03-08)', a_week_s],
      [BOOKING_SAMPLES.cancel, '[2030-04-01,2030-04-08)', a_week_s],
    ] as const) {
      await tx`
        INSERT INTO bookings (id, resource_id, customer, period, hold_seconds)
        VALUES (${id}, 'sample:2', 'sample', ${period}, ${hold})
        ON CONFLICT DO NOTHING`
    }
    for (const id of Object.values(WEBHOOK_SAMPLES)) {
      // Disabled, because the endpoint has no receiver and its secret is not known.
      await tx`
        INSERT INTO webhook_endpoints (id, url, resource_id, secret, disabled_reason, outbox_position)
        VALUES (${id}, 'https://shop.example/holdfast', 'sample:1', ${`whsec_${randomBytes(32).toString('base64')}`},
                'a sample', 0)
        ON CONFLICT DO NOTHING`
    }
    return made.length
  })
  if (REDIS_URL) await lockSamples(REDIS_URL)
  process.stdout.write(
    loaded > 0 ? `seed: ${loaded} sample resources loaded\n` : 'seed: the samples are there already\n',
  )
} catch (error) {
  process.stderr.write(`seed: ${reasonOf(error)}\n`)
  process.exitCode = 1
} finally {
  await sql.end()
}

async function lockSamples(redis_url: string): Promise<void> {
  const redis = new Redis(redis_url, { maxRetriesPerRequest: 2 })
  redis.on('error', () => {})
  const backend = createRedisBackend(redis, REDIS_PREFIX)
  const once = { limit: 0, above: 0, slot_ttl_ms: 0, ticket: 0 }
  for (const one of Object.values(SAMPLE_LEASES)) {
    await backend.attempt({ ...one, ...once })
    // The first heartbeat puts it on the list of locks.
    await backend.extend(one.resource, one.id, one.ttl_ms)
  }
  redis.disconnect()
}
