/**
 * `npm run bench [-- WHAT OPTIONS]`: purchases (the default), locks, bookings, versions or growth; each module
 * says what it measures and how.
 */
import { readCommand, reasonOf } from '../../ops/dev/command.mjs'

const USAGE = `
npm run bench [-- WHAT OPTIONS]     WHAT OPTIONS is one of these; npm run bench -- WHAT --help has its options
  purchases     (the default) purchases per second beside two peers
  locks         the lock library beside others
  bookings      stays beside plain INSERTs
  versions      versions beside leases
  growth        more workers, products, buyers, rows
  DATABASE_URL, REDIS_URL     servers to use instead of a private pair`

const MODULES: Record<string, () => Promise<unknown>> = {
  purchases: () => import('./purchases.ts'),
  locks: () => import('./locks/main.ts'),
  bookings: () => import('./bookings.ts'),
  versions: () => import('./versions.ts'),
  growth: () => import('./growth/main.ts'),
}
const WHAT = Object.keys(MODULES)
const [what = '', ...rest] = process.argv.slice(2)
const named = WHAT.includes(what)
// Print this usage if help is requested without a name or the name is unknown. Otherwise the module reads the options.
const own = !named && (what === '--help' || what === '-h') ? ['--help'] : []
const command = readCommand({ name: 'bench', usage: USAGE, args: own })
if (!named && what !== '' && !what.startsWith('-'))
  command.refuse(`there is no benchmark of ${what}; say one of ${WHAT.join(', ')}`)
command.checkAddresses()
if (named) process.argv.splice(2, process.argv.length, ...rest)
try {
  await MODULES[named ? what : 'purchases']?.()
} catch (error) {
  process.stderr.write(`bench: ${reasonOf(error)}\n`)
  process.exit(1)
}
