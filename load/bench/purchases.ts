/**
 * `npm run bench`: measures purchases settled per second by Holdfast and by peers in the same run. The systems take
 * turns (A B C A B C …), each on a separate database with separate processes, so that a slow minute of the machine
 * affects all of them. A run whose counts do not match is void; then the exit code is 1.
 */
import { mkdirSync } from 'node:fs'
import { readCommand } from '../../ops/dev/command.mjs'
import { startNode } from '../lib/child-process.ts'
import { openEnvironment } from '../lib/environment.ts'
import type { Loaded } from './generator.ts'
import { type Costs, openCosts, printProfiles } from './profile.ts'
import { table, writeResults } from './results.ts'
import type { Measured } from './samples.ts'
import { type Running, SYSTEMS, type SystemName, startSystem } from './systems.ts'

/**
 * Concurrent jobs in the peers' workers. `bullmq` has BullMQ's default of one. `tuned` and redlock have the number (of
 * 1, 4, 16, 64 and 100) with which they settled most on two cores. With one product every further job of redlock only
 * polls for the lock, so redlock has a separate setting for that case, which an operator could not choose.
 */
const JOBS = { bullmq: () => 1, tuned: () => 16, redlock: (products: number) => (products === 1 ? 1 : 64) }
/** How long a peer may settle accepted purchases after the load, in multiples of the load's length. */
const DRAIN = 2
/** Seconds that Holdfast may take for the same; a longer run is void. */
const DRAIN_MAX_S = 60
const PROGRESS_MS = 1_000
/**
 * Milliseconds without pending purchases after which no more come. Until then some may come: the generator closes
 * connections with unanswered requests, whose purchases are still accepted and settled.
 */
const QUIET_MS = 1_000

const log = (line: string) => process.stdout.write(`bench: ${line}\n`)
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const USAGE = `
npm run bench [-- OPTIONS]     purchases settled per second, Holdfast beside two peers (docs/bench/results.md)
  --runs=3 --seconds=8 --warmup=2 --products=1,10,100,1000 --connections=128
  --answers=accepted           buyers wait for the 202; settled: for what became of it (Prefer: wait)
  --systems=${SYSTEMS.join(',')}
  --only=hot                   the same as --products=1
  --concurrency=16             jobs at once of the peers' workers, instead of the best found for each
  --appendfsync=everysec       or always: then the peers' 202 is as durable as Holdfast's
  --out=docs/bench             where results.md and throughput.svg go
  --profile=DIR                V8 profiles of Holdfast's processes into DIR, and what its servers spent`

const { values, whole, wholes, some, refuse } = readCommand({
  name: 'bench',
  usage: USAGE,
  options: {
    runs: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '8' },
    warmup: { type: 'string', default: '2' },
    products: { type: 'string', default: '1,10,100,1000' },
    connections: { type: 'string', default: '128' },
    answers: { type: 'string', default: 'accepted' },
    systems: { type: 'string', default: SYSTEMS.join(',') },
    only: { type: 'string' },
    concurrency: { type: 'string' },
    appendfsync: { type: 'string', default: 'everysec' },
    out: { type: 'string', default: 'docs/bench' },
    profile: { type: 'string' },
  },
})

function readOptions() {
  if (!['settled', 'accepted'].includes(values.answers)) refuse('--answers takes settled or accepted')
  if (values.only !== undefined && values.only !== 'hot') refuse('--only takes hot')
  if (!['everysec', 'always'].includes(values.appendfsync)) refuse('--appendfsync takes everysec or always')
  return {
    runs: whole('runs'),
    seconds: whole('seconds'),
    warmup: whole('warmup'),
    products: values.only ? [1] : wholes('products'),
    connections: whole('connections'),
    wait: values.answers === 'settled',
    systems: some('systems', SYSTEMS),
    concurrency: values.concurrency === undefined ? undefined : whole('concurrency'),
    appendfsync: values.appendfsync,
    out: values.out,
    profile: values.profile,
  }
}

type Options = ReturnType<typeof readOptions>

const nameOf = (products: number) => (products === 1 ? 'one hot product' : `${products.toLocaleString('en')} products`)

/** Returns a function that prints the seconds since `from_ms` and the number settled, at most once per PROGRESS_MS. */
function createProgress(what: string, running: Running) {
  let at = Date.now()
  let before = 0
  return async (phase: string) => {
    const now = Date.now()
    if (now - at < PROGRESS_MS) return
    const settled = await running.settled()
    log(`${what}: ${phase}, settled ${settled} (${Math.round(((settled - before) * 1000) / (now - at))}/s)`)
    at = now
    before = settled
  }
}

