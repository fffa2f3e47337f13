/**
 * The database, not the locks, keeps data correct: newer tokens, and rows not written by the API. The races without any
 * lock are in test/races.
 */
import { Redis } from 'ioredis'
import t from 'tap'
import { inTransaction, metric, openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

t.test('newer holder has written: the older one is rejected, counted, and gets a higher token', async (t) => {
  const world = await openWorld(t)
  const [api, worker] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 5)
  // The state after the lock server lost its data and its clock was set back: a stored token an hour above its new
  // tokens.
  await shop.client`UPDATE resources SET fencing_token = ${(Date.now() + 3_600_000) * 1000} WHERE id = ${ref}`
  const answer = await shop.buy({ customer: 'c', lines: [{ resource: ref, units: 1 }] }, { prefer: 'wait=10' })
  t.match(answer, { status: 201 })
  t.ok((await metric(worker.url, 'holdfast_fencing_token_rejections_total')) >= 1)
  await shop.verified()
})

t.test('restock during a batch with an older token: written after the batch, also in the ledger', async (t) => {
  const world = await openWorld(t)
  const api = await world.startApi(TTL)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 5)
  const older = (Date.now() - 60_000) * 1000
  const body = JSON.stringify({ delta: 2, reason: 'delivery' })
  const headers = { 'content-type': 'application/json' }
  const path = `/api/resources/${ref.replace(':', '/')}/restock`
  let restock: Promise<Response> | undefined
  await shop.client.begin(async (tx) => {
    // Write as a batch does whose lease ended in between.
    await tx`UPDATE resources SET fencing_token = ${older} WHERE id = ${ref}`
    restock = fetch(`${api.url}${path}`, { method: 'POST', headers, body })
    await inTransaction(shop, 'holdfast-api')
    await tx`INSERT INTO ledger_entries (resource_id, delta, reason, fencing_token) VALUES (${ref}, 1, 'delivery', ${older})`
    await tx`UPDATE resources SET total = total + 1, available = available + 1 WHERE id = ${ref}`
  })
  t.equal((await restock)?.status, 200)
  t.match(await shop.resource(ref), { total: 8, available: 8 })
  await shop.verified()
})

t.test(
  'older batch commits while a newer one waits for its rows: the newer one fetches again, none is quarantined',
  async (t) => {
    const world = await openWorld(t)
    const [api, worker] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
    const shop = openShop(t, [api.url], world.env.DATABASE_URL)
    const ref = await shop.units('product', 100)
    let acknowledged: string[] = []
    await shop.client.begin(async (tx) => {
      await tx`SELECT 1 FROM resources WHERE id = ${ref} FOR UPDATE`
      acknowledged = await rush(shop, ref, 20)
      await inTransaction(shop)
      await tx`
      WITH first AS (SELECT id FROM purchases WHERE queue = ${ref} ORDER BY seq LIMIT 10), p AS (
        UPDATE purchases SET status = 'confirmed', amount = 100, currency = 'USD', settled_at = clock_timestamp()
        WHERE id IN (SELECT id FROM first)
      ), m AS (
        INSERT INTO ledger_entries (resource_id, purchase_id, delta, reason) SELECT ${ref}, id, -1, 'sale' FROM first
      )
      UPDATE resources SET available = available - 10 WHERE id = ${ref}`
    })
    await settled(t, shop, ref, acknowledged, 100, 20)
    t.notMatch(worker.logs(), /set apart/)
  },
)

