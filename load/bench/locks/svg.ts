/** Draws bars as SVG. They are readable on white and on black, because the picture has no background. */
const WIDTH = 720
const LEFT = 150
const RIGHT = 90
const BAR = 20
const GAP = 6
const HEAD = 34

const STYLE = `
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 14px; font-weight: 600; fill: #24292f }
rect { fill: #8c959f } rect.holdfast { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } rect { fill: #6e7681 } rect.holdfast { fill: #4493f8 }
}`

export interface Panel {
  title: string
  bars: { name: string; value: number }[]
}

export function drawBars(panels: readonly Panel[]): string {
  let top = 0
  const parts = panels.flatMap(({ title, bars }) => {
    const highest = Math.max(...bars.map(({ value }) => value))
    const drawn = [`<text class="title" x="0" y="${top + 20}">${title}</text>`]
    top += HEAD
    for (const { name, value } of bars) {
      const width = ((value / highest) * (WIDTH - LEFT - RIGHT)).toFixed(1)
      drawn.push(
        `<text x="${LEFT - 8}" y="${top + 14}" text-anchor="end">${name}</text>`,
        `<rect class="${name}" x="${LEFT}" y="${top}" width="${width}" height="${BAR}" rx="2"/>`,
        `<text x="${LEFT + Number(width) + 6}" y="${top + 14}">${Math.round(value).toLocaleString('en')}</text>`,
      )
      top += BAR + GAP
    }
    top += GAP
    return drawn
  })
  const size = `width="${WIDTH}" height="${top}" viewBox="0 0 ${WIDTH} ${top}"`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img">\n<style>${STYLE}</style>\n${parts.join('\n')}\n</svg>\n`
}
