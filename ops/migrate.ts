/** `npm run migrate`: brings DATABASE_URL to the newest schema. Exit code 0 or 1; safe from ten processes at once. */
import { migrateDb } from '../src/shared/db.ts'

const url = process.env.DATABASE_URL
if (!url) {
  process.stderr.write('holdfast: DATABASE_URL is not set\n')
  process.exit(1)
}
try {
  await migrateDb(url)
  process.stdout.write('migrate: the schema is up to date\n')
} catch (error) {
  process.stderr.write(`migrate: ${error instanceof Error ? error.message : error}\n`)
  process.exit(1)
}
