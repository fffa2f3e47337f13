/**
 * Computes when iterations are due. Invariant: an open model, in which only the clock decides when the next iteration
 * starts, never the duration of answers. Executors and their limits are k6's (constant-arrival-rate,
 * ramping-arrival-rate).
 */
import { InvalidConfig } from './thresholds.ts'

export interface Scenario {
  readonly name: string
  readonly executor: string
  /** name of the exported function that the scenario runs */
  readonly exec: string
  readonly start_s: number
  readonly duration_s: number
  /** seconds after the scenario's end in which iterations may finish */
  readonly graceful_s: number
  readonly tags: Readonly<Record<string, string>>
  /** number of virtual users at the start, and the most that there may be */
  readonly vus: number
  readonly max_vus: number
  /** returns the number of iterations due within `at` seconds of the start; `iterations`: all of them */
  due(at: number): number
  readonly iterations: number
  /** returns the target rate, in iterations a second, `at` seconds after the start */
  rate(at: number): number
}

const UNITS_S: Record<string, number> = { h: 3_600, m: 60, s: 1, ms: 0.001, us: 0.000_001 }
const MIN_DURATION_S = 1
const DUE_EPSILON = 1e-9

/** Parses a duration such as `1m30s` or `500ms` to seconds. A number is milliseconds, as in k6. */
export function secondsOf(text: unknown): number {
  if (typeof text === 'number') return text / 1_000
  if (typeof text !== 'string' || !/^(\d+(\.\d+)?(h|ms|m|us|s))+$/.test(text))
    throw new InvalidConfig(`${String(text)} is no duration such as 1m30s`)
  return [...text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|us|s)/g)].reduce(
    (sum, [, amount, unit = 's']) => sum + Number(amount) * (UNITS_S[unit] ?? 1),
    0,
  )
}

const COMMON = ['executor', 'startTime', 'gracefulStop', 'exec', 'tags', 'preAllocatedVUs', 'maxVUs', 'timeUnit']
const OWN: Record<string, string[]> = {
  'constant-arrival-rate': ['rate', 'duration'],
  'ramping-arrival-rate': ['startRate', 'stages'],
}

export function readScenarios(option: unknown): Scenario[] {
  const found = Object.entries((option ?? {}) as Record<string, Record<string, unknown>>)
  if (found.length === 0) throw new InvalidConfig('options.scenarios has no scenario')
  return found.map(([name, said]) => readOne(name, said))
}

function readOne(name: string, said: Record<string, unknown>): Scenario {
  const executor = String(said.executor)
  const own = OWN[executor]
  if (!own)
    throw new InvalidConfig(`${name}: ${executor} is none of the executors here: ${Object.keys(OWN).join(', ')}`)
  const unknown = Object.keys(said).filter((key) => !COMMON.includes(key) && !own.includes(key))
  if (unknown.length > 0) throw new InvalidConfig(`${name}: ${executor} does not know ${unknown.join(', ')} here`)
  const whole = (key: string, value: unknown, least: number) => {
    if (!Number.isInteger(value) || Number(value) < least)
      throw new InvalidConfig(`${name}: ${key} is a whole number from ${least}, not ${String(value)}`)
    return Number(value)
  }
  const vus = whole('preAllocatedVUs', said.preAllocatedVUs, 1)
  const max_vus = said.maxVUs === undefined ? vus : whole('maxVUs', said.maxVUs, vus)
  const unit_s = secondsOf(said.timeUnit ?? '1s')
  const curve =
    executor === 'constant-arrival-rate'
      ? constant(whole('rate', said.rate, 1) / unit_s, secondsOf(said.duration))
      : ramping(
          whole('startRate', said.startRate ?? 0, 0) / unit_s,
          ((said.stages ?? []) as { target: unknown; duration: unknown }[]).map((stage) => ({
            target: whole('a target', stage.target, 0) / unit_s,
            duration_s: secondsOf(stage.duration),
          })),
        )
  if (curve.duration_s < MIN_DURATION_S)
    throw new InvalidConfig(`${name}: the duration must be at least 1s, but is ${curve.duration_s}s`)
  return {
    name,
    executor,
    exec: said.exec === undefined ? 'default' : String(said.exec),
    start_s: said.startTime === undefined ? 0 : secondsOf(said.startTime),
    graceful_s: secondsOf(said.gracefulStop ?? '30s'),
    tags: (said.tags ?? {}) as Record<string, string>,
    vus,
    max_vus,
    ...curve,
  }
}

function constant(per_second: number, duration_s: number) {
  const iterations = Math.floor(per_second * duration_s + DUE_EPSILON)
  return {
    duration_s,
    iterations,
    // The first iteration is due at once.
    due: (at: number) => (at < 0 ? 0 : Math.min(iterations, Math.floor(per_second * at + DUE_EPSILON) + 1)),
    rate: () => per_second,
  }
}

/**
 * Returns the ramp of the rate, which changes linearly from each target to the next. An iteration is due whenever the
 * area below the rate reaches a whole number.
 */
function ramping(start: number, stages: readonly { target: number; duration_s: number }[]) {
  let from = start
  let since_s = 0
  let area = 0
  const pieces = stages.map(({ target, duration_s }) => {
    const piece = { from, target, since_s, duration_s, area }
    area += ((from + target) / 2) * duration_s
    since_s += duration_s
    from = target
    return piece
  })
  const pieceAt = (at: number) => pieces.findLast((piece) => piece.since_s <= at && piece.duration_s > 0)
  const rate = (at: number) => {
    const piece = pieceAt(at)
    if (!piece) return start
    return piece.from + (piece.target - piece.from) * Math.min(1, (at - piece.since_s) / piece.duration_s)
  }
  return {
    duration_s: since_s,
    iterations: Math.floor(area + DUE_EPSILON),
    due(at: number) {
      const piece = pieceAt(Math.min(at, since_s))
      if (!piece || at < 0) return 0
      const into_s = Math.min(at - piece.since_s, piece.duration_s)
      return Math.floor(piece.area + ((piece.from + rate(piece.since_s + into_s)) / 2) * into_s + DUE_EPSILON)
    },
    rate,
  }
}
