/**
 * Runs one k6 script in this process: setup, its scenarios, teardown, thresholds. Invariant: an iteration that is due
 * but finds no free virtual user is dropped and counted, never postponed; every iteration that began is counted as
 * complete or interrupted.
 */

import { watch } from './http.ts'
import { type Iteration, running, tagsNow } from './iteration.ts'
import { checked } from './k6.ts'
import { createLoop } from './loop.ts'
import { record, register, sealMetrics, sinkOf } from './metrics.ts'
import { readScenarios, type Scenario, secondsOf } from './scenarios.ts'
import { InvalidConfig, readThresholds, type Threshold } from './thresholds.ts'
import { createTimeline, type Second } from './timeline.ts'

/** An error of the script itself, while it was loaded, in setup or in teardown. */
export class ScriptError extends Error {}

export interface Progress {
  readonly seconds: number
  readonly vus: number
  readonly max_vus: number
  readonly complete: number
  readonly interrupted: number
  readonly dropped: number
  readonly scenarios: readonly { scenario: Scenario; seconds: number; vus: number }[]
}

export interface Result extends Progress {
  readonly thresholds: readonly (Threshold & { readonly passed: boolean })[]
  readonly checks: typeof checked
  readonly trend_stats: readonly string[]
  readonly timeline: readonly Second[]
  /** error message → number of iterations that ended with it */
  readonly errors: ReadonlyMap<string, number>
  /** true if a threshold with abortOnFail ended the run early */
  readonly aborted: boolean
  readonly stopped: boolean
  /** longest delay between the due time of an iteration and its start, in milliseconds */
  readonly late_ms: number
}

export interface Audience {
  progress(progress: Progress): void
  error(text: string): void
  /** when this signal aborts, no iteration begins any more, and running ones are interrupted */
  stop: AbortSignal
}

export interface Script {
  readonly scenarios: readonly Scenario[]
  /** Runs the script. Resolves when teardown is over. */
  run(audience: Audience): Promise<Result>
}

const METRICS = {
  iterations: register('iterations', 'counter'),
  duration: register('iteration_duration', 'trend', true),
  dropped: register('dropped_iterations', 'counter'),
  vus: register('vus', 'gauge'),
  vus_max: register('vus_max', 'gauge'),
}
const OPTIONS = ['scenarios', 'thresholds', 'setupTimeout', 'teardownTimeout', 'summaryTrendStats']
const TREND_STATS = ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)']
const PHASE_TIMEOUT = '60s'
/** Milliseconds between two samples of the timeline, and between two checks of thresholds that abort. */
const SAMPLE_MS = 1_000
/** Number of different errors of iterations that are printed with their stacks. */
const TOLD_ERRORS = 5

type Exported = Record<string, unknown> & { options?: Record<string, unknown> }

/** Loads the script and reads its options; throws ScriptError or InvalidConfig before anything is sent. */
export async function loadScript(url: string): Promise<Script> {
  const exported = (await import(url).catch((error) => {
    throw new ScriptError(error?.stack ?? String(error))
  })) as Exported
  const { options = {} } = exported
  const unknown = Object.keys(options).filter((key) => !OPTIONS.includes(key))
  if (unknown.length > 0) throw new InvalidConfig(`this runner does not know the options ${unknown.join(', ')}`)
  const scenarios = readScenarios(options.scenarios)
  for (const { name, exec } of scenarios) {
    if (typeof exported[exec] !== 'function') throw new InvalidConfig(`${name}: the script exports no function ${exec}`)
  }
  const thresholds = readThresholds(options.thresholds, secondsOf)
  // k6's summary always contains this metric.
  sinkOf('http_req_duration{expected_response:true}')
  sealMetrics(tagsNow)
  return { scenarios, run: (audience) => run(exported, options, scenarios, thresholds, audience) }
}

