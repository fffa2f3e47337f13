/**
 * `npm run bench -- versions`: compares, over HTTP, two ways to change a row that several clients want to change: by
 * version (GET, PUT with If-Match, retry with jitter after 412) and under the resource's lease (restock). First every
 * client changes a separate row, then all clients change one row. The two ways take turns.
 */
import { loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { readCommand } from '../../ops/dev/command.mjs'
import { openEnvironment } from '../lib/environment.ts'
import { inParallel, withHoldfast } from '../lib/fleet.ts'

const { whole } = readCommand({
  name: 'bench versions',
  usage: 'npm run bench -- versions --changes=2000 --clients=16',
  options: { changes: { type: 'string', default: '2000' }, clients: { type: 'string', default: '16' } },
})
const changes = whole('changes')
const clients = whole('clients')

/** Longest pause before the retry of a change by version, in milliseconds. Each retry draws a new pause. */
const JITTER_MS = 20
/** Number of rows in the runs without contention: more than are changed at once. */
const MANY = 1_000
/** Changes in one turn. */
const SLICE = 200

async function byVersion(url: string): Promise<number> {
  const body = (n: number) => JSON.stringify({ name: `at ${n}`, kind: 'units', total: 1_000_000, price })
  for (let tries = 1; ; tries++) {
    const seen = await fetch(url)
    await seen.arrayBuffer()
    const headers = { 'content-type': 'application/json', 'if-match': seen.headers.get('etag') ?? '' }
    const done = await fetch(url, { method: 'PUT', headers, body: body(tries) })
    await done.arrayBuffer()
    if (done.status === 200) return tries
    if (done.status !== 412) throw new Error(`PUT ${url}: ${done.status}`)
    await sleep(Math.random() * JITTER_MS)
  }
}

async function underLease(url: string): Promise<number> {
  for (let tries = 1; ; tries++) {
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ delta: 1, reason: 'bench' })
    const done = await fetch(`${url}/restock`, { method: 'POST', headers, body })
    const text = await done.text()
    if (done.status === 200) return tries
    if (done.status !== 409) throw new Error(`POST ${url}/restock: ${done.status} ${text}`)
  }
}

const price = { amount: 1, currency: 'USD' }
const log = (line: string) => process.stdout.write(`bench: ${line}\n`)
const environment = await openEnvironment(log, { statements: false, appendfsync: 'everysec' })
try {
  await environment.withStore((store) =>
    withHoldfast(store, 0, async ({ url, client }) => {
      await client`
        WITH made AS (INSERT INTO resources (id, kind, total, available, price)
                      SELECT 'driver:' || n, 'units', 1000000, 1000000, 1 FROM generate_series(0, ${MANY - 1}) n
                      RETURNING id, total)
        INSERT INTO ledger_entries (resource_id, delta, reason) SELECT id, total, 'created' FROM made`
      log(
        `${changes} changes a way, ${clients} clients, ${environment.versions.join(', ')}, Node ${process.versions.node}`,
      )
      process.stdout.write('| rows | way         | changes/s | tries a change | p50 ms | p99 ms |\n')
      process.stdout.write('| ---- | ----------- | --------- | -------------- | ------ | ------ |\n')
      for (const rows of [MANY, 1]) {
        const ways = [
          { name: 'by version', change: byVersion, seconds: 0, tries: 0, took_ms: [] as number[] },
          { name: 'under lease', change: underLease, seconds: 0, tries: 0, took_ms: [] as number[] },
        ]
        for (let done = 0; done < changes; done += SLICE) {
          for (const way of ways) {
            way.seconds += await inParallel(Math.min(SLICE, changes - done), clients, async (n) => {
              const since = performance.now()
              const tries = await way.change(`${url}/api/resources/driver/${(done + n) % rows}`)
              way.tries += tries
              way.took_ms.push(performance.now() - since)
            })
          }
        }
        for (const { name, seconds, tries, took_ms } of ways) {
          took_ms.sort((a, b) => a - b)
          const at = (share: number) => (took_ms[Math.floor(took_ms.length * share)] ?? 0).toFixed(1)
          const cells = [`${rows}`.padEnd(4), name.padEnd(11), `${Math.round(changes / seconds)}`.padEnd(9)]
          cells.push((tries / changes).toFixed(2).padEnd(14), at(0.5).padEnd(6), at(0.99).padEnd(6))
          process.stdout.write(`| ${cells.join(' | ')} |\n`)
        }
      }
      log(`load average at the end (others' work included): ${loadavg()[0]?.toFixed(1)}`)
    }),
  )
} finally {
  await environment.close()
}
