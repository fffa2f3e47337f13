/**
 * Applies the migrations of drizzle/. Invariant: two processes that migrate one database never interleave, and a database
 * with another baseline is refused before anything changes in it.
 */
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate } from 'drizzle-orm/postgres-js/migrator'
import postgres from 'postgres'

/** Advisory lock, one per database, so that two migrating processes never interleave (drizzle's migrate has no lock). */
const MIGRATION_LOCK = 4_077_001

const MIGRATIONS = fileURLToPath(new URL('../../../drizzle', import.meta.url))
const OTHER_SCHEMA =
  'the schema of this database was created before drizzle/0000_baseline.sql and cannot be upgraded: use an empty database'

/** Returns the hashes of the migrations that were applied to the database, oldest first. */
async function migrations(client: postgres.Sql): Promise<string[]> {
  const [table] = await client<{ there: boolean }[]>`
    SELECT to_regclass('drizzle.__drizzle_migrations') IS NOT NULL AS there`
  if (!table?.there) return []
  const rows = await client<{ hash: string }[]>`SELECT hash FROM drizzle.__drizzle_migrations ORDER BY id`
  return rows.map(({ hash }) => hash)
}

/**
 * Applies the missing migrations of drizzle/ to the database. Many processes may call it at once.
 * @returns the number of applied migrations
 * @throws Error when another baseline than drizzle/0000_baseline.sql created the database
 */
export async function migrateDb(url: string): Promise<number> {
  const client = postgres(url, { max: 1, connect_timeout: 5, onnotice: () => {} })
  try {
    const orm = drizzle(client)
    await orm.execute(sql`SELECT pg_advisory_lock(${MIGRATION_LOCK})`)
    const before = await migrations(client)
    // A later version may have migrated the database already, which is allowed; a database with another baseline is refused.
    const [baseline] = readMigrationFiles({ migrationsFolder: MIGRATIONS })
    if (before.length > 0 && before[0] !== baseline?.hash) throw new Error(OTHER_SCHEMA)
    // The advisory lock ends with the session, so a killed migrator never leaves it behind.
    await migrate(orm, { migrationsFolder: MIGRATIONS })
    return (await migrations(client)).length - before.length
  } finally {
    await client.end({ timeout: 5 })
  }
}
