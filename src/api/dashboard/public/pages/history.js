/** The last minutes to the last day, whether the page was open or not. Invariant: a time without samples is a gap. */
import { count, longTime, moment, rate, time } from '../format.js'
import { useMemo } from '../hooks.js'
import { Chart, columnsOf } from '../parts/chart.js'
import { Level, levelWord } from '../parts/condition.js'
import { Section, Table } from '../parts/table.js'
import { useAnswer } from '../request.js'
import { historyHref } from '../routes.js'
import { html } from '../view.js'

/** range → its name, its seconds, and the milliseconds between two reads: about one new sample. */
const RANGES = {
  '5m': ['5 minutes', 300, 2_000],
  '1h': ['1 hour', 3_600, 10_000],
  '6h': ['6 hours', 21_600, 30_000],
  '24h': ['24 hours', 86_400, 60_000],
}
/** Number of steps without a sample from which a chart shows a gap. */
const GAP_STEPS = 2.5

/** @param {{ range: string }} props */
export function HistoryPage({ range }) {
  const known = range in RANGES ? range : '1h'
  const [, span_s, every_ms] = RANGES[known]
  const { body, problem } = useAnswer(`/api/dashboard/history?range=${known}`, every_ms)
  return html`
    <div class="title"><h1>History</h1>
      <nav class="ranges" aria-label="Range">
        ${Object.entries(RANGES).map(([one, [name]]) => html`<a key=${one} href=${historyHref(one)} aria-current=${one === known ? 'true' : undefined}>${name}</a>`)}
      </nav>
    </div>
    ${body ? html`<${Charts} key=${known} history=${body} span_s=${span_s} />` : html`<section class="panel"><p class="empty" role="status">${problem ?? 'Reading.'}</p></section>`}`
}

const seconds = (ms) => (ms === null ? null : ms / 1000)
const inSeconds = (s) => (s === 0 ? '0' : time(s * 1000))
const whole = (n) => count(Math.round(n))

/** @param {{ history: import('../types.d.ts').Figures, span_s: number }} props */
function Charts({ history: { samples, step_s }, span_s }) {
  const of = (...series) => columnsOf(samples, series, step_s * GAP_STEPS)
  const [settled, waits, depth, oldest, errors] = useMemo(
    () => [
      of((one) => one.per_second),
      of(
        (one) => seconds(one.wait_p50_ms),
        (one) => seconds(one.wait_p95_ms),
      ),
      of((one) => one.queued),
      of((one) => one.oldest_s),
      of((one) => one.errors_per_minute),
    ],
    [samples],
  )
  const periods = useMemo(() => notGreen(samples, step_s), [samples])
  const marks = periods.map(({ from, to, level }) => ({ from: from / 1000, to: to / 1000, level }))
  const range = () => [Date.now() / 1000 - span_s, Date.now() / 1000]
  const common = { marks, range, sync: 'history' }
  const one = (name = '') => [{ name, colour: '--first' }]
  const waitSeries = [
    { name: 'median', colour: '--first' },
    { name: '95 %', colour: '--second' },
  ]
  return html`
    <section class="panel" aria-label="Charts">
      <div class="charts">
        <${Chart} title="Settled per second" series=${one()} columns=${settled} format=${rate} ...${common} />
        <${Chart} title="Wait from request to settlement" series=${waitSeries} columns=${waits} format=${inSeconds} least=${0.01} ...${common} />
        <${Chart} title="Queued" series=${one()} columns=${depth} format=${whole} ...${common} />
        <${Chart} title="Oldest in a queue" series=${one()} columns=${oldest} format=${inSeconds} ...${common} />
        <${Chart} title="Errors a minute" series=${one()} columns=${errors} format=${rate} ...${common} />
      </div>
      <p class="note">One sample for each ${longTime(step_s * 1000)}; a gap is a time without samples. <span class="key amber">warning</span> <span class="key red">critical</span></p>
    </section>
    <${Periods} periods=${periods} />`
}

/** Joins neighbouring samples that are not green and have the same level and sentence, as far as their digits do not differ. */
function notGreen(samples, step_s) {
  const periods = []
  for (const { at, level, sentence } of samples) {
    const from = Date.parse(at)
    const before = periods.at(-1)
    const kind = sentence?.replace(/[\d.,]+/g, '#')
    const joins =
      before && from - before.to <= step_s * 1000 * GAP_STEPS && before.level === level && before.kind === kind
    if (level === 'green') continue
    if (joins) Object.assign(before, { to: from + step_s * 1000, sentence })
    else periods.push({ from, to: from + step_s * 1000, level, kind, sentence })
  }
  return periods
}

function Periods({ periods }) {
  const columns = [
    {
      title: 'Level',
      cell: ({ level }) => html`<span class="level"><${Level} level=${level} /> ${levelWord(level)}</span>`,
    },
    { title: 'What', cell: ({ sentence }) => sentence },
    { title: 'From', cell: ({ from }) => moment(from) },
    { title: 'For', number: true, cell: ({ from, to }) => longTime(to - from) },
  ]
  return html`
    <${Section} id="periods" title="When it was not OK">
      <${Table} label="When it was not OK" items=${[...periods].reverse()} keyOf=${({ from, level }) => `${from} ${level}`} columns=${columns} none="It was OK all the time that was measured." />
    <//>`
}
