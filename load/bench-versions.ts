/**
 * `npm run bench -- versions`: the two ways of changing a row that several may want to change, beside each other, over
 * HTTP: by version (GET, PUT with If-Match, again after 412 with jitter) and under the resource's lease (restock).
 * Everybody on a row of their own, and everybody on one.
 *
 *   npm run bench -- versions --changes=2000 --clients=16
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { openArena } from './arena.ts'
import { inParallel, withHoldfast } from './holdfast.ts'

const { values } = parseArgs({
  options: { changes: { type: 'string', default: '2000' }, clients: { type: 'string', default: '16' } },
})
const [changes, clients] = [values.changes, values.clients].map((text) => {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new Error(`options are whole numbers from 1, not ${text}`)
  return Number(text)
}) as [number, number]

/** Longest pause before a change by version is tried again; each try draws anew. */
const JITTER_MS = 20

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
const arena = await openArena((line) => process.stdout.write(`bench: ${line}\n`), {
  statements: false,
  appendfsync: 'everysec',
})
try {
  await arena.field((field) =>
    withHoldfast(field, 0, async ({ url, client }) => {
      await client`
        WITH made AS (INSERT INTO resources (ref, kind, total, available, price)
                      SELECT 'driver:' || n, 'units', 1000000, 1000000, 1 FROM generate_series(0, ${clients - 1}) n
                      RETURNING ref, total)
        INSERT INTO movements (resource, delta, reason) SELECT ref, total, 'created' FROM made`
      process.stdout.write(`bench: ${changes} changes, ${clients} clients, ${arena.versions.join(', ')}\n`)
      process.stdout.write('| way         | rows | changes/s | tries a change | p50 ms | p99 ms |\n')
      process.stdout.write('| ----------- | ---- | --------- | -------------- | ------ | ------ |\n')
      const ways = { 'by version': byVersion, 'under lease': underLease }
      for (const rows of [clients, 1]) {
        for (const [name, change] of Object.entries(ways)) {
          const took_ms: number[] = []
          let tries = 0
          const seconds = await inParallel(changes, clients, async (n) => {
            const since = performance.now()
            tries += await change(`${url}/api/resources/driver/${n % rows}`)
            took_ms.push(performance.now() - since)
          })
          took_ms.sort((a, b) => a - b)
          const at = (share: number) => (took_ms[Math.floor(took_ms.length * share)] ?? 0).toFixed(1)
          const cells = [name.padEnd(11), `${rows}`.padEnd(4), `${Math.round(changes / seconds)}`.padEnd(9)]
          cells.push((tries / changes).toFixed(2).padEnd(14), at(0.5).padEnd(6), at(0.99).padEnd(6))
          process.stdout.write(`| ${cells.join(' | ')} |\n`)
        }
      }
    }),
  )
} finally {
  await arena.close()
}
