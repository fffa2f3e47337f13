/**
 * Parses and checks thresholds in k6's syntax: `p(95)<500`, `rate>0.99`, `count==1000`. A threshold that cannot be
 * evaluated stops the run before it starts.
 */
import { sinkOf } from './metrics.ts'
import { figureOf, isEmpty } from './sinks.ts'

/** An invalid value in a script's options. */
export class InvalidConfig extends Error {}

export interface Threshold {
  /** metric, with its tags if it is a part */
  readonly metric: string
  readonly source: string
  readonly figure: string
  /** returns the measured value that was compared */
  value(seconds: number): number
  holds(seconds: number): boolean
  /**
   * returns true if the threshold is violated during the run and aborts it; without a sample it is not violated, as in
   * k6
   */
  aborts(seconds: number): boolean
}

const OPERATORS: Record<string, (left: number, right: number) => boolean> = {
  '<': (left, right) => left < right,
  '<=': (left, right) => left <= right,
  '>': (left, right) => left > right,
  '>=': (left, right) => left >= right,
  '==': (left, right) => left === right,
  '===': (left, right) => left === right,
  '!=': (left, right) => left !== right,
}

export function readThresholds(option: unknown, secondsOf: (text: unknown) => number): Threshold[] {
  if (option === undefined) return []
  if (typeof option !== 'object' || option === null)
    throw new InvalidConfig('thresholds: an object of lists is expected')
  return Object.entries(option).flatMap(([metric, list]) => {
    if (!Array.isArray(list)) throw new InvalidConfig(`thresholds of ${metric}: a list is expected`)
    return list.map((entry) => readOne(metric, entry, secondsOf))
  })
}

function readOne(metric: string, entry: unknown, secondsOf: (text: unknown) => number): Threshold {
  const said = typeof entry === 'string' ? { threshold: entry } : (entry as Record<string, unknown>)
  const source = String(said.threshold)
  const [, figure = '', operator = '', bound = ''] =
    /^\s*(\S+?)\s*(<=|>=|===|==|!=|<|>)\s*(-?[\d.]+)\s*$/.exec(source) ?? []
  const compare = OPERATORS[operator]
  const right = Number(bound)
  if (!compare || Number.isNaN(right)) throw new InvalidConfig(`threshold ${source} of ${metric} cannot be read`)
  const found = sinkOf(metric)
  if (!found) throw new InvalidConfig(`threshold ${source}: there is no metric ${metric}`)
  if (figureOf(found.sink, figure, 1) === undefined)
    throw new InvalidConfig(`threshold ${source}: ${metric} is a ${found.sink.kind} and has no ${figure}`)
  const value = (seconds: number) => figureOf(found.sink, figure, seconds) ?? 0
  const holds = (seconds: number) => compare(value(seconds), right)
  const abort_after_s = said.delayAbortEval === undefined ? 0 : secondsOf(said.delayAbortEval)
  return {
    metric,
    source,
    figure,
    value,
    holds,
    aborts: (seconds) =>
      said.abortOnFail === true && seconds >= abort_after_s && !isEmpty(found.sink) && !holds(seconds),
  }
}
