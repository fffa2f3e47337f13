/**
 * `npm run bench -- bookings`: compares Holdfast (HTTP, three workers, the caller waits for the outcome) with plain
 * INSERTs directly to Postgres. Both book the same random, overlapping ranges under the same EXCLUDE constraint. The
 * plain INSERTs have no API, no queue, no idempotency and no answer that names the conflict, so they show only the cost
 * of the constraint. The systems take turns with slices of the ranges, so that other load on the machine affects all of
 * them.
 */
import { loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { readCommand } from '../../ops/dev/command.mjs'
import { type Client, openDb } from '../../src/shared/db/client.ts'
import { sqlState } from '../../src/shared/db/errors.ts'
import { migrateDb } from '../../src/shared/db/migrate.ts'
import { verify } from '../../src/shared/invariants.ts'
import { type Environment, openEnvironment } from '../lib/environment.ts'
import { inParallel, withHoldfast } from '../lib/fleet.ts'

const { whole } = readCommand({
  name: 'bench bookings',
  usage: 'npm run bench -- bookings --bookings=10000 --properties=20 --clients=64 --workers=3',
  options: {
    bookings: { type: 'string', default: '10000' },
    properties: { type: 'string', default: '20' },
    clients: { type: 'string', default: '64' },
    workers: { type: 'string', default: '3' },
  },
})
const [bookings, properties, clients, workers] = [
  whole('bookings'),
  whole('properties'),
  whole('clients'),
  whole('workers'),
]

/**
 * Days on which stays begin, and the longest stay in days. Several stays want each day, so that most of them collide.
 */
const DAYS = 365
const NIGHTS = 7
/** Ranges of one turn, and warm-up ranges on separate calendars, which do not count. */
const SLICE = 500
const WARM_UP = 300

/** Returns random numbers from a fixed seed (mulberry32), so that every system gets the same ranges. */
function random(seed: number) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
const dice = random(42)
const wish = (n: number) => {
  const from = Math.floor(dice() * DAYS)
  const nights = 1 + Math.floor(dice() * NIGHTS)
  const date = (day: number) => new Date(Date.UTC(2030, 0, 1 + day)).toISOString()
  const place = Math.floor(dice() * properties)
  return { customer: `c${n}`, place, from: date(from), to: date(from + nights) }
}
type Wish = ReturnType<typeof wish>
const wishes = Array.from({ length: bookings }, (_, n) => wish(n))
const warmUp = Array.from({ length: WARM_UP }, (_, n) => wish(n))

interface System {
  name: string
  client: Client
  book(type: string, wish: Wish): Promise<'booked' | 'conflicts' | 'errors'>
}

async function withSystems<T>(environment: Environment, body: (systems: System[]) => Promise<T>): Promise<T> {
  return await environment.withStore((own) =>
    withHoldfast(own, workers, ({ url, client }) =>
      environment.withStore(async ({ database_url }) => {
        await migrateDb(database_url)
        const db = openDb(database_url, { max: clients, name: 'holdfast-bench', idle_in_transaction_ms: 60_000 })
        try {
          return await body([
            { name: 'Holdfast', client, book: overHttp(url) },
            // The systems use different calendars in one table, so that they do not conflict with each other.
            { name: 'INSERT, the violation caught', client: db.client, book: plain(db.client, 'caught', '') },
            {
              name: 'INSERT … ON CONFLICT DO NOTHING',
              client: db.client,
              book: plain(db.client, 'nothing', 'ON CONFLICT DO NOTHING'),
            },
          ])
        } finally {
          await db.close()
        }
      }),
    ),
  )
}

const overHttp =
  (url: string): System['book'] =>
  async (type, { place, ...wish }) => {
    const response = await fetch(`${url}/api/bookings`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait=30' },
      body: JSON.stringify({ resource: `${type}:${place}`, ...wish }),
    })
    await response.arrayBuffer()
    return response.status === 201 ? 'booked' : response.status === 409 ? 'conflicts' : 'errors'
  }

