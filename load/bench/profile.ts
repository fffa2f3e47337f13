/**
 * Measures the cost of a run: processor seconds by process, Redis by command, Postgres by statement, V8 by function.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import postgres from 'postgres'
import type { NodeProcess } from '../lib/child-process.ts'
import type { Environment } from '../lib/environment.ts'

type Log = (line: string) => void

export interface Costs {
  /** Prints the cost since the profile was opened. */
  print(log: Log): Promise<void>
}

/** Linux counts in hundredths of a second. */
const TICK_S = 0.01
/** Lines of each list. */
const TOP = 25

/** Returns the processor seconds of a process and its children; 0 without /proc. */
function spent(pid: number): number {
  const ticks = (of: string) => {
    const fields = readFileSync(`/proc/${of}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
      .map(Number)
    return {
      parent: fields[1] ?? 0,
      own: (fields[11] ?? 0) + (fields[12] ?? 0),
      ended: (fields[13] ?? 0) + (fields[14] ?? 0),
    }
  }
  let sum = 0
  try {
    for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const { parent, own, ended } = ticks(entry)
        if (Number(entry) === pid) sum += own + ended
        else if (parent === pid) sum += own
      } catch {
        // The process ended meanwhile.
      }
    }
  } catch {
    return 0
  }
  return sum * TICK_S
}

async function commands(environment: Environment): Promise<Map<string, { calls: number; us: number }>> {
  const text = await environment.redis.info('commandstats')
  return new Map(
    Array.from(text.matchAll(/^cmdstat_(\S+):calls=(\d+),usec=(\d+)/gm), ([, name = '', calls, us]) => [
      name,
      { calls: Number(calls), us: Number(us) },
    ]),
  )
}

export async function openCosts(environment: Environment, processes: readonly NodeProcess[]): Promise<Costs> {
  const watched = new Map([
    ...processes.map(({ name, pid }) => [name, pid] as const),
    ...Object.entries(environment.pids),
  ])
  const sql = environment.statements ? postgres(environment.admin_url, { max: 1, onnotice: () => {} }) : undefined
  if (sql) {
    await sql`CREATE EXTENSION IF NOT EXISTS pg_stat_statements`
    await sql`SELECT pg_stat_statements_reset()`
  }
  const before = new Map(Array.from(watched, ([name, pid]) => [name, spent(pid)]))
  const redis = await commands(environment)
  const from = performance.now()
  return {
    async print(log) {
      const seconds = (performance.now() - from) / 1000
      const share = Array.from(watched, ([name, pid]) => {
        const cost = spent(pid) - (before.get(name) ?? 0)
        return `${name} ${cost.toFixed(1)} s (${Math.round((cost / seconds) * 100)} %)`
      })
      log(`processor time in ${seconds.toFixed(1)} s: ${share.join(', ')}`)
      const asked = Array.from(await commands(environment), ([name, { calls, us }]) => {
        const old = redis.get(name) ?? { calls: 0, us: 0 }
        return { name, calls: calls - old.calls, us: us - old.us }
      })
      for (const { name, calls, us } of asked
        .filter((one) => one.us > 0)
        .sort((a, b) => b.us - a.us)
        .slice(0, TOP)) {
        log(`  redis ${name}: ${calls} calls, ${Math.round(us / 1000)} ms, ${(us / calls).toFixed(1)} µs each`)
      }
      if (!sql) return
      const rows = await sql<{ calls: number; ms: number; mean: number; rows: number; wal: number; query: string }[]>`
        SELECT calls::float8, total_exec_time AS ms, mean_exec_time AS mean, rows::float8, wal_bytes::float8 AS wal,
               regexp_replace(query, '[[:space:]]+', ' ', 'g') AS query
        FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT ${TOP}`
      for (const { calls, ms, mean, rows: n, wal, query } of rows) {
        log(
          `  postgres ${Math.round(ms)} ms, ${calls} calls, ${mean.toFixed(2)} ms each, ${n} rows, ` +
            `${Math.round(wal / 1024)} KiB WAL: ${query.slice(0, 110)}`,
        )
      }
      await sql.end()
    },
  }
}

interface CpuProfile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number }; children?: number[] }[]
  samples: number[]
  timeDeltas: number[]
}

/**
 * Returns V8's flags that write the profiles of a process into a separate folder, from which printProfiles reads them.
 */
export const profileFlags = (folder: string, who: string) => ['--cpu-prof', `--cpu-prof-dir=${join(folder, who)}`]

/** CPU.date.time.pid.thread.number: thread 0 is the process itself, the others are tsx's. */
const MAIN_THREAD = /^CPU\.\d+\.\d+\.\d+\.0\.\d+\.cpuprofile$/

/** Prints the functions with the most self time, and the same by package. */
export function printProfiles(folder: string, log: Log): void {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  for (const file of files.filter((path) => MAIN_THREAD.test(basename(path)))) {
    const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as CpuProfile
    const us = new Map<number, number>()
    for (const [i, id] of samples.entries()) us.set(id, (us.get(id) ?? 0) + (timeDeltas[i] ?? 0))
    const functions = new Map<string, number>()
    const places = new Map<string, number>()
    let busy = 0
    for (const { id, callFrame } of nodes) {
      const own = us.get(id) ?? 0
      if (own === 0 || callFrame.functionName === '(idle)') continue
      busy += own
      const url = callFrame.url.replace(/^.*node_modules\//, '').replace(/^file:\/\/.*\/(src\/)/, '$1')
      const place = /^(@[^/]+\/[^/]+|src\/.*|[^/:]+|node:[^/]+)/.exec(url)?.[1] ?? 'V8'
      const name = `${callFrame.functionName || '(anonymous)'} ${url ? `${url}:${callFrame.lineNumber + 1}` : ''}`
      functions.set(name, (functions.get(name) ?? 0) + own)
      places.set(place, (places.get(place) ?? 0) + own)
    }
    const top = (what: Map<string, number>) =>
      [...what]
        .sort((a, b) => b[1] - a[1])
        .slice(0, TOP)
        .map(([name, own]) => `    ${((own / busy) * 100).toFixed(1).padStart(5)} %  ${name}`)
    log(`${file}: busy ${(busy / 1e6).toFixed(1)} s, from its start to its end`)
    for (const line of ['  by place', ...top(places), '  by function', ...top(functions)]) log(line)
  }
}
