/** Migrations are applied only to databases of this baseline. */
import t from 'tap'
import { openDb } from '../../../src/shared/db/client.ts'
import { migrateDb } from '../../../src/shared/db/migrate.ts'
import { openWorld } from '../../support/environment.ts'

t.test('a database of an earlier baseline, migrate: refused with the reason, and nothing is changed', async (t) => {
  const world = await openWorld(t)
  const db = openDb(world.env.DATABASE_URL, { max: 1, name: 'test', idle_in_transaction_ms: 10_000 })
  t.teardown(() => db.close())
  await db.client`UPDATE drizzle.__drizzle_migrations SET hash = 'of another baseline' WHERE id = 1`
  await t.rejects(migrateDb(world.env.DATABASE_URL), {
    message: /created before .*0000_baseline\.sql.*: use an empty database/,
  })
  await db.client`DELETE FROM drizzle.__drizzle_migrations WHERE id > 1`
  await t.rejects(migrateDb(world.env.DATABASE_URL), { message: /use an empty database/ })
  t.equal((await db.client`SELECT 1 FROM drizzle.__drizzle_migrations`).length, 1)
})
