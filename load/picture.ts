/** Throughput over time as SVG, by hand. Legible on white and on black: it brings no background of its own. */
import { type Measured, TITLES } from './measured.ts'
import { STEP_MS } from './peers/settled.ts'

const WIDTH = 860
const PANEL = 250
const LEFT = 64
const RIGHT = 16
const TOP = 34
const BOTTOM = 40
const LEGEND = 30

const STYLE = `
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 14px; font-weight: 600; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: .3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.holdfast { stroke: #0969da } .bullmq { stroke: #bc4c00 } .tuned { stroke: #57606a } .redlock { stroke: #8250df }
.after { stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc }
  .holdfast { stroke: #4493f8 } .bullmq { stroke: #f0883e } .tuned { stroke: #9198a1 } .redlock { stroke: #ab7df8 }
}`

/** A round number of which four or five steps reach `max`. */
function stepOf(max: number): number {
  const raw = max / 4
  const power = 10 ** Math.floor(Math.log10(raw))
  return ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) ?? 10) * power
}

interface Point {
  /** seconds since the first request */
  at: number
  per_second: number
}

/** One point a step, zeros included, each in the middle of its step; the last step is partly empty and left out. */
function pointsOf({ timeline, loaded }: Measured): Point[] {
  const settled = new Map(timeline)
  const first = Math.floor(loaded.from_ms / STEP_MS)
  const last = timeline.at(-1)?.[0] ?? first
  return Array.from({ length: Math.max(0, last - first) }, (_, i) => ({
    at: ((first + i + 0.5) * STEP_MS - loaded.from_ms) / 1000,
    per_second: ((settled.get(first + i) ?? 0) * 1000) / STEP_MS,
  })).filter(({ at }) => at >= 0)
}

function panel(runs: readonly Measured[], top: number): string {
  const [any] = runs
  if (!any) return ''
  const load_s = (any.loaded.until_ms - any.loaded.from_ms) / 1000
  const series = runs.map((run) => ({ run, points: pointsOf(run) }))
  const end_s = Math.max(load_s, ...series.flatMap(({ points }) => points.map(({ at }) => at)))
  const highest = Math.max(1, ...series.flatMap(({ points }) => points.map(({ per_second }) => per_second)))
  const step = stepOf(highest)
  const ceiling = Math.ceil(highest / step) * step
  const bottom = top + PANEL - BOTTOM
  const x = (at: number) => (LEFT + (at / end_s) * (WIDTH - LEFT - RIGHT)).toFixed(1)
  const y = (value: number) => (bottom - (value / ceiling) * (PANEL - TOP - BOTTOM)).toFixed(1)
  const parts = [
    `<text class="title" x="${LEFT}" y="${top + 18}">${
      any.products === 1 ? 'One hot product' : `${any.products.toLocaleString('en')} products`
    }: purchases settled per second</text>`,
  ]
  for (let value = 0; value <= ceiling; value += step) {
    parts.push(
      `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}"/>`,
      `<text x="${LEFT - 8}" y="${Number(y(value)) + 4}" text-anchor="end">${value.toLocaleString('en')}</text>`,
    )
  }
  const tick = Math.max(1, Math.ceil(end_s / 12))
  for (let at = 0; at <= end_s; at += tick) {
    parts.push(`<text x="${x(at)}" y="${bottom + 18}" text-anchor="middle">${at} s</text>`)
  }
  parts.push(
    `<line class="grid after" x1="${x(load_s)}" x2="${x(load_s)}" y1="${top + TOP}" y2="${bottom}"/>`,
    `<text x="${Number(x(load_s)) + (load_s > end_s * 0.8 ? -4 : 4)}" y="${top + TOP + 10}" text-anchor="${
      load_s > end_s * 0.8 ? 'end' : 'start'
    }">load ends</text>`,
  )
  for (const { run, points } of series) {
    const path = points.map(({ at, per_second }) => `${x(at)},${y(per_second)}`).join(' ')
    parts.push(`<polyline class="line ${run.system}" points="${path}"/>`)
  }
  return parts.join('\n')
}

/** One panel for each list of runs, one line for each run. */
export function drawThroughput(panels: readonly (readonly Measured[])[]): string {
  const height = panels.length * PANEL + LEGEND
  const systems = [...new Set(panels.flatMap((runs) => runs.map((run) => run.system)))]
  const legend = systems.map((system, i) => {
    // The first title is short.
    const at = LEFT + (i === 0 ? 0 : 110 + (i - 1) * 210)
    const y = height - LEGEND / 2
    return (
      `<line class="line ${system}" x1="${at}" x2="${at + 24}" y1="${y}" y2="${y}"/>` +
      `<text x="${at + 32}" y="${y + 4}">${TITLES[system]}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="Purchases settled per second over time">
<style>${STYLE}
</style>
${panels.map((runs, i) => panel(runs, i * PANEL)).join('\n')}
${legend.join('\n')}
</svg>
`
}
