/** Connections lost at any moment: every statement gets its own answer or an error. */
import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import t from 'tap'
import { openDb, query, transaction } from '../../../src/shared/db/client.ts'
import { openWorld } from '../../support/environment.ts'
import { startProxy } from '../../support/tcp-proxy.ts'

t.test(
  'statement during a connection reset: gets its own answer or an error, never the answer of another one',
  async (t) => {
    const { env } = await openWorld(t)
    const address = new URL(env.DATABASE_URL)
    const proxy = await startProxy(Number(address.port))
    address.port = String(proxy.port)
    const db = openDb(address.href, { max: 1, name: 'test', idle_in_transaction_ms: 10_000 })
    t.teardown(async () => {
      await db.close()
      await proxy.stop()
    })
    const answer = async (n: number) => {
      const asked = db.client.unsafe('SELECT $1::int AS n', [n], { prepare: true })
      const late = sleep(5_000, 'no answer', { ref: false })
      return await Promise.race([
        asked.then(
          ([row]) => row?.n as number | undefined,
          () => 'error',
        ),
        late,
      ])
    }
    t.equal(await answer(1), 1)
    const interrupted = db.client.unsafe('SELECT pg_sleep(30)').then(
      () => 'slept',
      // Send at once, while the socket has failed and is not closed yet.
      () => answer(2),
    )
    for (const link of proxy.links) link.reset()
    const others = [await interrupted, await answer(3), await answer(4), await answer(5)]
    t.same(others, ['error', 3, 4, 5])
  },
)

t.test('connection to a silent server or network: closed and replaced by a new one', async (t) => {
  const world = await openWorld(t)
  const address = new URL(world.env.DATABASE_URL)
  const proxy = await startProxy(Number(address.port))
  t.teardown(() => proxy.stop())
  address.port = String(proxy.port)
  const db = openDb(address.href, { max: 1, name: 'test', idle_in_transaction_ms: 10_000, statement_ms: 500 })
  t.teardown(() => db.close())
  const one = async () => (await query<{ one: number }>(db.client, sql`SELECT 1 AS one`))[0]?.one
  t.equal(await one(), 1)
  // Pause without a reset, as a firewall does that has forgotten the connection.
  for (const link of proxy.links) link.pause()
  await t.rejects(one(), { code: 'CONNECTION_TIMEOUT' })
  t.equal(await one(), 1)
  const begun = db.client.begin(async (tx) => {
    for (const link of proxy.links) link.pause()
    await tx`SELECT 1`
  })
  await t.rejects(begun, { code: 'CONNECTION_TIMEOUT' })
  t.equal(await one(), 1)
})

t.test(
  'proxy that accepts and closes: each query fails after one connection, until the proxy passes it on',
  async (t) => {
    const world = await openWorld(t)
    const address = new URL(world.env.DATABASE_URL)
    let closed = 0
    let closing = true
    const proxy = await startProxy(Number(address.port), (link) => {
      if (!closing) return
      closed += 1
      link.cut()
    })
    address.port = String(proxy.port)
    const db = openDb(address.href, { max: 1, name: 'test', idle_in_transaction_ms: 10_000 })
    t.teardown(async () => {
      closing = false
      await db.close()
      await proxy.stop()
    })
    const one = async () => (await query<{ one: number }>(db.client, sql`SELECT 1 AS one`))[0]?.one
    for (let n = 0; n < 5; n++) await t.rejects(one(), { code: 'CONNECTION_CLOSED' })
    t.equal(closed, 5)
    closing = false
    t.equal(await one(), 1)
  },
)

t.test('statement beyond its time limit: the server ends it', async (t) => {
  const world = await openWorld(t)
  const options = { max: 1, name: 'test', idle_in_transaction_ms: 10_000, statement_ms: 500 }
  const db = openDb(world.env.DATABASE_URL, options)
  t.teardown(() => db.close())
  await t.rejects(query(db.client, sql`SELECT pg_sleep(60)`), { code: '57014' })
})

t.test('transaction that is given up: writes nothing more, and is rolled back', async (t) => {
  const world = await openWorld(t)
  const db = openDb(world.env.DATABASE_URL, { max: 2, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(() => db.close())
  const { client } = db
  await client`CREATE TABLE written (n int)`
  const early = new AbortController()
  const between = transaction(client, early.signal, async (tx) => {
    await query(tx, sql`INSERT INTO written VALUES (1)`)
    early.abort(new Error('given up'))
    await query(tx, sql`INSERT INTO written VALUES (2)`)
  })
  await t.rejects(between, { message: 'given up' })
  const late = new AbortController()
  const atTheEnd = transaction(client, late.signal, async (tx) => {
    await query(tx, sql`INSERT INTO written VALUES (3)`)
    late.abort(new Error('given up'))
  })
  await t.rejects(atTheEnd, { message: 'given up' })
  t.equal(
    await transaction(client, new AbortController().signal, async (tx) => {
      await query(tx, sql`INSERT INTO written VALUES (4)`)
      return 'committed'
    }),
    'committed',
  )
  t.same([...(await client`SELECT n FROM written`)], [{ n: 4 }])
})
