/** The figures of this moment, and the last five minutes as lines: those before the page was opened come from the history. */
import { ago, count, isExample, orDash, rate, time } from '../format.js'
import { useMemo } from '../hooks.js'
import { useAnswer } from '../request.js'
import { html } from '../view.js'
import { Chart, columnsOf } from './chart.js'
import { Section } from './table.js'

/** Seconds that the charts show. */
const SPAN_S = 300
/** If two samples are more than this many seconds apart, the chart shows a gap: the history has one every ten seconds. */
const GAP_S = 25
/** Milliseconds within which a stream has another sample; it has one every second. */
const STREAM_MS = 5_000
/** Milliseconds between two reads of the history: the stream has the newer samples. */
const HISTORY_MS = 30_000

const sum = (all, of) => all.reduce((total, one) => total + of(one), 0)

/** @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Now({ snapshot }) {
  const { throughput, queues, locks, failed_jobs, more_queues, more_locks } = snapshot
  const plus = (more) => (more ? '+' : '')
  const oldest = queues?.length ? Math.max(...queues.map(({ oldest_ms }) => oldest_ms)) : null
  const tiles = [
    ['Settled per second', orDash(throughput.per_second, rate)],
    ['Wait, median', orDash(throughput.wait_p50_ms, time)],
    ['Wait, 95 %', orDash(throughput.wait_p95_ms, time)],
    [
      'Queued',
      orDash(
        queues,
        (all) => count(sum(all, ({ length }) => length)) + plus(more_queues > 0 || all.some(({ more }) => more)),
      ),
    ],
    ['Oldest in a queue', orDash(oldest, time)],
    [
      'Leases held',
      orDash(
        locks,
        (all) =>
          count(
            sum(
              all.filter(({ resource }) => !isExample(resource)),
              ({ holders }) => holders.length,
            ),
          ) + plus(more_locks > 0),
      ),
    ],
    ['Failed jobs', orDash(failed_jobs, (all) => count(sum(all, (one) => one.count)))],
    ['Errors a minute', orDash(throughput.errors_per_minute, rate)],
  ]
  return html`
    <${Section} id="now" title="Now">
      <dl class="tiles">
        ${tiles.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
      </dl>
      <${Verification} snapshot=${snapshot} />
    <//>`
}

function Verification({ snapshot: { at, verification } }) {
  if (verification === null)
    return html`<p class="note verification">The invariants: no recent result of the verifier.</p>`
  const { broken } = verification
  const when = html`<span class="note"> Verified ${ago(verification.at, Date.parse(at))}.</span>`
  if (broken.length === 0) return html`<p class="verification">All invariants hold.${when}</p>`
  return html`
    <div class="verification">
      <p class="bad">${broken.length} ${broken.length === 1 ? 'invariant is' : 'invariants are'} broken.${when}</p>
      <ul>${broken.map(({ invariant, offenders }) => html`<li>${invariant} (${offenders.join(', ')})</li>`)}</ul>
    </div>`
}

const seconds = (ms) => (ms === null ? null : ms / 1000)
const inSeconds = (s) => (s === 0 ? '0' : time(s * 1000))
const WAITS = [
  { name: 'median', colour: '--first' },
  { name: '95 %', colour: '--second' },
]
const range = () => /** @type {[number, number]} */ ([Date.now() / 1000 - SPAN_S, Date.now() / 1000])

/**
 * Joins the samples of the history and of the stream. Where both have one, that of the stream counts. The first sample of a stream
 * covers no time, so its throughput is unknown: it is left out.
 */
function joined(history, streamed) {
  const times = streamed.map(({ at }) => Date.parse(at))
  const measured = streamed.filter(({ per_second }, i) => per_second !== null || times[i] - times[i - 1] < STREAM_MS)
  const earlier = history.filter(({ at }) => !times.some((time) => Math.abs(time - Date.parse(at)) < STREAM_MS))
  return [...earlier, ...measured].sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
}

/** @param {{ samples: import('../types.d.ts').Snapshot['throughput'][] }} props */
export function LastMinutes({ samples: streamed }) {
  const { body } = useAnswer('/api/dashboard/history?range=5m', HISTORY_MS)
  const samples = useMemo(() => joined(body?.samples ?? [], streamed), [body, streamed])
  const [settled, waits] = useMemo(
    () => [
      columnsOf(samples, [({ per_second }) => per_second], GAP_S),
      columnsOf(samples, [({ wait_p50_ms }) => seconds(wait_p50_ms), ({ wait_p95_ms }) => seconds(wait_p95_ms)], GAP_S),
    ],
    [samples],
  )
  return html`
    <${Section} id="minutes" title="Last five minutes" aside=${html`<a href="#/history/1h">History</a>`}>
      <div class="charts">
        <${Chart} title="Settled per second" series=${[{ name: '', colour: '--first' }]} columns=${settled} format=${rate} range=${range} />
        <${Chart} title="Wait from request to settlement" series=${WAITS} columns=${waits} format=${inSeconds} range=${range} least=${0.01} />
      </div>
    <//>`
}
