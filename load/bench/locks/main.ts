/**
 * `npm run bench -- locks`: compares the lock library with node-redlock, redis-semaphore and, where it is installed,
 * redlock-universal. The libraries take turns (A B C D A B C D …). Each measurement runs in a new process on an empty
 * Redis without persistence.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { readCommand } from '../../../ops/dev/command.mjs'
import { ensureRedisServer } from '../../../ops/dev/install.mjs'
import { startRedis } from '../../../ops/dev/local-servers.mjs'
import { startNode } from '../../lib/child-process.ts'
import { INSTALLED, type Library } from './libraries.ts'
import { type Figure, lockTable, SCENARIOS, type ScenarioName, writeLockResults } from './results.ts'
import type { Task } from './run.ts'

const NODES = 3
const log = (line: string) => process.stdout.write(`bench: ${line}\n`)

const USAGE = `
npm run bench -- locks [OPTIONS]     the lock library beside others (docs/bench/locks.md)
  --runs=3 --seconds=4
  --libraries=${INSTALLED.join(',')}
  --scenarios=${Object.keys(SCENARIOS).join(',')}
  --out=docs/bench     where locks.md and locks.svg go
redlock-universal is measured where it is installed: npm install --no-save redlock-universal@0.8.5 (Node 22 or newer)`

const { values, whole, some } = readCommand({
  name: 'bench locks',
  usage: USAGE,
  options: {
    runs: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '4' },
    libraries: { type: 'string', default: INSTALLED.join(',') },
    scenarios: { type: 'string', default: Object.keys(SCENARIOS).join(',') },
    out: { type: 'string', default: 'docs/bench' },
  },
})

async function measure(library: Library, scenario: ScenarioName, urls: string[], seconds: number): Promise<Figure> {
  const { kind, loops, nodes } = SCENARIOS[scenario]
  const child = startNode({ name: `${library} (${scenario})`, entry: 'load/bench/locks/run.ts' })
  try {
    await child.next('up')
    const task: Task = { library, urls: urls.slice(0, nodes), scenario: kind, loops, seconds }
    return (await child.ask<{ result: Figure }>('measure', task)).result
  } finally {
    await child.stop()
  }
}

const runs = whole('runs', { to: 9_999 })
const seconds = whole('seconds', { to: 9_999 })
const libraries = some('libraries', INSTALLED)
const scenarios = some('scenarios', Object.keys(SCENARIOS) as ScenarioName[])
const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
const undo: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })]
try {
  const urls: string[] = []
  const clients: Redis[] = []
  for (let node = 0; node < NODES; node++) {
    const own = join(folder, String(node))
    mkdirSync(own)
    const server = await startRedis({ folder: own, binary: ensureRedisServer(log), log: () => {} })
    undo.push(() => server.stop())
    const client = new Redis(server.url)
    undo.push(() => client.disconnect())
    await client.config('SET', 'save', '', 'appendonly', 'no')
    urls.push(server.url)
    clients.push(client)
  }
  const version = /redis_version:(\S+)/.exec((await clients[0]?.info('server')) ?? '')?.[1] ?? ''
  const results: { library: Library; scenario: ScenarioName; round: number; figure: Figure }[] = []
  for (const scenario of scenarios) {
    for (let round = 1; round <= runs; round++) {
      for (const library of libraries) {
        for (const client of clients) await client.flushall()
        const figure = await measure(library, scenario, urls, seconds)
        results.push({ library, scenario, round, figure })
        const figures = Object.entries(figure).map(([name, value]) => `${name} ${Number(value).toFixed(2)}`)
        log(`${SCENARIOS[scenario].title}, round ${round} of ${runs}, ${library}: ${figures.join(', ')}`)
      }
    }
  }
  process.stdout.write(`\n${lockTable(results)}\n\n`)
  for (const file of writeLockResults(values.out, results, { runs, seconds, version })) log(`wrote ${file}`)
} catch (error) {
  process.exitCode = 1
  log(error instanceof Error ? (error.stack ?? error.message) : String(error))
} finally {
  for (const step of undo.reverse()) await step()
}
