/**
 * `k6/metrics`, and the values of every metric. Invariant: a sample counts in its metric and in every part of the
 * metric (`http_req_duration{name:buy}`) whose tags the sample has.
 */
import { createHistogram } from 'node:perf_hooks'
import type { CounterSink, GaugeSink, RateSink, Sink, TrendSink } from './sinks.ts'

export type Tags = Readonly<Record<string, string>>
export type Kind = Sink['kind']

interface Registered {
  readonly name: string
  /** true if the values are milliseconds */
  readonly time: boolean
  readonly sink: Sink
  /** parts of the metric, by their tags */
  readonly parts: { readonly label: string; readonly tags: Tags; readonly sink: Sink }[]
}

/** Highest value of a Trend's histogram, in thousandths: 2.7 hours if the values are milliseconds. */
const HIGHEST = 1e10
/** Significant digits of a percentile. k6 keeps every sample instead. */
const FIGURES = 3

function trend(): TrendSink {
  const histogram = createHistogram({ lowest: 1, highest: HIGHEST, figures: FIGURES })
  let [count, sum, min, max] = [0, 0, Number.POSITIVE_INFINITY, 0]
  return {
    kind: 'trend',
    get count() {
      return count
    },
    get min() {
      return count === 0 ? 0 : min
    },
    get max() {
      return max
    },
    get avg() {
      return count === 0 ? 0 : sum / count
    },
    percentile(p) {
      if (count === 0) return 0
      if (p === 0) return min
      // Samples are stored one higher, because the histogram has no zero.
      return Math.min(max, Math.max(min, (histogram.percentile(p) - 1) / 1_000))
    },
    add(value) {
      if (!(value >= 0)) throw new RangeError(`a Trend of this runner accepts numbers from 0, not ${value}`)
      count++
      sum += value
      min = Math.min(min, value)
      max = Math.max(max, value)
      histogram.record(Math.min(HIGHEST, Math.round(value * 1_000) + 1))
    },
  }
}

const counter = (): CounterSink => ({
  kind: 'counter',
  sum: 0,
  add(value) {
    this.sum += value
  },
})

const gauge = (): GaugeSink => ({
  kind: 'gauge',
  value: 0,
  min: Number.POSITIVE_INFINITY,
  max: 0,
  add(value) {
    this.value = value
    this.min = Math.min(this.min, value)
    this.max = Math.max(this.max, value)
  },
})

const rate = (): RateSink => ({
  kind: 'rate',
  trues: 0,
  total: 0,
  add(value) {
    this.total++
    if (value !== 0) this.trues++
  },
})

const SINKS: Record<Kind, () => Sink> = { trend, counter, gauge, rate }

const registry = new Map<string, Registered>()
let sealed = false
/** returns the tags of the running iteration; set by the engine */
let ambient: () => Tags = () => ({})

export function register(name: string, kind: Kind, time = false): Registered {
  const found = registry.get(name)
  if (found && (found.sink.kind !== kind || found.time !== time))
    throw new TypeError(`the metric ${name} is a ${found.sink.kind} already`)
  if (found) return found
  if (sealed) throw new Error(`metrics are made while the script is loaded, and ${name} is made later`)
  const made = { name, time, sink: SINKS[kind](), parts: [] }
  registry.set(name, made)
  return made
}

/** Forbids new metrics from now on. `tags`: returns the tags of the iteration that adds a sample. */
export function sealMetrics(tags: () => Tags): void {
  sealed = true
  ambient = tags
}

export function record(metric: Registered, value: number, tags: Tags = {}): void {
  metric.sink.add(value)
  if (metric.parts.length === 0) return
  const all: Tags = { ...ambient(), ...tags }
  for (const part of metric.parts) {
    if (Object.entries(part.tags).every(([key, wanted]) => all[key] === wanted)) part.sink.add(value)
  }
}

/** Returns the values of `name` or `name{tag:value,…}`. Creates the part at its first use. */
export function sinkOf(label: string): { sink: Sink; time: boolean } | undefined {
  const [, name = '', inner] = /^([^{]+)(?:\{(.*)\})?$/.exec(label) ?? []
  const metric = registry.get(name)
  if (!metric) return undefined
  if (inner === undefined) return metric
  const tags = Object.fromEntries(
    inner.split(',').map((pair) => {
      const at = pair.indexOf(':')
      if (at < 1) throw new TypeError(`${label}: a part is said as {tag:value}`)
      return [pair.slice(0, at).trim(), pair.slice(at + 1).trim()]
    }),
  )
  const found = metric.parts.find((part) => part.label === label)
  if (found) return { sink: found.sink, time: metric.time }
  const part = { label, tags, sink: SINKS[metric.sink.kind]() }
  metric.parts.push(part)
  return { sink: part.sink, time: metric.time }
}

export const everyMetric = (): readonly Registered[] => [...registry.values()]

/** Base of the metric classes: `new Counter(name)` adds the metric to the registry, as in k6. */
class Metric {
  readonly name: string
  readonly #registered: Registered
  constructor(name: string, kind: Kind, time = false) {
    if (!/^[a-zA-Z_]\w{0,127}$/.test(name)) throw new TypeError(`${name} is no name of a metric`)
    this.name = name
    this.#registered = register(name, kind, time)
  }
  add(value: number | boolean, tags?: Record<string, string>): void {
    const number = Number(value)
    if (Number.isNaN(number)) throw new TypeError(`${this.name}.add takes a number, not ${value}`)
    record(this.#registered, number, tags)
  }
}

export class Counter extends Metric {
  constructor(name: string) {
    super(name, 'counter')
  }
}
export class Gauge extends Metric {
  constructor(name: string) {
    super(name, 'gauge')
  }
}
export class Rate extends Metric {
  constructor(name: string) {
    super(name, 'rate')
  }
}
export class Trend extends Metric {
  constructor(name: string, time = false) {
    super(name, 'trend', time)
  }
}