/** Measures one run on a running system: warm up, load, wait for the settlement, count. */
async function measure(running: Running, system: SystemName, products: number, what: string, options: Options) {
  const generator = startNode({ name: 'generator', entry: 'load/bench/generator.ts' })
  try {
    await generator.next('up')
    const load = { url: running.url, connections: options.connections, products, wait: options.wait }
    await generator.ask<Loaded>('load', { ...load, seconds: options.warmup })
    await running.reset()
    const costs: Costs | undefined = options.profile
      ? await openCosts(environment, [...running.processes, generator])
      : undefined
    const progress = createProgress(what, running)
    let over = false
    const loading = generator.ask<Loaded>('load', { ...load, seconds: options.seconds }).finally(() => {
      over = true
    })
    while (!over) {
      await Promise.race([loading, sleep(200)])
      if (!over) await progress('load')
    }
    const loaded = await loading
    const cap_s = system === 'holdfast' ? DRAIN_MAX_S : DRAIN * options.seconds
    let empty_at: number | undefined
    while (Date.now() < loaded.until_ms + cap_s * 1000) {
      if ((await running.left()) > 0) empty_at = undefined
      else empty_at ??= Date.now()
      if (empty_at !== undefined && Date.now() - empty_at > QUIET_MS) break
      await sleep(50)
      await progress('no more load')
    }
    const left = await running.left()
    if (costs) await costs.print(log)
    const count = await running.count(loaded.from_ms, loaded.accepted)
    if (loaded.refused > 0) count.faults.push(`${loaded.refused} requests were not answered 2xx`)
    if (count.settled === 0) count.faults.push('nothing was settled')
    const seconds = (count.last_ms - loaded.from_ms) / 1000
    return { ...count, left, loaded, seconds, per_second: count.settled / seconds }
  } finally {
    await generator.stop()
  }
}

async function run(system: SystemName, products: number, round: number, options: Options): Promise<Measured> {
  const what = `${nameOf(products)}, round ${round} of ${options.runs}, ${system}`
  log(`${what}: starting`)
  const concurrency = options.concurrency ?? (system === 'holdfast' ? 1 : JOBS[system](products))
  return await environment.withStore(async (store) => {
    const profile = system === 'holdfast' ? options.profile : undefined
    const running = await startSystem(system, store, { products, concurrency, profile })
    try {
      const result = await measure(running, system, products, what, options)
      const rest = result.left > 0 ? `, ${result.left} left` : ''
      log(
        `${what}: ${Math.round(result.per_second)}/s (${result.settled} in ${result.seconds.toFixed(1)} s${rest}), ` +
          `answer after ${result.loaded.p50_ms} ms p50, ${result.loaded.p99_ms} ms p99`,
      )
      for (const fault of result.faults) log(`${what}: VOID: ${fault}`)
      return { system, products, round, concurrency, ...result }
    } finally {
      await running.stop()
    }
  })
}

const options = readOptions()
const environment = await openEnvironment(log, {
  statements: options.profile !== undefined,
  appendfsync: options.appendfsync,
})
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The other processes of this terminal get the signal too, so the current run fails and its data is removed.
    interrupted = true
  })
}
try {
  if (options.profile) mkdirSync(options.profile, { recursive: true })
  const results: Measured[] = []
  for (const products of options.products) {
    for (let round = 1; round <= options.runs; round++) {
      for (const system of options.systems) {
        if (!interrupted) results.push(await run(system, products, round, options))
      }
    }
  }
  if (options.profile && options.systems.includes('holdfast')) printProfiles(options.profile, log)
  if (interrupted) {
    process.exitCode = 1
  } else {
    process.stdout.write(`\n${table(results)}\n`)
    const faults = results.filter((result) => result.faults.length > 0)
    if (faults.length > 0) {
      log(`${faults.length} runs are void; nothing was written`)
      process.exitCode = 1
    } else {
      for (const file of writeResults(options.out, results, environment.versions, options)) log(`wrote ${file}`)
    }
  }
} catch (error) {
  process.exitCode = 1
  if (!interrupted) log(error instanceof Error ? (error.stack ?? error.message) : String(error))
} finally {
  await environment.close()
}
