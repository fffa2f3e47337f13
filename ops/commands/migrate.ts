/**
 * `npm run migrate`: migrates DATABASE_URL to the newest schema. Exit code 0 or 1. Several processes may run it at
 * once.
 */
import { migrateDb } from '../../src/shared/db/migrate.ts'
import { readCommand, reasonOf } from '../dev/command.mjs'

const USAGE = `
npm run migrate     brings DATABASE_URL, or the database of the npm start that runs here, to the newest schema
Exit code 0 when it is there, 1 when it could not be brought there. 2: the options or the address make no sense.`

const url = readCommand({ name: 'migrate', usage: USAGE }).address('DATABASE_URL')
try {
  const applied = await migrateDb(url)
  const what = applied === 0 ? 'nothing to apply' : `${applied} migration${applied === 1 ? '' : 's'} applied`
  process.stdout.write(`migrate: ${what}, the schema is up to date\n`)
} catch (error) {
  process.stderr.write(`migrate: ${reasonOf(error)}\n`)
  process.exit(1)
}