const plain =
  (client: Client, prefix: string, suffix: string): System['book'] =>
  async (type, { place, customer, from, to }) => {
    try {
      const { count } = await client.unsafe(
        `INSERT INTO bookings (resource_id, customer, period, status) VALUES ($1, $2, $3, 'accepted') ${suffix}`,
        [`${prefix}-${type}:${place}`, customer, `[${from},${to})`],
        { prepare: true },
      )
      return count === 1 ? 'booked' : 'conflicts'
    } catch (error) {
      return sqlState(error) === '23P01' ? 'conflicts' : 'errors'
    }
  }

/** Returns Postgres' count of deadlocks, once its statistics are up to date. */
async function deadlocks(client: Client): Promise<number> {
  await sleep(1_500)
  const [row] = await client<{ deadlocks: number }[]>`
    SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`
  return row?.deadlocks ?? 0
}

async function measure(systems: readonly System[]): Promise<void> {
  const [own, ...others] = systems
  if (!own) return
  await own.client`INSERT INTO resources (id, kind) SELECT type || ':' || n, 'calendar'
                   FROM generate_series(0, ${properties - 1}) n, (VALUES ('property'), ('warm')) t(type)`
  const outcomes = new Map(systems.map((one) => [one, { seconds: 0, booked: 0, conflicts: 0, errors: 0 }]))
  const take = async (system: System, type: string, slice: readonly Wish[], outcome: { [key: string]: number }) => {
    const seconds = await inParallel(slice.length, clients, async (n) => {
      const what = await system.book(type, slice[n] as Wish)
      outcome[what] = (outcome[what] ?? 0) + 1
    })
    outcome.seconds = (outcome.seconds ?? 0) + seconds
  }
  for (const system of systems) await take(system, 'warm', warmUp, {})
  const load: number[] = []
  for (let from = 0; from < bookings; from += SLICE) {
    for (const [system, outcome] of outcomes) await take(system, 'property', wishes.slice(from, from + SLICE), outcome)
    load.push(loadavg()[0] ?? 0)
  }
  const findings = await verify(own.client)
  const [ownDeadlocks, otherDeadlocks] = [await deadlocks(own.client), await deadlocks(others[0]?.client ?? own.client)]
  const rows = Array.from(outcomes, ([{ name }, { seconds, booked, conflicts, errors }]) => [
    name,
    ...[Math.round(bookings / seconds), booked, conflicts, errors].map((n) => n.toLocaleString('en')),
  ])
  print(['system', 'answers/s', 'booked', 'conflicts', 'errors'], rows)
  log(`deadlocks: ${ownDeadlocks} with Holdfast, ${otherDeadlocks} with the INSERTs`)
  log(`load average (others' work included): ${Math.min(...load).toFixed(1)} to ${Math.max(...load).toFixed(1)}`)
  const broken = findings.filter((one) => one.offenders.length > 0)
  for (const { invariant, offenders } of broken) log(`BROKEN ${invariant}: ${offenders.join(', ')}`)
  if (broken.length === 0) log(`all ${findings.length} invariants hold`)
  if (broken.length > 0 || ownDeadlocks > 0 || outcomes.get(own)?.errors) process.exitCode = 1
}

function print(header: string[], rows: string[][]): void {
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const line = (cells: string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |\n`
  for (const row of [header, widths.map((width) => '-'.repeat(width)), ...rows]) process.stdout.write(line(row))
}

const log = (line: string) => process.stdout.write(`bench: ${line}\n`)
const environment = await openEnvironment(log, { statements: false, appendfsync: 'everysec' })
try {
  log(`${bookings} random ranges on ${properties} properties, ${clients} clients, ${workers} workers`)
  log(`${environment.versions.join(', ')}, Node ${process.versions.node}`)
  await withSystems(environment, measure)
} finally {
  await environment.close()
}