/** Runs setup or teardown. */
async function phase(
  exported: Exported,
  name: 'setup' | 'teardown',
  timeout: unknown,
  data?: unknown,
): Promise<unknown> {
  const body = exported[name]
  if (typeof body !== 'function') return undefined
  const timeout_s = secondsOf(timeout ?? PHASE_TIMEOUT)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ScriptError(`${name}() took more than ${timeout_s} s`)), timeout_s * 1_000)
  })
  try {
    return await Promise.race([body(data), late])
  } catch (error) {
    if (error instanceof ScriptError) throw error
    throw new ScriptError(`${name}(): ${error instanceof Error ? error.stack : String(error)}`)
  } finally {
    clearTimeout(timer)
  }
}

async function run(
  exported: Exported,
  options: Record<string, unknown>,
  scenarios: readonly Scenario[],
  thresholds: readonly Threshold[],
  tell: Audience,
): Promise<Result> {
  const made = await phase(exported, 'setup', options.setupTimeout)
  // k6 passes the data on as JSON. undefined stays undefined.
  const data = made === undefined ? undefined : JSON.parse(JSON.stringify(made))
  const errors = new Map<string, number>()
  const timeline = createTimeline()
  watch.answered = timeline.answered
  const began = performance.now()
  const seconds = () => (performance.now() - began) / 1_000

  async function iterate(iteration: Iteration) {
    const since = performance.now()
    try {
      await running.run(iteration, exported[iteration.scenario.exec] as (data: unknown) => unknown, data)
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error)
      const before = errors.get(text)
      errors.set(text, (before ?? 0) + 1)
      if (before === undefined && errors.size <= TOLD_ERRORS)
        tell.error(`${iteration.scenario.name}: ${error instanceof Error ? error.stack : text}`)
    }
    if (iteration.interrupted) return
    record(METRICS.iterations, 1, iteration.tags)
    record(METRICS.duration, performance.now() - since, iteration.tags)
  }

  let ids = 0
  const loops = scenarios.map((scenario) =>
    createLoop({
      scenario,
      iterate,
      nextVu: () => ++ids,
      dropped(count) {
        record(METRICS.dropped, count, { ...scenario.tags, scenario: scenario.name })
      },
    }),
  )
  const sum = (of: (loop: (typeof loops)[number]) => number) => loops.reduce((total, loop) => total + of(loop), 0)
  const progress = (): Progress => ({
    seconds: seconds(),
    vus: sum((loop) => loop.active()),
    max_vus: sum((loop) => loop.vus()),
    complete: sum((loop) => loop.complete()),
    interrupted: sum((loop) => loop.interrupted()),
    dropped: sum((loop) => loop.dropped()),
    scenarios: loops.map((loop, i) => ({
      scenario: scenarios[i] as Scenario,
      seconds: loop.seconds(),
      vus: loop.active(),
    })),
  })
  const stop = () => loops.forEach((loop) => void loop.stop())
  let aborted = false
  const sample = () => {
    const now = progress()
    record(METRICS.vus, now.vus)
    record(METRICS.vus_max, now.max_vus)
    timeline.close(now)
    tell.progress(now)
    const failing = thresholds.find((one) => one.aborts(now.seconds))
    if (!failing || aborted) return
    aborted = true
    tell.error(`threshold ${failing.source} of ${failing.metric} does not hold: stopping`)
    stop()
  }
  const timer = setInterval(sample, SAMPLE_MS)
  tell.stop.addEventListener('abort', stop)
  if (tell.stop.aborted) stop()
  try {
    await Promise.all(loops.map((loop) => loop.done))
  } finally {
    clearInterval(timer)
  }
  sample()
  const ran = progress()
  await phase(exported, 'teardown', options.teardownTimeout, data)
  return {
    ...ran,
    thresholds: thresholds.map((one) => ({ ...one, passed: one.holds(ran.seconds) })),
    checks: checked,
    trend_stats: (options.summaryTrendStats as string[] | undefined) ?? TREND_STATS,
    timeline: timeline.seconds(),
    errors,
    aborted,
    stopped: tell.stop.aborted,
    late_ms: Math.max(...loops.map((loop) => loop.late_ms())),
  }
}
