/**
 * `npm run bench -- locks`: the lock library beside node-redlock, redis-semaphore and redlock-universal, in the same run.
 * Each library in turn, A B C D A B C D …, each measurement in a new process on an empty Redis without persistence.
 *
 *   npm run bench -- locks --runs=5 --seconds=4
 *     --libraries=holdfast,node-redlock     which ones are measured
 *     --scenarios=pair,distinct             which measurements are made
 *     --out=docs/bench                      where locks.md and locks.svg go
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { ensureRedisServer } from '../ops/install.mjs'
import { startRedis } from '../ops/services.mjs'
import { LIBRARIES, type Library } from './locks/libraries.ts'
import { type Figure, lockTable, SCENARIOS, type ScenarioName, writeLockResults } from './locks/results.ts'
import type { Task } from './locks/run.ts'
import { startNode } from './node.ts'

const NODES = 3
const say = (line: string) => process.stdout.write(`bench: ${line}\n`)

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '4' },
    libraries: { type: 'string', default: LIBRARIES.join(',') },
    scenarios: { type: 'string', default: Object.keys(SCENARIOS).join(',') },
    out: { type: 'string', default: 'docs/bench' },
  },
})

function whole(name: string, text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new Error(`--${name} takes a whole number from 1, not ${text}`)
  return Number(text)
}

function some<T extends string>(name: string, text: string, known: readonly T[]): T[] {
  const asked = text.split(',')
  const unknown = asked.filter((one) => !known.includes(one as T))
  if (unknown.length > 0) throw new Error(`--${name} takes ${known.join(', ')}, not ${unknown.join(', ')}`)
  return known.filter((one) => asked.includes(one))
}

async function measure(library: Library, scenario: ScenarioName, urls: string[], seconds: number): Promise<Figure> {
  const { kind, loops, nodes } = SCENARIOS[scenario]
  const child = startNode({ name: `${library} (${scenario})`, entry: './locks/run.ts' })
  try {
    await child.next('up')
    const task: Task = { library, urls: urls.slice(0, nodes), scenario: kind, loops, seconds }
    return (await child.ask<{ result: Figure }>('measure', task)).result
  } finally {
    await child.stop()
  }
}

const runs = whole('runs', values.runs)
const seconds = whole('seconds', values.seconds)
const libraries = some('libraries', values.libraries, LIBRARIES)
const scenarios = some('scenarios', values.scenarios, Object.keys(SCENARIOS) as ScenarioName[])
const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
const undo: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })]
try {
  const urls: string[] = []
  const clients: Redis[] = []
  for (let node = 0; node < NODES; node++) {
    const own = join(folder, String(node))
    mkdirSync(own)
    const server = await startRedis({ folder: own, binary: ensureRedisServer(say), say: () => {} })
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
        const told = Object.entries(figure).map(([name, value]) => `${name} ${Number(value).toFixed(2)}`)
        say(`${SCENARIOS[scenario].title}, round ${round} of ${runs}, ${library}: ${told.join(', ')}`)
      }
    }
  }
  process.stdout.write(`\n${lockTable(results)}\n\n`)
  for (const file of writeLockResults(values.out, results, { runs, seconds, version })) say(`wrote ${file}`)
} catch (error) {
  process.exitCode = 1
  say(error instanceof Error ? (error.stack ?? error.message) : String(error))
} finally {
  for (const step of undo.reverse()) await step()
}
