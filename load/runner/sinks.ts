/** The stored samples of the four kinds of metric. */

export interface CounterSink {
  kind: 'counter'
  sum: number
  add(value: number): void
}

export interface GaugeSink {
  kind: 'gauge'
  /** the last sample */
  value: number
  min: number
  max: number
  add(value: number): void
}

export interface RateSink {
  kind: 'rate'
  /** number of samples that were not 0 */
  trues: number
  total: number
  add(value: number): void
}

export interface TrendSink {
  kind: 'trend'
  readonly count: number
  readonly min: number
  readonly max: number
  readonly avg: number
  /** `p` from 0 to 100; 0 when there is no sample */
  percentile(p: number): number
  add(value: number): void
}

export type Sink = CounterSink | GaugeSink | RateSink | TrendSink

/** Returns true if the sink has no sample that counts. */
export const isEmpty = (sink: Sink): boolean =>
  (sink.kind === 'counter' && sink.sum === 0) ||
  (sink.kind === 'rate' && sink.total === 0) ||
  (sink.kind === 'trend' && sink.count === 0)

/**
 * Returns one number of a metric by its name in thresholds and summaries: `count`, `rate`, `value`, `avg`, `min`,
 * `med`, `max`, `p(95)`. Returns undefined if this kind has no such number, as in k6.
 */
export function figureOf(sink: Sink, name: string, seconds: number): number | undefined {
  switch (sink.kind) {
    case 'counter':
      return name === 'count' ? sink.sum : name === 'rate' ? (seconds > 0 ? sink.sum / seconds : 0) : undefined
    case 'gauge':
      return name === 'value' ? sink.value : undefined
    case 'rate':
      return name === 'rate' ? (sink.total === 0 ? 0 : sink.trues / sink.total) : undefined
    case 'trend': {
      if (name === 'avg' || name === 'min' || name === 'max' || name === 'count') return sink[name]
      if (name === 'med') return sink.percentile(50)
      const [, p] = /^p\((\d+(?:\.\d+)?)\)$/.exec(name) ?? []
      return p === undefined || Number(p) > 100 ? undefined : sink.percentile(Number(p))
    }
  }
}
