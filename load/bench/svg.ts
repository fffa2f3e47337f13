/** Draws throughput over time as SVG. */
import { drawFigure, drawPanel, STYLE, STYLE_DARK } from '../lib/chart.ts'
import { STEP_MS } from './peers/settled-counter.ts'
import { type Measured, TITLES } from './samples.ts'

const COLOURS = `${STYLE}
.holdfast { stroke: #0969da } .bullmq { stroke: #bc4c00 } .tuned { stroke: #57606a } .redlock { stroke: #8250df }
.after { stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
${STYLE_DARK}
  .holdfast { stroke: #4493f8 } .bullmq { stroke: #f0883e } .tuned { stroke: #9198a1 } .redlock { stroke: #ab7df8 }
}`

/**
 * Returns one point per step, zeros included, in the middle of the step. Leaves out the last step, which is incomplete.
 */
function pointsOf({ timeline, loaded }: Measured): [number, number][] {
  const settled = new Map(timeline)
  const first = Math.floor(loaded.from_ms / STEP_MS)
  const last = timeline.at(-1)?.[0] ?? first
  return Array.from({ length: Math.max(0, last - first) }, (_, i): [number, number] => [
    ((first + i + 0.5) * STEP_MS - loaded.from_ms) / 1000,
    ((settled.get(first + i) ?? 0) * 1000) / STEP_MS,
  ]).filter(([at]) => at >= 0)
}

function panel(runs: readonly Measured[], top: number): string {
  const [any] = runs
  if (!any) return ''
  const load_s = (any.loaded.until_ms - any.loaded.from_ms) / 1000
  const lines = runs.map((run) => ({ name: run.system, points: pointsOf(run) }))
  const what = any.products === 1 ? 'One hot product' : `${any.products.toLocaleString('en')} products`
  return drawPanel({
    title: `${what}: purchases settled per second`,
    lines,
    top,
    end_s: Math.max(load_s, ...lines.flatMap(({ points }) => points.map(([at]) => at))),
    mark: { at: load_s, text: 'load ends' },
  })
}

/** Draws one panel for each list of runs, with one line for each run. */
export function drawThroughput(panels: readonly (readonly Measured[])[]): string {
  const systems = [...new Set(panels.flatMap((runs) => runs.map((run) => run.system)))]
  return drawFigure({
    label: 'Purchases settled per second over time',
    style: COLOURS,
    panels: panels.map((runs) => (top) => panel(runs, top)),
    legend: systems.map((name) => ({ name, title: TITLES[name] })),
    // The second title starts earlier, because the first one is short.
    legendAt: (i) => (i === 0 ? 0 : 110 + (i - 1) * 210),
  })
}
