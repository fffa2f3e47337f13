/** Renders a run as one self-contained HTML file: thresholds, checks, invariants, and charts over time. */
import { drawFigure, drawPanel, type Line, STYLE, STYLE_DARK } from '../lib/chart.ts'
import type { Result } from './engine.ts'
import { figureOfThreshold, summary } from './summary.ts'
import type { Second } from './timeline.ts'

const COLOURS = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6']
const LINES = `${STYLE}
.c1 { stroke: #0969da } .c2 { stroke: #bc4c00 } .c3 { stroke: #8250df } .c4 { stroke: #1a7f37 } .c5 { stroke: #cf222e }
.c6 { stroke: #57606a }
@media (prefers-color-scheme: dark) {
${STYLE_DARK}
  .c1 { stroke: #4493f8 } .c2 { stroke: #f0883e } .c3 { stroke: #ab7df8 } .c4 { stroke: #3fb950 } .c5 { stroke: #ff7b72 }
  .c6 { stroke: #9198a1 }
}`
const PAGE = `
:root { color-scheme: light dark; --fg: #24292f; --bg: #fff; --line: #d0d7de; --good: #1a7f37; --bad: #cf222e }
@media (prefers-color-scheme: dark) {
  :root { --fg: #f0f6fc; --bg: #0d1117; --line: #3d444d; --good: #3fb950; --bad: #ff7b72 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg); max-width: 880px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .25rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line) } td { overflow-wrap: anywhere } td:first-child { white-space: nowrap }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
svg { width: 100%; height: auto; display: block; overflow: visible }
pre { overflow-x: auto; font-size: 12px; line-height: 1.4 }
@media (max-width: 640px) {
  body { margin: 1rem auto; padding: 0 .75rem } th, td { padding: .3rem .25rem } td:first-child span span { display: none }
  /* A chart shrinks to less than half its size: its text and lines grow by as much. */
  svg { margin-bottom: 1rem } svg text, svg .title { font-size: 22px } svg .line { stroke-width: 4 }
}`

export interface Verdict {
  invariant: string
  looked_at: number
  offenders: readonly string[]
}

interface Report {
  name: string
  url: string
  /** variables of the run, such as `RATE=500` */
  given: readonly string[]
  result: Result
  /** verdicts about the database after the run, or the reason why it was not checked */
  verdicts: readonly Verdict[] | string
  at: Date
}

const escaped = (text: string) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`)
const mark = (good: boolean) =>
  good ? '<span class="good">✓<span> holds</span></span>' : '<span class="bad">✗<span> broken</span></span>'

function figure(
  label: string,
  title: string,
  series: { title: string; of: (one: Second) => number }[],
  all: readonly Second[],
) {
  const named = series.map((one, i) => ({ ...one, name: COLOURS[i % COLOURS.length] ?? 'c6' }))
  const lines: Line[] = named.map(({ name, of }) => ({
    name,
    // Place each point in the middle of its second.
    points: all.map((one) => [one.at - one.length / 2, of(one)] as const),
  }))
  return drawFigure({
    label,
    style: LINES,
    panels: [(top) => drawPanel({ title, lines, top, end_s: all.at(-1)?.at ?? 1 })],
    legend: named,
    legendAt: (before) => before * 130,
  })
}

function charts(all: readonly Second[]): string {
  const statuses = [...new Set(all.flatMap((one) => Object.keys(one.statuses)))].sort()
  const per_second = (count: (one: Second) => number) => (one: Second) => count(one) / one.length
  const answers = (one: Second) => Object.values(one.statuses).reduce((sum, n) => sum + n, 0)
  return [
    figure(
      'Answers per second, by status',
      'Answers per second',
      [
        ...(statuses.length > 1 ? [{ title: 'all', of: per_second(answers) }] : []),
        ...statuses.map((status) => ({
          title: status === '0' ? 'no answer' : status,
          of: per_second((one) => one.statuses[status] ?? 0),
        })),
      ],
      all,
    ),
    figure(
      'Latency percentiles over time',
      'Milliseconds until the answer',
      [
        { title: 'p50', of: (one) => one.p50_ms },
        { title: 'p95', of: (one) => one.p95_ms },
        { title: 'p99', of: (one) => one.p99_ms },
      ],
      all,
    ),
    figure(
      'Virtual users and dropped iterations',
      'Virtual users at work; iterations dropped per second',
      [
        { title: 'VUs', of: (one) => one.vus },
        { title: 'dropped', of: per_second((one) => one.dropped) },
      ],
      all,
    ),
  ].join('\n')
}

export function report({ name, url, given, result, verdicts, at }: Report): string {
  const thresholds = result.thresholds.map(
    (one) =>
      `<tr><td>${mark(one.passed)}</td><td>${escaped(one.metric)}</td><td>${escaped(one.source)}</td>` +
      `<td class="number">${escaped(figureOfThreshold(result, one))}</td></tr>`,
  )
  const checks = [...result.checks].map(
    ([check, { passes, fails }]) =>
      `<tr><td>${mark(fails === 0)}</td><td>${escaped(check)}</td><td class="number">${passes}</td><td class="number">${fails}</td></tr>`,
  )
  const invariants =
    typeof verdicts === 'string'
      ? `<p>Not asked: ${escaped(verdicts)}.</p>`
      : `<table><tr><th></th><th>Invariant</th><th class="number">Looked at</th></tr>${verdicts
          .map(
            (one) =>
              `<tr><td>${mark(one.offenders.length === 0)}</td><td>${escaped(one.invariant)}${
                one.offenders.length > 0 ? `: ${escaped(one.offenders.join(', '))}` : ''
              }</td><td class="number">${one.looked_at}</td></tr>`,
          )
          .join('')}</table>`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(name)}: load report</title>
<style>${PAGE}</style>
</head>
<body>
<h1>${escaped(name)}</h1>
<p>${at.toISOString()}, ${escaped(url)}${given.length > 0 ? `, ${escaped(given.join(' '))}` : ''}; ${result.complete} iterations
in ${result.seconds.toFixed(1)} s, ${result.dropped} dropped, ${result.interrupted} interrupted; the latest began
${Math.round(result.late_ms)} ms after it was due.</p>
<h2>Thresholds</h2>
<table><tr><th></th><th>Metric</th><th>Threshold</th><th class="number">Was</th></tr>${thresholds.join('')}</table>
<h2>Over time</h2>
${charts(result.timeline)}
<h2>Checks</h2>
<table><tr><th></th><th>Check</th><th class="number">Passes</th><th class="number">Fails</th></tr>${checks.join('')}</table>
<h2>Invariants in the database</h2>
${invariants}
<h2>Summary</h2>
<pre>${escaped(summary(result))}</pre>
</body>
</html>
`
}