t.test('one bad row in a batch: quarantined, and the other rows settle', async (t) => {
  const world = await openWorld(t)
  const api = await world.startApi(TTL)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const before = await rush(shop, ref, 20)
  const bad = await shop.client<{ id: string }[]>`
    INSERT INTO purchases (queue, items) VALUES
      (${ref}, '[]'), (${ref}, '[{"resource": 7}]'), (${ref}, ${JSON.stringify([{ resource: ref, units: -1 }])}),
      (${ref}, ${JSON.stringify([{ resource: ref, units: 1.5 }])}), (${ref}, '[null]')
    RETURNING id`
  // A row to which Postgres refuses every write.
  const [cursed] = await shop.client<{ id: string }[]>`
    INSERT INTO purchases (queue, items) VALUES (${ref}, ${JSON.stringify([{ resource: ref, units: 1 }])}) RETURNING id`
  await shop.client.unsafe(`
    CREATE FUNCTION curse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.status = 'confirmed' THEN RAISE EXCEPTION 'cursed'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER curse BEFORE UPDATE ON purchases FOR EACH ROW WHEN (NEW.id = '${cursed?.id}') EXECUTE FUNCTION curse()`)
  const after = await rush(shop, ref, 20)
  await world.startWorker(TTL)
  await settled(t, shop, ref, [...before, ...after], 100, 40)
  const rows = await shop.client<{ status: string; reason: string }[]>`
    SELECT status, reason FROM purchases WHERE id IN ${shop.client([...bad, ...(cursed ? [cursed] : [])].map((row) => row.id))}`
  t.equal(rows.length, 6)
  for (const row of rows) t.match(row, { status: 'failed', reason: 'unprocessable' })
})

t.test('row that cannot be written at all: stays queued, and its queue goes on', async (t) => {
  const world = await openWorld(t)
  const [api] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  await shop.client.unsafe(`
    CREATE FUNCTION curse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'cursed'; END $$;
    CREATE TRIGGER curse BEFORE UPDATE ON purchases FOR EACH ROW WHEN (NEW.customer = 'cursed') EXECUTE FUNCTION curse()`)
  const lines = [{ resource: ref, units: 1 }]
  await shop.buy({ customer: 'cursed', lines })
  for (const customer of ['first', 'second']) {
    t.match(await shop.buy({ customer, lines }, { prefer: 'wait=10' }), { status: 201 })
  }
  const redis = new Redis(world.env.REDIS_URL)
  t.teardown(() => redis.disconnect())
  const lock = `${world.env.REDIS_PREFIX}lock:{${ref}}`
  await until(async () => (await redis.exists(lock)) === 0, { what: 'the worker to let the line go' })
  t.same(await shop.statuses(ref), { queued: 1, confirmed: 2 })
  await shop.verified()
})

t.test('purchase of a resource that does not exist: rejected as unknown_resource', async (t) => {
  const world = await openWorld(t)
  const [api] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const [row] = await shop.client<{ id: string }[]>`
    INSERT INTO purchases (queue, items) VALUES ('product:none', ${JSON.stringify([{ resource: 'product:none', units: 1 }])})
    RETURNING id`
  await until(async () => (await shop.queued()) === 0, { what: 'the sweeper to find it' })
  const [after] = await shop.client`SELECT status, reason FROM purchases WHERE id = ${row?.id ?? ''}`
  t.match(after, { status: 'rejected', reason: 'unknown_resource' })
})

