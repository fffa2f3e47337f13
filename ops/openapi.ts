/**
 * `npm run openapi` writes openapi.json from the routes; `npm run openapi -- --check` exits with code 1 when the
 * committed file says something else. Needs neither Postgres nor Redis: nothing here is ever asked.
 */
import { readFile, writeFile } from 'node:fs/promises'
import pino from 'pino'
import { buildApp } from '../src/api/app.ts'
import { createMetrics } from '../src/shared/metrics.ts'

const FILE = new URL('../openapi.json', import.meta.url)

/** A dependency that fails the moment that it is used. */
const absent = <T extends object>(name: string): T =>
  new Proxy({} as T, {
    get() {
      throw new Error(`${name} was used while openapi.json was written`)
    },
  })

async function render(): Promise<string> {
  const app = await buildApp({
    config: { api_keys: [], admin_keys: [], rate_limit: undefined, cors_origins: [], redis_prefix: '' },
    rates: undefined,
    log: pino({ enabled: false }),
    client: absent('client'),
    locks: absent('locks'),
    modes: [],
    stats: absent('stats'),
    fenced() {},
    intake: absent('intake'),
    bookings: absent('bookings'),
    kinds: absent('kinds'),
    waits: absent('waits'),
    nudge() {},
    gateway: absent('gateway'),
    pay() {},
    tail: absent('tail'),
    guarded: (body) => body(),
    // As outside production: there the document that is served lacks the lab.
    lab: { pause_ms: 100 },
    health: { metrics: createMetrics(), breakers: [], checks: {}, stuck: () => undefined, stopping: () => false },
  })
  try {
    return `${JSON.stringify(app.swagger(), null, 2)}\n`
  } finally {
    await app.close()
  }
}

/** The first line that differs, from both sides. */
function firstDifference(committed: string, current: string): string {
  const [before, after] = [committed.split('\n'), current.split('\n')]
  const n = after.findIndex((line, i) => line !== before[i])
  const at = n === -1 ? after.length : n
  return `  line ${at + 1}\n  committed: ${before[at]?.trim() ?? '(end)'}\n  routes:    ${after[at]?.trim() ?? '(end)'}\n`
}

const current = await render()
if (process.argv.includes('--check')) {
  const committed = await readFile(FILE, 'utf8').catch(() => '')
  if (committed === current) {
    process.stdout.write('openapi: openapi.json says what the routes say\n')
  } else {
    process.stderr.write(`openapi: openapi.json differs from the routes:\n${firstDifference(committed, current)}`)
    process.stderr.write('  `npm run openapi` writes it anew\n')
    process.exitCode = 1
  }
} else {
  await writeFile(FILE, current)
  process.stdout.write(`openapi: ${Object.keys(JSON.parse(current).paths).length} paths written to openapi.json\n`)
}
