/**
 * `npm run chaos`: runs a real fleet under a mixed load, injects faults into processes, servers, network and clocks as
 * the seed says, and checks every answer that clients got. Exit code 1 if the checker finds an error (--guards: if it
 * misses a planted fault) or no fault happened. docs/chaos.md describes the faults and the claims; chaos-options.mjs
 * has the options.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { HURT } from '../test/chaos/claims-told.ts'
import { describe } from '../test/chaos/nemesis.ts'
import { CONTROLS, PLANTED, type Planted } from '../test/chaos/planted.ts'
import { type Options, type Progress, type Report, runChaos } from '../test/chaos/run.ts'
import { readOptions } from './chaos-options.mjs'
import { drawFigure, drawPanel, STYLE, STYLE_DARK } from './lib/chart.ts'

const log = (line: string) => process.stdout.write(`chaos: ${line}\n`)
const { seed, guards, without, out = '.data/chaos', picture: picture_file, refuse, ...run } = readOptions()

/** Below this share of the throughput before the faults, the fleet has not recovered, however busy the machine is. */
const BROKEN = 0.5

function plantedNamed(name: string): Planted {
  const found = [...PLANTED, ...CONTROLS].find((one) => one.name === name)
  if (found) return found
  return refuse(`--without takes ${[...PLANTED, ...CONTROLS].map((one) => one.name).join(', ')}, not ${name}`)
}

/** Milliseconds between two lines of progress without a terminal. */
const PROGRESS_MS = 5_000
/** time of the last line of progress, of this run or the run before */
let said_ms = 0

const seconds = (ms: number) => (ms / 1000).toFixed(1)