t.test('writes that the schema forbids: rejected without any lock', async (t) => {
  const world = await openWorld(t)
  const { client } = openShop(t, [''], world.env.DATABASE_URL)
  const refuses = async (what: string, state: string, statement: string) => {
    const error = await client.unsafe(statement).then(
      () => undefined,
      (reason) => reason,
    )
    t.equal(error?.code, state, what)
  }
  await client`INSERT INTO resources (id, kind, total, available, fencing_token) VALUES ('product:1', 'units', 5, 5, 10)`
  const [p] = await client<{ id: string }[]>`
    INSERT INTO purchases (queue, items, status) VALUES ('product:1', '[]', 'confirmed') RETURNING id`
  await client`INSERT INTO ledger_entries (resource_id, purchase_id, delta, reason) VALUES ('product:1', ${p?.id ?? ''}, -1, 'sale')`
  await client`INSERT INTO purchases (queue, items, idempotency_key) VALUES ('product:1', '[]', 'k')`
  await client`INSERT INTO bookings (resource_id, period, status) VALUES ('property:1', '[2030-01-01,2030-01-05)', 'accepted')`
  await client`INSERT INTO bookings (kind, resource_id, customer, period, status)
               VALUES ('ride', 'driver:1', 'rider', '[2030-01-01,)', 'requested')`
  await refuses('available below zero', '23514', `UPDATE resources SET available = -1`)
  await refuses('available above the total', '23514', `UPDATE resources SET available = 6`)
  await refuses('held and available above the total', '23514', `UPDATE resources SET held = 1`)
  await refuses('a lower fence', '23000', `UPDATE resources SET fencing_token = 9`)
  await refuses(
    'a terminal status that changes',
    '23000',
    `UPDATE purchases SET status = 'held' WHERE status = 'confirmed'`,
  )
  await refuses(
    'an effect twice',
    '23505',
    `INSERT INTO ledger_entries (resource_id, purchase_id, delta, reason)
    VALUES ('product:1', '${p?.id}', -1, 'sale')`,
  )
  await refuses('a changed ledger', '23000', `UPDATE ledger_entries SET delta = 0`)
  await refuses('a shortened ledger', '23000', `DELETE FROM ledger_entries`)
  await refuses(
    'an idempotency key twice',
    '23505',
    `INSERT INTO purchases (queue, items, idempotency_key)
    VALUES ('product:2', '[]', 'k')`,
  )
  await refuses(
    'overlapping bookings',
    '23P01',
    `INSERT INTO bookings (resource_id, period, status)
    VALUES ('property:1', '[2030-01-04,2030-01-06)', 'requested')`,
  )
  await refuses(
    'a rider with two rides',
    '23505',
    `INSERT INTO bookings (kind, resource_id, customer, period, status)
    VALUES ('ride', 'driver:2', 'rider', '[2031-01-01,)', 'requested')`,
  )
  await refuses(
    'a charge twice',
    '23505',
    `INSERT INTO charges (purchase_id, kind, amount) VALUES ('${p?.id}', 'charge', 1), ('${p?.id}', 'charge', 1)`,
  )
  const [b] = await client<{ id: string }[]>`SELECT id FROM bookings LIMIT 1`
  await refuses(
    'a charge of a stay twice',
    '23505',
    `INSERT INTO charges (booking_id, kind, amount) VALUES ('${b?.id}', 'charge', 1), ('${b?.id}', 'charge', 1)`,
  )
  await refuses('a charge of nothing', '23514', `INSERT INTO charges (kind, amount) VALUES ('charge', 1)`)
  await refuses(
    'a charge of a purchase and of a stay',
    '23514',
    `INSERT INTO charges (purchase_id, booking_id, kind, amount) VALUES ('${p?.id}', '${b?.id}', 'charge', 1)`,
  )
  await client`INSERT INTO charges (purchase_id, kind, amount, status) VALUES (${p?.id ?? ''}, 'charge', 100, 'captured')`
  const row = (n: number, id: string, amount: number, there: boolean) =>
    `('${p?.id}', 'refund', ${n}, '${id}', ${amount}, ${there}, 'refunded')`
  const refund = 'INSERT INTO charges (purchase_id, kind, n, provider_id, amount, at_provider, status) VALUES'
  await refuses(
    'two refunds of 60 of a charge of 100',
    '23000',
    `${refund} ${row(1, 're_1', 60, false)}, ${row(2, 're_2', 60, true)}`,
  )
  await refuses(
    'a refund of the provider twice',
    '23505',
    `${refund} ${row(2, 're_1', 30, true)}, ${row(3, 're_1', 30, true)}`,
  )
  await refuses(
    'a refund of a stay beyond its charge',
    '23000',
    `INSERT INTO charges (booking_id, kind, amount) VALUES ('${b?.id}', 'refund', 1)`,
  )
})
