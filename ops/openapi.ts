/**
 * `npm run openapi` writes openapi.json from the routes, and from it the types of holdfast/client; `npm run openapi --
 * --check` exits with code 1 when a committed file says something else. Needs neither Postgres nor Redis: nothing here is ever asked.
 */
import { readFile, writeFile } from 'node:fs/promises'
import pino from 'pino'
import { buildApp } from '../src/api/app.ts'
import { createMetrics } from '../src/shared/metrics.ts'
import { renderClientTypes } from './client-types.ts'
import { readCommand } from './command.mjs'

const DOCUMENT = 'openapi.json'
const CLIENT_TYPES = 'src/client/generated/openapi.ts'

const USAGE = `
npm run openapi                 writes openapi.json and the types of holdfast/client from the routes
npm run openapi -- --check      writes nothing: exit code 1 when a committed file says something else`
const { values } = readCommand({ name: 'openapi', usage: USAGE, options: { check: { type: 'boolean' } } })

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
    onStaleWrite() {},
    purchaseIntake: absent('purchaseIntake'),
    bookingIntake: absent('bookingIntake'),
    resourceKinds: absent('resourceKinds'),
    waiter: absent('waiter'),
    nudge() {},
    gateway: absent('gateway'),
    enqueueCharges() {},
    tail: absent('tail'),
    webhooks_allow_private: false,
    viaBreaker: (body) => body(new AbortController().signal),
    dashboard: absent('dashboard'),
    openBullBoard: () => absent('openBullBoard'),
    // As outside production: there the document that is served lacks the lab.
    lab: { pause_ms: 100 },
    health: { metrics: createMetrics(), breakers: [], checks: {}, stuckReason: () => undefined, stopping: () => false },
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
const files = { [DOCUMENT]: current, [CLIENT_TYPES]: await renderClientTypes(current) }
for (const [name, text] of Object.entries(files)) {
  const file = new URL(`../${name}`, import.meta.url)
  if (!values.check) {
    await writeFile(file, text)
    continue
  }
  const committed = await readFile(file, 'utf8').catch(() => '')
  if (committed === text) continue
  process.stderr.write(`openapi: ${name} differs from the routes:\n${firstDifference(committed, text)}`)
  process.stderr.write('  `npm run openapi` writes it anew\n')
  process.exitCode = 1
}
if (process.exitCode === undefined) {
  const paths = Object.keys(JSON.parse(current).paths).length
  process.stdout.write(`openapi: ${paths} paths; ${Object.keys(files).join(' and ')} say what the routes say\n`)
}