function progress({ at_ms, came, inside, answered, refused, unanswered, now, waits_for }: Progress): void {
  const faults = now.length > 0 ? `; ${now.map(describe).join('; ')}` : ''
  const draining = waits_for === undefined ? '' : `; waits for ${waits_for}`
  const line = `${seconds(at_ms).padStart(6)} s: ${came} came, ${inside} inside, ${answered} answered, ${refused} told 503, ${unanswered} without an answer${faults}${draining}`
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line.slice(0, (process.stdout.columns ?? 120) - 1)}`)
  else if (at_ms < said_ms || at_ms - said_ms >= PROGRESS_MS) {
    said_ms = at_ms
    log(line)
  }
}

/** Runs once and cleans up, also when it fails. */
async function once(options: Options): Promise<Report> {
  const steps: (() => Promise<void>)[] = []
  try {
    return await runChaos({ name: 'chaos', teardown: (step) => void steps.unshift(step) }, options, progress)
  } finally {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[K')
    for (const step of steps) await step()
  }
}

const brokenOf = (report: Report) => report.findings.filter((one) => one.offenders.length > 0)

/**
 * Returns true if the fleet has not recovered after the last fault. Less than half of the earlier throughput at the end
 * of the load cannot be explained by a busy machine.
 */
const isDown = ({ recovery }: Report) => recovery.last < BROKEN * recovery.before

function print(report: Report): void {
  const { faults, findings, recovery, entries, load_ms, drain_ms, unheard, turnedAway } = report
  log('what was done:')
  for (const fault of faults)
    log(`  ${seconds(fault.from_ms).padStart(6)} – ${seconds(fault.until_ms).padStart(6)} s  ${describe(fault)}`)
  log('what became of it:')
  for (const { invariant, looked_at, offenders } of findings) {
    log(`  ${offenders.length === 0 ? 'ok    ' : 'BROKEN'} ${invariant} (${looked_at} looked at)`)
    for (const one of offenders) log(`         ${one}`)
  }
  const tally = new Map<string, number>()
  for (const { status } of entries) tally.set(`${status || 'none'}`, (tally.get(`${status || 'none'}`) ?? 0) + 1)
  log(
    `requests ${entries.length}: ${[...tally]
      .sort()
      .map(([status, n]) => `${status} ${n}`)
      .join(', ')}; ${turnedAway} were not let in`,
  )
  log(
    `faults ${faults.length} of ${report.plan.length} planned, in ${seconds(load_ms)} s of load; everything had come to its end ${seconds(drain_ms)} s later`,
  )
  log(
    `without a key, and there all the same: told 503 ${unheard.refused} (the gap that the README names), told nothing ${unheard.unanswered}`,
  )
  const { before, after_s, last } = recovery
  const back =
    after_s === undefined
      ? 'not again 90 % of it while it was watched'
      : `90 % of it ${after_s.toFixed(1)} s after the last fault`
  log(`settled ${before.toFixed(1)}/s before the first fault, ${back}, ${last.toFixed(1)}/s in the end`)
}

const COLOURS = `${STYLE}
.line { stroke: #0969da } .after { stroke-dasharray: 3 3 } .span { fill: #cf222e; fill-opacity: .18 }
@media (prefers-color-scheme: dark) {
${STYLE_DARK}
  .line { stroke: #4493f8 } .span { fill: #f85149; fill-opacity: .25 }
}`

/** Draws the rows settled in each second, with the faults in the background. */
function picture({ settled, faults, load_ms }: Report, seed: number): string {
  const title = `Settled per second while the fleet is hurt, seed ${seed}`
  const lines = [{ name: 'settled', points: settled.map((n, second) => [second + 0.5, n] as const) }]
  const spans = faults.map((one) => ({ from: one.from_ms / 1000, until: one.until_ms / 1000, text: describe(one) }))
  const end_s = Math.max(1, settled.length)
  const mark = { at: load_ms / 1000, text: 'load ends' }
  return drawFigure({
    label: title,
    style: COLOURS,
    panels: [(top) => drawPanel({ title, lines, top, end_s, mark, spans })],
    legend: [{ name: 'settled', title: 'purchases, bookings and commands; behind them the faults' }],
    legendAt: () => 0,
  })
}

async function honest(options: Options): Promise<boolean> {
  const report = await once(options)
  print(report)
  const folder = options.folder ?? '.'
  const file = picture_file ?? join(folder, 'settled.svg')
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, picture(report, options.seed))
  writeFileSync(join(folder, 'findings.json'), JSON.stringify(report.findings, undefined, 2))
  log(`records, logs and findings are in ${folder}, the picture is ${file}`)
  const broken = brokenOf(report)
  if (isDown(report)) log('BROKEN: it does not settle half of what it did before')
  const found = broken.length > 0 || isDown(report)
  log(`seed ${options.seed}: ${report.findings.length - broken.length} claims hold, ${broken.length} broken`)
  return !found
}

/** Runs once with a planted fault. Returns true if the checker has found it. */
async function found(planted: Planted, options: Options): Promise<boolean> {
  log(`without ${planted.name}: ${planted.what} out`)
  // Ignore the claim that a fault happened: it says nothing about whether the checker finds the planted one. A control
  // run needs it, since a run without faults proves nothing.
  const broken = brokenOf(await once({ ...options, planted })).filter(
    (one) => planted.harmless || one.invariant !== HURT,
  )
  const [first] = broken
  log(
    first
      ? `without ${planted.name}: FOUND: ${broken.map((one) => `${one.invariant} (${one.offenders.length}, such as ${one.offenders[0]})`).join('; ')}`
      : `without ${planted.name}: nothing is found`,
  )
  return first !== undefined
}

const options: Options = { seed, ...run }

if (guards) {
  let missed = 0
  let false_alarms = 0
  for (const control of CONTROLS) if (await found(control, options)) false_alarms++
  for (const planted of PLANTED) if (!(await found(planted, options))) missed++
  log(`${PLANTED.length - missed} of ${PLANTED.length} planted faults are found, seed ${seed}`)
  log(`with the guards in place ${false_alarms === 0 ? 'nothing is found' : `there are ${false_alarms} false alarms`}`)
  process.exitCode = missed + false_alarms === 0 ? 0 : 1
} else if (without !== undefined) {
  // With a planted fault the checker is expected to find an error, and then the exit code is 1.
  process.exitCode = (await found(plantedNamed(without), options)) ? 1 : 0
} else {
  const time = new Date().toISOString().replaceAll(/[-:]|\..*/g, '')
  // Add the time to the folder's name: a second run of a seed goes differently, and neither must overwrite the other.
  const folder = join(out, `seed-${seed}-${time}`)
  log(`seed ${seed}, ${run.seconds} s of load, ${run.rate} come in a second; records go to ${folder}`)
  process.exitCode = (await honest({ ...options, folder })) ? 0 : 1
}
// End now, although libraries may keep handles open.
process.exit()
