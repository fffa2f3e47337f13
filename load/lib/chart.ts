/**
 * Draws lines over time or over labels as SVG. They are readable on white and on black, because the picture has no
 * background.
 */

const WIDTH = 860
const LEFT = 64
const PANEL = 250
const RIGHT = 16
const TOP = 34
const BOTTOM = 40

/** Styles of text and grid. The caller defines the colours of the lines. */
export const STYLE = `
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 14px; font-weight: 600; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: .3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }`
export const STYLE_DARK = `  text { fill: #9198a1 } .title { fill: #f0f6fc }`

export interface Line {
  /** CSS class of the line, which sets its colour */
  name: string
  /** points of the line: second and value */
  points: readonly (readonly [at: number, value: number])[]
}

/** Returns a round step, of which four or five reach `max`. */
function stepOf(max: number): number {
  const raw = max / 4
  const power = 10 ** Math.floor(Math.log10(raw))
  return ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) ?? 10) * power
}

interface Panel {
  title: string
  lines: readonly Line[]
  /** y coordinate of the upper edge */
  top: number
  /** seconds at the right edge */
  end_s: number
  /** labels below 0, 1, 2 … instead of seconds */
  labels?: readonly string[]
  /** a dotted line at this second, with a text */
  mark?: { at: number; text: string }
  /** spans in the background, in seconds; the pointer shows a span's text */
  spans?: readonly { from: number; until: number; text: string }[]
}

export function drawPanel({ title, lines, top, end_s, labels, mark, spans = [] }: Panel): string {
  const highest = Math.max(1, ...lines.flatMap(({ points }) => points.map(([, value]) => value)))
  const step = stepOf(highest)
  const ceiling = Math.ceil(highest / step) * step
  const bottom = top + PANEL - BOTTOM
  const x = (at: number) => (LEFT + (at / end_s) * (WIDTH - LEFT - RIGHT)).toFixed(1)
  const y = (value: number) => (bottom - (value / ceiling) * (PANEL - TOP - BOTTOM)).toFixed(1)
  const parts = [`<text class="title" x="${LEFT}" y="${top + 18}">${title}</text>`]
  for (const { from, until, text } of spans) {
    const width = Math.max(1.5, Number(x(until)) - Number(x(from))).toFixed(1)
    const place = `x="${x(from)}" y="${top + TOP}" width="${width}" height="${bottom - top - TOP}"`
    parts.push(`<rect class="span" ${place}><title>${text}</title></rect>`)
  }
  for (let value = 0; value <= ceiling; value += step) {
    parts.push(
      `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}"/>`,
      `<text x="${LEFT - 8}" y="${Number(y(value)) + 4}" text-anchor="end">${value.toLocaleString('en')}</text>`,
    )
  }
  const tick = labels ? 1 : Math.max(1, Math.ceil(end_s / 12))
  for (let at = 0; at <= end_s; at += tick) {
    // The last label ends at the edge of the panel.
    const anchor = labels && at > 0 && at === labels.length - 1 ? 'end' : 'middle'
    parts.push(`<text x="${x(at)}" y="${bottom + 18}" text-anchor="${anchor}">${labels?.[at] ?? `${at} s`}</text>`)
  }
  if (mark) {
    const late = mark.at > end_s * 0.8
    parts.push(
      `<line class="grid after" x1="${x(mark.at)}" x2="${x(mark.at)}" y1="${top + TOP}" y2="${bottom}"/>`,
      `<text x="${Number(x(mark.at)) + (late ? -4 : 4)}" y="${top + TOP + 10}" text-anchor="${
        late ? 'end' : 'start'
      }">${mark.text}</text>`,
    )
  }
  for (const { name, points } of lines) {
    const path = points.map(([at, value]) => `${x(at)},${y(value)}`).join(' ')
    parts.push(`<polyline class="line ${name}" points="${path}"/>`)
  }
  return parts.join('\n')
}

/** Draws panels below each other, and the legend below them. */
export function drawFigure(figure: {
  label: string
  style: string
  panels: readonly ((top: number) => string)[]
  legend: readonly { name: string; title: string }[]
  /** returns the position of the legend's title after `before` titles */
  legendAt(before: number): number
}): string {
  const legend_height = 30
  const height = figure.panels.length * PANEL + legend_height
  const y = height - legend_height / 2
  const legend = figure.legend.map(({ name, title }, i) => {
    const at = LEFT + figure.legendAt(i)
    return (
      `<line class="line ${name}" x1="${at}" x2="${at + 24}" y1="${y}" y2="${y}"/>` +
      `<text x="${at + 32}" y="${y + 4}">${title}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${figure.label}">
<style>${figure.style}
</style>
${figure.panels.map((draw, i) => draw(i * PANEL)).join('\n')}
${legend.join('\n')}
</svg>
`
}
