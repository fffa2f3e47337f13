/** src/workers/maintenance/sweeper.ts: the queues that one sweep nudges, with rows that no process settles. */
import t from 'tap'
import { openDb } from '../../src/shared/db/client.ts'
import type { Lease, Locks } from '../../src/shared/locks/api.ts'
import { sweepOnce } from '../../src/workers/maintenance/sweeper.ts'
import { openWorld } from '../support/environment.ts'

t.test('one sweep: nudges late queues with force, and adds one job for each due charge', async (t) => {
  const world = await openWorld(t)
  const { client, close } = openDb(world.env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(close)
  const items = JSON.stringify([{ resource: 'product:late', units: 1 }])
  const purchase = async (queue: string, status: string, created: string, expires: string | null) => {
    const [row] = await client<{ id: string }[]>`
      INSERT INTO purchases (queue, items, status, created_at, expires_at)
      VALUES (${queue}, ${items}::text::jsonb, ${status}, now() - ${created}::text::interval, now() - ${expires}::text::interval)
      RETURNING id`
    return row?.id ?? ''
  }
  await purchase('product:late', 'queued', '2 s', null)
  await purchase('product:fresh', 'queued', '0 s', null)
  await purchase('product:overdue', 'held', '60 s', '1 s')
  await purchase('product:held', 'held', '60 s', '-60 s')
  const sold = await purchase('product:sold', 'confirmed', '60 s', null)
  await client`INSERT INTO commands (queue, purchase_id, action, created_at)
               VALUES ('product:command', ${sold}, 'refund', now() - interval '2 s')`
  await client`INSERT INTO bookings (resource_id, period, status, expires_at)
               VALUES ('driver:1', '[2030-01-01, 2030-01-02)', 'requested', now() - interval '1 s')`
  const pending = await purchase('product:paid', 'held', '0 s', '-60 s')
  const early = await purchase('product:paid', 'held', '0 s', '-60 s')
  const captured = await purchase('product:paid', 'confirmed', '0 s', null)
  const charge = (id: string, status: string, next: string, recheck: string | null) => client`
    INSERT INTO charges (purchase_id, kind, amount, status, next_attempt_at, recheck_at)
    VALUES (${id}, 'charge', 500, ${status}, now() + ${next}::text::interval, now() + ${recheck}::text::interval)`
  await charge(pending, 'confirming', '-1 s', null)
  await charge(early, 'confirming', '60 s', null)
  await charge(captured, 'captured', '-1 s', '-1 s')

  let lease: Lease | undefined = { progress() {}, release: async () => {} } as unknown as Lease
  const locks = { tryAcquire: async () => lease } as unknown as Locks
  const nudged: string[] = []
  const charged: string[] = []
  const sweep = () =>
    sweepOnce({
      client,
      locks,
      nudge: (queues, options) => void (options?.force && nudged.push(...queues)),
      enqueueCharges: (ids) => void charged.push(...ids),
    })

  await sweep()
  t.same(nudged.sort(), ['driver:1', 'product:command', 'product:late', 'product:overdue'])
  t.same(charged.sort(), [pending, captured].sort(), 'an unfinished charge and a check that is due')
  await sweep()
  t.equal(charged.length, 2, 'a charge gets no second job before the first has had time to start')
  lease = undefined
  t.same(await sweep(), [], 'another worker sweeps')
})

t.test('more late queues than one sweep nudges, all of them staying late: later sweeps nudge the rest', async (t) => {
  const world = await openWorld(t)
  const { client, close } = openDb(world.env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(close)
  const late = 10_100
  await client`
    INSERT INTO purchases (queue, items, status, created_at)
    SELECT 'product:' || n, jsonb_build_array(jsonb_build_object('resource', 'product:' || n, 'units', 1)), 'queued',
           now() - interval '2 s'
    FROM generate_series(1, ${late}::int) n`
  const lease = { progress() {}, release: async () => {} } as unknown as Lease
  const locks = { tryAcquire: async () => lease } as unknown as Locks
  const nudged = new Set<string>()
  const sweep = () => sweepOnce({ client, locks, nudge() {}, enqueueCharges() {} })
  // A sweep misses a queue with a probability of 1 in 101.
  for (let sweeps = 0; sweeps < 50 && nudged.size < late; sweeps++) for (const one of await sweep()) nudged.add(one)
  t.equal(nudged.size, late)
})
