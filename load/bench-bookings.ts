/**
 * `npm run bench -- bookings`: the same random, overlapping ranges booked by Holdfast (HTTP, three workers, the caller
 * waits for the outcome) and by plain INSERTs under the same EXCLUDE constraint, straight to Postgres. The plain ones
 * have no API, no line, no idempotency and no answer that names the conflict: what they show is the constraint's cost.
 *
 *   npm run bench -- bookings --bookings=10000 --properties=20 --clients=64 --workers=3
 */
import { loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { migrateDb, openDb, sqlState } from '../src/shared/db.ts'
import { verify } from '../src/shared/verify.ts'
import { type Field, openArena } from './arena.ts'
import { inParallel, withHoldfast } from './holdfast.ts'

const { values } = parseArgs({
  options: {
    bookings: { type: 'string', default: '10000' },
    properties: { type: 'string', default: '20' },
    clients: { type: 'string', default: '64' },
    workers: { type: 'string', default: '3' },
  },
})
const [bookings, properties, clients, workers] = [
  values.bookings,
  values.properties,
  values.clients,
  values.workers,
].map((text) => {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new Error(`options are whole numbers from 1, not ${text}`)
  return Number(text)
}) as [number, number, number, number]

/** Days in which the stays begin, and their longest: several wishes for every day, so that most of them collide. */
const DAYS = 365
const NIGHTS = 7

/** The same wishes for everybody (mulberry32 from a fixed seed). */
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
const wishes = Array.from({ length: bookings }, () => {
  const from = Math.floor(dice() * DAYS)
  const nights = 1 + Math.floor(dice() * NIGHTS)
  const date = (day: number) => new Date(Date.UTC(2030, 0, 1 + day)).toISOString()
  return { resource: `property:${Math.floor(dice() * properties)}`, from: date(from), to: date(from + nights) }
})

interface Outcome {
  system: string
  seconds: number
  booked: number
  conflicts: number
  errors: number
  deadlocks: number
  broken: string[]
  /** processes that wanted a processor, a minute's average at the end: what others did to the figure */
  load: string
}

const load = () => (loadavg()[0] ?? 0).toFixed(1)

async function holdfast(field: Field): Promise<Outcome> {
  return await withHoldfast(field, workers, async ({ url, client }) => {
    await client`INSERT INTO resources (ref, kind) SELECT 'property:' || n, 'calendar'
                 FROM generate_series(0, ${properties - 1}) n`
    const statuses = new Map<number, number>()
    const seconds = await inParallel(bookings, clients, async (n) => {
      const response = await fetch(`${url}/api/bookings`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', prefer: 'wait=30' },
        body: JSON.stringify({ customer: `c${n}`, ...wishes[n] }),
      })
      await response.arrayBuffer()
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1)
    })
    const [booked = 0, conflicts = 0] = [statuses.get(201), statuses.get(409)]
    const findings = await verify(client)
    const broken = findings.filter((one) => one.offenders.length > 0).map((one) => one.invariant)
    const errors = bookings - booked - conflicts
    const counts = { booked, conflicts, errors, deadlocks: await deadlocks(client) }
    return { system: 'Holdfast', seconds, ...counts, broken, load: load() }
  })
}

async function plain(field: Field, system: string, suffix: string): Promise<Outcome> {
  await migrateDb(field.database_url)
  const db = openDb(field.database_url, { max: clients, name: 'holdfast-bench', idle_in_transaction_ms: 60_000 })
  try {
    const counts = { booked: 0, conflicts: 0, errors: 0 }
    // Connections first: they are not what is measured.
    await Promise.all(Array.from({ length: clients }, () => db.client`SELECT pg_sleep(0.05)`))
    const seconds = await inParallel(bookings, clients, async (n) => {
      const wish = wishes[n]
      const range = `[${wish?.from},${wish?.to})`
      try {
        const { count } = await db.client.unsafe(
          `INSERT INTO bookings (resource, customer, during, status) VALUES ($1, $2, $3, 'accepted') ${suffix}`,
          [wish?.resource ?? '', `c${n}`, range],
          { prepare: true },
        )
        counts[count === 1 ? 'booked' : 'conflicts']++
      } catch (error) {
        counts[sqlState(error) === '23P01' ? 'conflicts' : 'errors']++
      }
    })
    return { system, seconds, ...counts, deadlocks: await deadlocks(db.client), broken: [], load: load() }
  } finally {
    await db.close()
  }
}

/** As Postgres counted them, once its statistics have come in. */
async function deadlocks(client: ReturnType<typeof openDb>['client']): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  const [row] = await client<{ deadlocks: number }[]>`
    SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`
  return row?.deadlocks ?? 0
}

const arena = await openArena((line) => process.stdout.write(`bench: ${line}\n`), {
  statements: false,
  appendfsync: 'everysec',
})
try {
  process.stdout.write(
    `bench: ${bookings} random ranges on ${properties} properties, ${clients} clients, ${arena.versions.join(', ')}\n`,
  )
  const outcomes = [
    await arena.field(holdfast),
    await arena.field((field) => plain(field, 'INSERT, the violation caught', '')),
    await arena.field((field) => plain(field, 'INSERT … ON CONFLICT DO NOTHING', 'ON CONFLICT DO NOTHING')),
  ]
  const rows = outcomes.map((one) => [
    one.system,
    Math.round(bookings / one.seconds).toLocaleString('en'),
    ...[one.booked, one.conflicts, one.errors, one.deadlocks].map((n) => n.toLocaleString('en')),
    one.load,
  ])
  const header = ['system', 'answers/s', 'booked', 'conflicts', 'errors', 'deadlocks', 'load']
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const line = (cells: string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |\n`
  process.stdout.write(line(header) + line(widths.map((width) => '-'.repeat(width))))
  for (const row of rows) process.stdout.write(line(row))
  const [own] = outcomes
  for (const invariant of own?.broken ?? []) process.stdout.write(`bench: BROKEN ${invariant}\n`)
  if (own && (own.broken.length > 0 || own.errors > 0 || own.deadlocks > 0)) process.exitCode = 1
} finally {
  await arena.close()
}
