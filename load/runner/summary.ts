/** Prints a run as a summary like that of k6, and its progress line. */
import type { Progress, Result } from './engine.ts'
import { everyMetric } from './metrics.ts'
import { figureOf, isEmpty, type Sink } from './sinks.ts'

const DOTS = 34
/** The groups of k6's built-in metrics. All other metrics belong to the script. */
const GROUPS: [title: string, of: (name: string) => boolean][] = [
  ['HTTP', (name) => name.startsWith('http_')],
  ['EXECUTION', (name) => /^(iterations|iteration_duration|dropped_iterations|vus|vus_max)$/.test(name)],
  ['NETWORK', (name) => name.startsWith('data_')],
]
/** Metrics that only k6's full summary shows. */
const LEFT_OUT = /^http_req_(blocked|connecting|sending|waiting|receiving)$/

function duration(ms: number): string {
  if (ms >= 60_000) return `${Math.floor(ms / 60_000)}m${((ms % 60_000) / 1_000).toFixed(1)}s`
  if (ms >= 1_000) return `${(ms / 1_000).toFixed(2)}s`
  if (ms >= 1) return `${ms.toFixed(2)}ms`
  return ms === 0 ? '0s' : `${(ms * 1_000).toFixed(2)}µs`
}

function bytes(count: number): string {
  if (count < 1_000) return `${Math.round(count)} B`
  const power = Math.min(3, Math.floor(Math.log10(count) / 3))
  return `${(count / 1_000 ** power).toFixed(1)} ${['B', 'kB', 'MB', 'GB'][power]}`
}

const plain = (value: number) => (Number.isInteger(value) ? `${value}` : value.toFixed(2))
const percent = (share: number) => `${(share * 100).toFixed(2)}%`

/** Formats a figure in the unit of its metric. */
function shown(sink: Sink, time: boolean, value: number): string {
  if (sink.kind === 'rate') return percent(value)
  return sink.kind === 'trend' && time ? duration(value) : plain(value)
}

function line(name: string, sink: Sink, time: boolean, result: Result): string {
  switch (sink.kind) {
    case 'counter': {
      const show = name.startsWith('data_') ? bytes : plain
      const per_second = sink.sum / result.seconds
      return `${show(sink.sum)}  ${name.startsWith('data_') ? bytes(per_second) : per_second.toFixed(2)}/s`
    }
    case 'gauge':
      return `${sink.value}  min=${Math.min(sink.min, sink.max)} max=${sink.max}`
    case 'rate':
      return `${percent(figureOf(sink, 'rate', 1) ?? 0)} ${sink.trues} out of ${sink.total}`
    case 'trend':
      return result.trend_stats.map((name) => `${name}=${shown(sink, time, figureOf(sink, name, 1) ?? 0)}`).join(' ')
  }
}

const dotted = (name: string, text: string) => `    ${`${name}`.padEnd(DOTS, '.')}: ${text}`

export function summary(result: Result): string {
  const out: string[] = []
  if (result.thresholds.length > 0) out.push('', '  █ THRESHOLDS')
  let metric = ''
  for (const one of result.thresholds) {
    if (one.metric !== metric) out.push('', `    ${one.metric}`)
    metric = one.metric
    out.push(`    ${one.passed ? '✓' : '✗'} '${one.source}' ${one.figure}=${figureOfThreshold(result, one)}`)
  }
  out.push('', '', '  █ TOTAL RESULTS', '')
  const all = [...result.checks.values()]
  const [passes, fails] = [all.reduce((sum, one) => sum + one.passes, 0), all.reduce((sum, one) => sum + one.fails, 0)]
  const total = passes + fails
  if (total > 0) {
    out.push(
      dotted('checks_total', `${total}  ${(total / result.seconds).toFixed(2)}/s`),
      dotted('checks_succeeded', `${percent(passes / total)} ${passes} out of ${total}`),
      dotted('checks_failed', `${percent(fails / total)} ${fails} out of ${total}`),
      '',
    )
    for (const [name, one] of result.checks) {
      out.push(`    ${one.fails === 0 ? '✓' : '✗'} ${name}`)
      if (one.fails > 0) {
        const share = Math.floor((one.passes / (one.passes + one.fails)) * 100)
        out.push(`      ↳  ${share}% — ✓ ${one.passes} / ✗ ${one.fails}`)
      }
    }
    out.push('')
  }
  const metrics = everyMetric()
    .filter(({ name, sink }) => name !== 'checks' && !LEFT_OUT.test(name) && !isEmpty(sink))
    .toSorted((one, other) => one.name.localeCompare(other.name))
  const own = (name: string) => !GROUPS.some(([, of]) => of(name))
  for (const [title, of] of [['CUSTOM', own] as const, ...GROUPS]) {
    const group = metrics.filter(({ name }) => of(name))
    if (group.length === 0) continue
    out.push(`    ${title}`)
    for (const { name, sink, time, parts } of group) {
      out.push(dotted(name, line(name, sink, time, result)))
      for (const part of parts) {
        if (!isEmpty(part.sink)) {
          const label = part.label.slice(part.label.indexOf('{')).replace('{', '{ ').replace('}', ' }')
          out.push(dotted(`  ${label}`, line(name, part.sink, time, result)))
        }
      }
    }
    out.push('')
  }
  return out.join('\n')
}

export function figureOfThreshold(result: Result, one: Result['thresholds'][number]): string {
  const found = everyMetric().find(({ name }) => name === one.metric.split('{')[0])
  const value = one.value(result.seconds)
  if (!found) return plain(value)
  return one.figure === 'count' ? plain(value) : shown(found.sink, found.time, value)
}

/**
 * Returns `running (0m03.0s), 012/200 VUs, 2900 complete and 0 interrupted iterations`, and the progress of each
 * scenario.
 */
export function progressLine(progress: Progress): string {
  const clock = (s: number) => `${Math.floor(s / 60)}m${(s % 60).toFixed(1).padStart(4, '0')}s`
  const scenarios = progress.scenarios.map(({ scenario, seconds, vus }) => {
    const share = Math.min(1, seconds / scenario.duration_s)
    const rate = `${scenario.rate(seconds).toFixed(0)} iters/s`
    return `${scenario.name} ${Math.floor(share * 100)}% ${vus} VUs ${rate}`
  })
  const dropped = progress.dropped > 0 ? `, ${progress.dropped} dropped` : ''
  return (
    `running (${clock(progress.seconds)}), ${progress.vus}/${progress.max_vus} VUs, ${progress.complete} complete and ` +
    `${progress.interrupted} interrupted iterations${dropped}  [${scenarios.join('; ')}]`
  )
}
