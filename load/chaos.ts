/**
 * `npm run chaos [-- --seed=N --seconds=60 | --minutes=30 --rate=30 --without=GUARD --guards --out=DIR --picture=FILE]`: a
 * real fleet under a mixed load while processes, servers, network and clocks are hurt as the seed says, and a verdict on
 * everything that clients were told. Exit code 1 when the checker objects (--guards: when it misses a planted fault). What
 * is done and what is proven is in docs/chaos.md.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { describe } from '../test/chaos/nemesis.ts'
import { CONTROLS, PLANTED, type Planted } from '../test/chaos/planted.ts'
import { type Options, type Progress, type Report, runChaos } from '../test/chaos/run.ts'
import { drawFigure, drawPanel, STYLE, STYLE_DARK } from './chart.ts'

const say = (line: string) => process.stdout.write(`chaos: ${line}\n`)
const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seconds: { type: 'string' },
    minutes: { type: 'string' },
    rate: { type: 'string', default: '30' },
    without: { type: 'string' },
    guards: { type: 'boolean', default: false },
    out: { type: 'string' },
    picture: { type: 'string' },
  },
})

/** Seconds of a run with a planted fault. */
const PLANTED_S = 30
/** Seconds of load before the first fault and after the last: what is compared with each other. */
const CALM_S = [10, 16] as const
/** Below this share of what was settled before, the fleet has not come back, however busy the machine. */
const BROKEN = 0.5

function whole(name: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  process.stderr.write(`chaos: --${name} takes a whole number, not ${text}\n`)
  process.exit(2)
}

function plantedNamed(name: string): Planted {
  const found = [...PLANTED, ...CONTROLS].find((one) => one.name === name)
  if (found) return found
  process.stderr.write(
    `chaos: --without takes ${[...PLANTED, ...CONTROLS].map((one) => one.name).join(', ')}, not ${name}\n`,
  )
  process.exit(2)
}

const seconds = (ms: number) => (ms / 1000).toFixed(1)

function progress({ at_ms, came, inside, answered, refused, unanswered, now }: Progress): void {
  const faults = now.length > 0 ? `; ${now.map(describe).join('; ')}` : ''
  const line = `${seconds(at_ms).padStart(6)} s: ${came} came, ${inside} inside, ${answered} answered, ${refused} told 503, ${unanswered} without an answer${faults}`
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line.slice(0, (process.stdout.columns ?? 120) - 1)}`)
  else if (Math.round(at_ms / 1000) % 5 === 0) say(line)
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

/** Not back after the last fault: half of what it did before, at the end of the load, is no busy machine's doing. */
const isDown = ({ recovery }: Report) => recovery.last < BROKEN * recovery.before

function print(report: Report): void {
  const { faults, findings, recovery, entries, load_ms, drain_ms, unheard, turnedAway } = report
  say('what was done:')
  for (const fault of faults)
    say(`  ${seconds(fault.from_ms).padStart(6)} – ${seconds(fault.until_ms).padStart(6)} s  ${describe(fault)}`)
  say('what became of it:')
  for (const { invariant, looked_at, offenders } of findings) {
    say(`  ${offenders.length === 0 ? 'ok    ' : 'BROKEN'} ${invariant} (${looked_at} looked at)`)
    for (const one of offenders) say(`         ${one}`)
  }
  const tally = new Map<string, number>()
  for (const { status } of entries) tally.set(`${status || 'none'}`, (tally.get(`${status || 'none'}`) ?? 0) + 1)
  say(
    `requests ${entries.length}: ${[...tally]
      .sort()
      .map(([status, n]) => `${status} ${n}`)
      .join(', ')}; ${turnedAway} were not let in`,
  )
  say(
    `faults ${faults.length} of ${report.plan.length} planned, in ${seconds(load_ms)} s of load; everything had come to its end ${seconds(drain_ms)} s later`,
  )
  say(
    `without a key, and there all the same: told 503 ${unheard.refused} (the gap that the README names), told nothing ${unheard.unanswered}`,
  )
  const { before, after_s, last } = recovery
  const back =
    after_s === undefined
      ? 'not again 90 % of it while it was watched'
      : `90 % of it ${after_s.toFixed(1)} s after the last fault`
  say(`settled ${before.toFixed(1)}/s before the first fault, ${back}, ${last.toFixed(1)}/s in the end`)
}

const COLOURS = `${STYLE}
.line { stroke: #0969da } .after { stroke-dasharray: 3 3 } .span { fill: #cf222e; fill-opacity: .18 }
@media (prefers-color-scheme: dark) {
${STYLE_DARK}
  .line { stroke: #4493f8 } .span { fill: #f85149; fill-opacity: .25 }
}`

/** What was settled in each second, and behind it when something was done to the fleet. */
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
  const file = values.picture ?? join(folder, 'settled.svg')
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, picture(report, options.seed))
  writeFileSync(join(folder, 'findings.json'), JSON.stringify(report.findings, undefined, 2))
  say(`records, logs and findings are in ${folder}, the picture is ${file}`)
  const broken = brokenOf(report)
  if (isDown(report)) say('BROKEN: it does not settle half of what it did before')
  const found = broken.length > 0 || isDown(report)
  say(`seed ${options.seed}: ${report.findings.length - broken.length} claims hold, ${broken.length} broken`)
  return !found
}

/** True when the checker has found what is missing. */
async function found(planted: Planted, options: Options): Promise<boolean> {
  say(`without ${planted.name}: ${planted.what} out`)
  const broken = brokenOf(await once({ ...options, planted }))
  const [first] = broken
  say(
    first
      ? `without ${planted.name}: FOUND: ${broken.map((one) => `${one.invariant} (${one.offenders.length}, such as ${one.offenders[0]})`).join('; ')}`
      : `without ${planted.name}: nothing is found`,
  )
  return first !== undefined
}

const seed = values.seed === undefined ? Date.now() % 2 ** 31 : whole('seed', values.seed)
const length_s = values.minutes ? 60 * whole('minutes', values.minutes) : whole('seconds', values.seconds ?? '60')
const options: Options = { seed, seconds: length_s, rate: whole('rate', values.rate), calm_s: CALM_S }

if (values.guards) {
  const short = { ...options, seconds: PLANTED_S, calm_s: [3, 5] as const }
  let missed = 0
  let false_alarms = 0
  for (const control of CONTROLS) if (await found(control, short)) false_alarms++
  for (const planted of PLANTED) if (!(await found(planted, short))) missed++
  say(`${PLANTED.length - missed} of ${PLANTED.length} planted faults are found, seed ${seed}`)
  say(`with the guards in place ${false_alarms === 0 ? 'nothing is found' : `there are ${false_alarms} false alarms`}`)
  process.exitCode = missed + false_alarms === 0 ? 0 : 1
} else if (values.without !== undefined) {
  const short = values.seconds || values.minutes ? options : { ...options, seconds: PLANTED_S, calm_s: [3, 5] as const }
  // A verdict that it is broken is what a planted fault asks for, and an exit code of 1.
  process.exitCode = (await found(plantedNamed(values.without), short)) ? 1 : 0
} else {
  const folder = values.out ?? `.data/chaos/seed-${seed}`
  rmSync(folder, { recursive: true, force: true })
  say(`seed ${seed}, ${length_s} s of load, ${options.rate} come in a second`)
  process.exitCode = (await honest({ ...options, folder })) ? 0 : 1
}
// What libraries still keep open is of no use any more.
process.exit()
