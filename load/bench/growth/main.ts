/**
 * `npm run bench -- growth`: measures how Holdfast behaves as one quantity grows. Each part uses a separate database
 * and separate processes, and stores its last result in growth.json, so that the page can be written part by part.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { readCommand } from '../../../ops/dev/command.mjs'
import { drawFigure, drawPanel, STYLE, STYLE_DARK } from '../../lib/chart.ts'
import { openEnvironment } from '../../lib/environment.ts'
import type { Figure, Options, Part } from './environment.ts'
import { neighbours, soak, wait } from './latency.ts'
import { line, products, settled, workers } from './throughput.ts'

const PARTS: Record<string, Part> = { workers, products, line, settled, wait, neighbours, soak }
const log = (text: string) => process.stdout.write(`bench: ${text}\n`)

const USAGE = `
npm run bench -- growth [OPTIONS]     what happens when there is more of something (docs/bench/growth.md)
  --parts=${Object.keys(PARTS).join(',')}
  --runs=3 --seconds=6                        medians of so many rounds (line and soak: one)
  --workers=1,2,4,8 --products=1,10,100,1000,10000,100000
  --queued=1000000                            rows in one line
  --settled=0,100000,1000000,10000000         rows that are settled already: 5 GB of disk for ten million
  --minutes=10                                of the soak
  --out=docs/bench                            where growth.json, growth.md and growth.svg go`

const { values, whole, wholes, some } = readCommand({
  name: 'bench growth',
  usage: USAGE,
  options: {
    parts: { type: 'string', default: Object.keys(PARTS).join(',') },
    runs: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '6' },
    workers: { type: 'string', default: '1,2,4,8' },
    products: { type: 'string', default: '1,10,100,1000,10000,100000' },
    queued: { type: 'string', default: '1000000' },
    settled: { type: 'string', default: '0,100000,1000000,10000000' },
    minutes: { type: 'string', default: '10' },
    out: { type: 'string', default: 'docs/bench' },
  },
})

const ROWS = { from: 0, to: 99_999_999 }
const options: Options = {
  runs: whole('runs'),
  seconds: whole('seconds'),
  workers: wholes('workers'),
  products: wholes('products'),
  queued: whole('queued', ROWS),
  settled: wholes('settled', ROWS),
  minutes: whole('minutes'),
}
const parts = some('parts', Object.keys(PARTS))

interface Kept extends Figure {
  /** when and where it was measured */
  measured: string
}
const file = join(values.out, 'growth.json')
mkdirSync(values.out, { recursive: true })

function kept(): Record<string, Kept> {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return {}
  }
}

function table({ of, unit, labels, lines }: Figure): string {
  const rows = [
    [of, ...labels],
    ...lines.map(({ name, values }) => [
      name === unit ? unit : `${name} (${unit})`,
      ...values.map((value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en'))),
    ]),
  ]
  const widths = rows[0]?.map((_, i) => Math.max(3, ...rows.map((row) => row[i]?.length ?? 0))) ?? []
  const text = (row: string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`
  const [head = [], ...others] = rows
  return [text(head), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...others.map(text)].join('\n')
}

const COLOURS = ['#0969da', '#bc4c00']
const DARK = ['#4493f8', '#f0883e']

function write(all: Record<string, Kept>): void {
  writeFileSync(file, `${JSON.stringify(all, null, 2)}\n`)
  const figures = Object.keys(PARTS).flatMap((name) => all[name] ?? [])
  const sections = figures.map(
    (figure) => `## ${figure.title}\n\n${table(figure)}\n\n${figure.notes.join(' ')}\n\n${figure.measured}\n`,
  )
  const text = `# Growth\n\n![Growth](growth.svg)\n\n\`npm run bench -- growth\` measures this and writes this page; \`--parts\` one of it.\n\n${sections.join('\n')}`
  writeFileSync(join(values.out, 'growth.md'), text)
  const svg = drawFigure({
    label: 'What happens when there is more of something',
    style: `${STYLE}
.first { stroke: ${COLOURS[0]} } .second { stroke: ${COLOURS[1]} }
@media (prefers-color-scheme: dark) {
${STYLE_DARK}
  .first { stroke: ${DARK[0]} } .second { stroke: ${DARK[1]} }
}`,
    panels: figures.map(
      ({ title, unit, labels, lines }) =>
        (top) =>
          drawPanel({
            title: `${title} (${lines.length > 1 ? `${lines.map(({ name }) => name).join(' and ')}, ` : ''}${unit})`,
            lines: lines.map(({ values }, i) => ({
              name: i === 0 ? 'first' : 'second',
              points: values.map((value, at) => [at, value] as const),
            })),
            top,
            end_s: Math.max(1, labels.length - 1),
            labels,
          }),
    ),
    legend: [
      { name: 'first', title: 'the first that the title names' },
      { name: 'second', title: 'the second' },
    ],
    legendAt: (before) => before * 260,
  })
  writeFileSync(join(values.out, 'growth.svg'), svg)
}

const environment = await openEnvironment(log, { statements: false, appendfsync: 'everysec' })
try {
  const [cpu] = cpus()
  const where = `${cpus().length} × ${cpu?.model ?? 'processor'}, ${environment.versions.join(', ')}, Node ${process.versions.node}`
  for (const name of parts) {
    const part = PARTS[name]
    if (!part) continue
    log(`${name}: begins`)
    const figure = await part(environment, options, log)
    const measured = `${new Date().toISOString().slice(0, 10)}, ${where}; medians of ${options.runs}, ${options.seconds} s each.`
    write({ ...kept(), [name]: { ...figure, measured } })
    log(`${name}: ${figure.notes.join(' ')}`)
  }
  log(`wrote ${join(values.out, 'growth.md')} and growth.svg`)
} finally {
  await environment.close()
}
