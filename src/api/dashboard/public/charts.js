/** The two charts. Invariant: time without samples is a gap; a line connects measured samples only. */
import uPlot from './uplot.js'

/** Number of seconds that a chart shows. */
const SPAN_S = 300
/** If two samples are more than this many seconds apart, the chart shows a gap between them. */
const GAP_S = 7
const HEIGHT = 160

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

function chart(place, series, unit) {
  const axis = {
    stroke: () => colour('--muted'),
    grid: { stroke: () => colour('--rule'), width: 1 },
    ticks: { show: false },
  }
  const font = `12px ${getComputedStyle(document.body).fontFamily}`
  /** @type {uPlot.Options} */
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: true, range: () => [Date.now() / 1000 - SPAN_S, Date.now() / 1000] },
      y: { range: (_plot, _min, max) => [0, Math.max(max ?? 0, unit === 's' ? 0.01 : 1) * 1.1] },
    },
    axes: [
      { ...axis, font, size: 30, incrs: [60], values: (_plot, ticks) => ticks.map(clock) },
      {
        ...axis,
        font,
        size: 64,
        values: (_plot, ticks) => ticks.map((tick) => `${tick.toLocaleString('en')}${unit && ` ${unit}`}`),
      },
    ],
    series: [
      {},
      ...series.map((name) => ({ stroke: () => colour(name), width: 2, points: { size: 4, filter: alone } })),
    ],
  }
  const plot = new uPlot(options, [[], ...series.map(() => [])], place)
  new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot.redraw())
  return plot
}

/** Draws a point only for a sample without neighbours, which no line reaches. */
function alone(plot, series) {
  const values = plot.data[series]
  return values.flatMap((value, i) => (value !== null && values[i - 1] == null && values[i + 1] == null ? [i] : []))
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })

/** @param {{settled: HTMLElement, wait: HTMLElement}} places */
export function createCharts({ settled, wait }) {
  const plots = [chart(settled, ['--accent'], ''), chart(wait, ['--accent', '--second'], 's')]
  let samples = []

  function draw() {
    const columns = [[], [], [], []]
    let last = 0
    for (const { at, per_second, wait_p50_ms, wait_p95_ms } of samples) {
      const seconds = Date.parse(at) / 1000
      if (last && seconds - last > GAP_S)
        for (const column of columns) column.push(column === columns[0] ? last + 1 : null)
      last = seconds
      const inSeconds = (ms) => (ms === null ? null : ms / 1000)
      for (const [i, value] of [seconds, per_second, inSeconds(wait_p50_ms), inSeconds(wait_p95_ms)].entries()) {
        columns[i].push(value)
      }
    }
    const [x, rate, p50, p95] = columns
    plots[0].setData([x, rate])
    plots[1].setData([x, p50, p95])
  }

  return {
    /** Adds samples measured before the page was opened; they replace the page's samples of the same time. */
    set(known) {
      const first = Date.parse(known[0]?.at ?? '9999')
      samples = [...samples.filter((sample) => Date.parse(sample.at) < first), ...known]
      draw()
    },
    add(sample) {
      if (samples.at(-1)?.at === sample.at) return
      samples = [...samples, sample].filter(({ at }) => Date.now() - Date.parse(at) < 1.1 * SPAN_S * 1_000)
      draw()
    },
  }
}
