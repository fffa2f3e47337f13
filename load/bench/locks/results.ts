/**
 * Renders the measurements of the lock libraries as tables and as a page. Invariant: each ratio compares figures of the
 * same round.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { median } from '../results.ts'
import type { Library } from './libraries.ts'
import type { Line, Pairs } from './scenarios.ts'
import { drawBars } from './svg.ts'

export const SCENARIOS = {
  pair: { title: 'one caller, no contention', kind: 'pairs', loops: 1, nodes: 1 },
  distinct: { title: '64 callers on keys of their own', kind: 'pairs', loops: 64, nodes: 1 },
  hot20: { title: 'one hot key, 20 wait, held for 2 ms', kind: 'line', loops: 20, nodes: 1 },
  hot200: { title: 'one hot key, 200 wait, held for 2 ms', kind: 'line', loops: 200, nodes: 1 },
  quorum: { title: 'one caller on a quorum of three Redis', kind: 'pairs', loops: 1, nodes: 3 },
} as const
export type ScenarioName = keyof typeof SCENARIOS

export type Figure = Pairs | Line

export interface Measured {
  library: Library
  scenario: ScenarioName
  round: number
  figure: Figure
}

const HEADS = {
  pairs: ['p50', 'p99', 'pairs/s', 'CPU/pair', 'p50, Holdfast to it', 'pairs/s, Holdfast to it'],
  line: ['handovers/s', 'of the ideal', 'p50 wait', 'p99 wait', 'inversions', 'handovers/s, Holdfast to it'],
} as const

/** Returns the median over rounds of the number that `pick` returns. */
function middle<F extends Figure>(results: readonly Measured[], pick: (figure: F) => number): number {
  return median(results.map(({ figure }) => pick(figure as F)))
}

/** Returns the median over rounds of Holdfast's figure divided by that of the other library. */
function ratio<F extends Figure>(own: readonly Measured[], its: readonly Measured[], pick: (f: F) => number): string {
  const ratios = its.flatMap((one) => {
    const mine = own.find(({ round }) => round === one.round)
    return mine ? [pick(mine.figure as F) / pick(one.figure as F)] : []
  })
  return ratios.length > 0 ? median(ratios).toFixed(2) : '–'
}

const whole = (value: number) => Math.round(value).toLocaleString('en')
const ms = (value: number) => `${value < 10 ? value.toFixed(3) : whole(value)} ms`

function cells(kind: 'pairs' | 'line', own: readonly Measured[], its: readonly Measured[]): string[] {
  const rate = (figure: Figure) => figure.per_second
  if (kind === 'pairs') {
    const p50 = (figure: Pairs) => figure.p50_ms
    return [
      ms(middle<Pairs>(its, p50)),
      ms(middle<Pairs>(its, (figure) => figure.p99_ms)),
      whole(middle(its, rate)),
      `${whole(middle<Pairs>(its, (figure) => figure.cpu_us_per_pair))} µs`,
      ratio<Pairs>(own, its, p50),
      ratio(own, its, rate),
    ]
  }
  return [
    whole(middle(its, rate)),
    `${whole(100 * middle<Line>(its, (figure) => figure.per_second / figure.ideal_per_second))} %`,
    ms(middle<Line>(its, (figure) => figure.p50_wait_ms)),
    ms(middle<Line>(its, (figure) => figure.p99_wait_ms)),
    whole(middle<Line>(its, (figure) => figure.inversions)),
    ratio(own, its, rate),
  ]
}

/** Returns a Markdown table for each scenario, also readable as plain text. */
export function lockTable(results: readonly Measured[]): string {
  const scenarios = [...new Set(results.map(({ scenario }) => scenario))]
  const parts = scenarios.map((scenario) => {
    const { kind, title } = SCENARIOS[scenario]
    const here = results.filter((one) => one.scenario === scenario)
    const of = (library: Library) => here.filter((one) => one.library === library)
    const libraries = [...new Set(here.map(({ library }) => library))]
    const rows = [
      ['library', ...HEADS[kind]],
      ...libraries.map((library) => [library, ...cells(kind, of('holdfast'), of(library))]),
    ]
    const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
    const lines = rows.map((row) => `| ${row.map((cell, i) => cell.padStart(widths[i] ?? 0)).join(' | ')} |`)
    lines.splice(1, 0, `|${widths.map((width) => `${'-'.repeat(width + 1)}:`).join('|')}|`)
    return `### ${title[0]?.toUpperCase()}${title.slice(1)}\n\n${lines.join('\n')}`
  })
  return parts.join('\n\n')
}

interface Setting {
  runs: number
  seconds: number
  version: string
}

/** Writes locks.md and locks.svg into the folder; returns their paths. */
export function writeLockResults(folder: string, results: readonly Measured[], setting: Setting): string[] {
  const { runs, seconds, version } = setting
  const [cpu] = cpus()
  const page = `# Locks: acquire, release, hand over

![Handovers and pairs a second](locks.svg)

${lockTable(results)}

Medians of ${runs} ${runs === 1 ? 'run' : 'runs'} of ${seconds} s. Ratios are made within a round, in which the libraries ran one after the other.

- Machine: ${cpus().length} cores${cpu ? ` (${cpu.model.trim()})` : ''}, Node ${process.versions.node}, Redis ${version} without persistence, all on one machine.
- Command: \`npm run bench -- locks --runs=${runs} --seconds=${seconds}\`
- Each measurement has a process of its own and an empty Redis. TTL 10 s. Every library waits without end, with the delays between attempts
  that are its defaults (node-redlock: 200 ms ± 200; redis-semaphore: 10 ms; redlock-universal: 100 ms).
- A pair is an acquire and its release. CPU/pair: user and system time of the client's process.
- A hot key: all come at once, each holds for 2 ms (a timer) and lets go; when all were served, the next ones come. The ideal
  is the same process holding 2 ms after 2 ms without a lock.
- Inversions: grants that passed a caller who had come before and was still waiting.
`
  mkdirSync(folder, { recursive: true })
  const files = [join(folder, 'locks.md'), join(folder, 'locks.svg')] as const
  writeFileSync(files[0], page)
  const scenarios = [...new Set(results.map(({ scenario }) => scenario))]
  const panels = scenarios.map((scenario) => {
    const here = results.filter((one) => one.scenario === scenario)
    const bars = [...new Set(here.map(({ library }) => library))].map((library) => ({
      name: library,
      value: middle(
        here.filter((one) => one.library === library),
        (figure) => figure.per_second,
      ),
    }))
    const unit = SCENARIOS[scenario].kind === 'pairs' ? 'pairs/s' : 'handovers/s'
    return { title: `${SCENARIOS[scenario].title}: ${unit}`, bars }
  })
  writeFileSync(files[1], drawBars(panels))
  return [...files]
}
