/**
 * Renders the measurements as a table and as a page. Invariant: each ratio compares figures of the same round, and the
 * result is the median of the ratios.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { type Measured, TITLES } from './samples.ts'
import { drawThroughput } from './svg.ts'
import { PEERS, SYSTEMS, type SystemName } from './systems.ts'

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  const upper = sorted[half] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? upper) + upper) / 2
}

const integer = (value: number) => Math.round(value).toLocaleString('en')

function spread(values: readonly number[]): string {
  if (values.length === 0) return '–'
  return `${integer(median(values))} (${integer(Math.min(...values))}–${integer(Math.max(...values))})`
}

/** Returns median and range of the ratios Holdfast / peer, each within one round. */
function ratio(results: readonly Measured[], products: number, peer: SystemName): string {
  const of = (system: SystemName) => results.filter((one) => one.products === products && one.system === system)
  const ratios = of('holdfast').flatMap((own) => {
    const other = of(peer).find((one) => one.round === own.round)
    return other ? [own.per_second / other.per_second] : []
  })
  if (ratios.length === 0) return '–'
  const digits = (value: number) => value.toFixed(2)
  return `${digits(median(ratios))} (${digits(Math.min(...ratios))}–${digits(Math.max(...ratios))})`
}

/** Returns a Markdown table, also readable as plain text. */
export function table(results: readonly Measured[]): string {
  const products = [...new Set(results.map((one) => one.products))]
  const header = ['products', ...SYSTEMS.map((name) => TITLES[name]), ...PEERS.map((peer) => `Holdfast / ${peer}`)]
  const rows = products.map((n) => [
    integer(n),
    ...SYSTEMS.map((system) =>
      spread(results.filter((one) => one.products === n && one.system === system).map((one) => one.per_second)),
    ),
    ...PEERS.map((peer) => ratio(results, n, peer)),
  ])
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padStart(widths[i] ?? 0)).join(' | ')} |`
  const rule = `|${widths.map((width) => `${'-'.repeat(width + 1)}:`).join('|')}|`
  return [line(header), rule, ...rows.map(line)].join('\n')
}

interface Setting {
  runs: number
  seconds: number
  warmup: number
  connections: number
  /** true if buyers wait for the settled purchase */
  wait: boolean
}

/** Writes results.md and throughput.svg into the folder; returns their paths. */
export function writeResults(
  folder: string,
  results: readonly Measured[],
  versions: readonly string[],
  { runs, seconds, warmup, connections, wait }: Setting,
): string[] {
  const [cpu] = cpus()
  const machine = [
    `${cpus().length} cores${cpu ? ` (${cpu.model.trim()})` : ''}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `Node ${process.versions.node}`,
    ...versions,
  ]
  const settings = PEERS.map((peer) => {
    const used = results.filter((one) => one.system === peer)
    const by = [...new Set(used.map(({ products, concurrency }) => `${concurrency} (${integer(products)} products)`))]
    return by.length > 0 ? `${TITLES[peer]}: ${by.join(', ')}.` : ''
  }).filter((text) => text !== '')
  const answer = wait ? 'the settled purchase (Prefer: wait)' : 'the 202'
  const products = [...new Set(results.map((one) => one.products))]
  const flags = `--runs=${runs} --seconds=${seconds} --products=${products.join(',')} --connections=${connections}${wait ? ' --answers=settled' : ''}`
  const page = `# Purchases settled per second

${table(results)}

Median (lowest–highest) of ${runs} ${runs === 1 ? 'run' : 'runs'}. Ratios are made within a round, in which the systems ran
one after the other; the last columns are the medians of those.

![Throughput over time](throughput.svg)

- Machine: ${machine.join(', ')}. Load generator, API, worker, Redis and Postgres (fsync on) all share it.
- Command: \`npm run bench -- ${flags}\`
- Load: ${connections} connections, each posts a purchase of one unit of a random product, waits for ${answer}, and posts
  the next, for ${seconds} s after ${warmup} s of warm-up that do not count. Stock never runs out.
- Settled: for Holdfast, rows that are \`confirmed\` in Postgres; for the peers, jobs completed. Divided by the time from the
  first request to the last settlement, so a line that is left when the load ends counts against the system that left it. A peer
  that is not done after ${2 * seconds} more seconds is counted up to there; Holdfast must finish.
- Each run has a database of its own and new processes: one API, one worker. After it the ledger is verified (Holdfast),
  stock and orders are compared (redlock), and every 202 is accounted for; otherwise the run is void.
- Jobs at once of the peers' workers: BullMQ's default, and the best found for the others. ${settings.join(' ')}
- The peers answer when Redis has the job (append-only file, fsync every second), Holdfast when Postgres has committed
  the row to disk.
`
  mkdirSync(folder, { recursive: true })
  const files = [join(folder, 'results.md'), join(folder, 'throughput.svg')]
  writeFileSync(files[0] ?? '', page)
  writeFileSync(files[1] ?? '', drawThroughput(middleRuns(results)))
  return files
}

/** Returns the median run of every system, for the smallest and for the largest number of products. */
function middleRuns(results: readonly Measured[]): Measured[][] {
  const products = [...new Set(results.map((one) => one.products))].sort((a, b) => a - b)
  const shown = products.length > 1 ? [products[0], products.at(-1)] : products
  return shown.map((n) =>
    SYSTEMS.flatMap((system) => {
      const runs = results.filter((one) => one.products === n && one.system === system)
      return runs.sort((a, b) => a.per_second - b.per_second)[(runs.length - 1) >> 1] ?? []
    }),
  )
}
