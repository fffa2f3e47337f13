/**
 * A chart over time, drawn by uPlot. Invariant: time without samples is a gap; a line connects measured samples only. The
 * caption holds the newest values as text, or those under the pointer.
 */
import { clock, minute, NONE } from '../format.js'
import { useEffect, useRef, useState } from '../hooks.js'
import uPlot from '../uplot.js'
import { html } from '../view.js'

const HEIGHT = 150
const [MINUTE_S, HOUR_S, DAY_S] = [60, 3_600, 86_400]
/** Seconds that may lie between two labels of the x axis. */
const STEPS_S = [1, 5, 10, 30, MINUTE_S, 2 * MINUTE_S, 5 * MINUTE_S, 10 * MINUTE_S, 30 * MINUTE_S]
  .concat([1, 2, 4, 6, 12].map((n) => n * HOUR_S))
  .concat([1, 2, 7, 14, 30, 90, 365].map((n) => n * DAY_S))
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
const dark = matchMedia('(prefers-color-scheme: dark)')

/**
 * Columns of uPlot, with an empty sample where two samples are more than `gap_s` apart.
 * @param {{ at: string }[]} samples @param {((sample: any) => number | null)[]} series @param {number} gap_s
 * @returns {any[]}
 */
export function columnsOf(samples, series, gap_s) {
  const columns = [[], ...series.map(() => [])]
  let last = 0
  for (const sample of samples) {
    const seconds = Date.parse(sample.at) / 1000
    if (last && seconds - last > gap_s) {
      columns[0].push(last + 1)
      for (const column of columns.slice(1)) column.push(null)
    }
    last = seconds
    columns[0].push(seconds)
    for (const [i, of] of series.entries()) columns[i + 1].push(of(sample))
  }
  return columns
}

/**
 * @param {{ title: string, series: { name: string, colour: string, stepped?: boolean }[], columns: any[], format: (value: number) => string,
 *   range?: () => [number, number], marks?: { from: number, to: number, level: string }[], sync?: string, least?: number }} props
 * `range`: seconds that the x axis shows; default: those of the samples. `least`: the smallest upper end of the y axis.
 */
export function Chart({ title, series, columns, format, range, marks = [], sync, least = 1 }) {
  const place = useRef(null)
  const plot = useRef(null)
  const shown = useRef({ marks, range })
  shown.current = { marks, range }
  const [index, setIndex] = useState(null)
  useEffect(() => {
    const options = optionsOf({ series, format, shown, least, sync, width: place.current.clientWidth, setIndex })
    plot.current = new uPlot(options, columns, place.current)
    const sizes = new ResizeObserver(([{ contentRect }]) =>
      plot.current.setSize({ width: contentRect.width, height: HEIGHT }),
    )
    sizes.observe(place.current)
    const redraw = () => plot.current.redraw()
    dark.addEventListener('change', redraw)
    return () => {
      sizes.disconnect()
      dark.removeEventListener('change', redraw)
      plot.current.destroy()
    }
  }, [])
  useEffect(() => plot.current.setData(columns), [columns])
  const at = index ?? columns[0].length - 1
  const value = (i) => (columns[i + 1][at] == null ? NONE : format(columns[i + 1][at]))
  return html`
    <figure>
      <figcaption>
        <strong>${title}</strong>
        ${series.map((one, i) => html`<span class="value">${series.length > 1 && html`<i class="swatch" data-colour=${one.colour}></i>`}${one.name} <b>${value(i)}</b></span>`)}
        <span class="value muted">${index === null ? '' : clock(columns[0][at] * 1000)}</span>
      </figcaption>
      <div class="chart" ref=${place}></div>
    </figure>`
}

/** Returns the label of a time: with seconds, or as a date, where the step needs it. */
function label(at_s, step_s) {
  const at = new Date(at_s * 1000)
  if (step_s >= DAY_S) return at.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' })
  return step_s >= MINUTE_S ? minute(+at) : clock(+at)
}

function optionsOf({ series, format, shown, least, sync, width, setIndex }) {
  const axis = {
    stroke: () => colour('--muted'),
    grid: { stroke: () => colour('--rule'), width: 1 },
    ticks: { show: false },
    font: `12px ${getComputedStyle(document.body).fontFamily}`,
  }
  /** @type {uPlot.Options} */
  const options = {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, ...(sync && { sync: { key: sync } }) },
    scales: {
      x: { time: true, range: (_plot, min, max) => shown.current.range?.() ?? [min ?? 0, max ?? 1] },
      y: { range: (_plot, _min, max) => [0, Math.max(max ?? 0, least) * 1.1] },
    },
    axes: [
      {
        ...axis,
        size: 28,
        space: 60,
        incrs: STEPS_S,
        values: (_plot, ticks, _axis, _space, step_s) => ticks.map((at) => label(at, step_s)),
      },
      { ...axis, size: 66, space: 36, values: (_plot, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...series.map((one) => ({
        stroke: () => colour(one.colour),
        width: 2,
        points: { size: 4, filter: alone },
        ...(one.stepped && { paths: uPlot.paths.stepped({ align: 1 }) }),
      })),
    ],
    hooks: {
      drawClear: [(plot) => drawMarks(plot, shown.current.marks)],
      setCursor: [({ cursor }) => setIndex(cursor.left >= 0 ? (cursor.idx ?? null) : null)],
    },
  }
  return options
}

/** Draws a band behind the lines wherever the condition was not green. */
function drawMarks(plot, marks) {
  const { ctx, bbox } = plot
  ctx.save()
  for (const { from, to, level } of marks) {
    const x = Math.max(plot.valToPos(from, 'x', true), bbox.left)
    const end = Math.min(plot.valToPos(to, 'x', true), bbox.left + bbox.width)
    if (end < x) continue
    ctx.fillStyle = colour(`--${level}-paper`)
    ctx.fillRect(x, bbox.top, Math.max(end - x, 2), bbox.height)
    // The edge differs by shape, not only by colour: red is a thick line at the top, amber a thin one.
    ctx.fillStyle = colour(`--${level}`)
    ctx.fillRect(x, bbox.top, Math.max(end - x, 2), (level === 'red' ? 5 : 2) * devicePixelRatio)
  }
  ctx.restore()
}

/** Draws a point only for a sample without neighbours, which no line reaches. */
function alone(plot, series) {
  const values = plot.data[series]
  return values.flatMap((value, i) => (value !== null && values[i - 1] == null && values[i + 1] == null ? [i] : []))
}
