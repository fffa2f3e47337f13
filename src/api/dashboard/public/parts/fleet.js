/** The processes of the fleet. Invariant: a process that has stopped reporting is shown as silent, not as it last was. */
import { ago, longTime, orDash, time } from '../format.js'
import { resourceHref } from '../routes.js'
import { html } from '../view.js'
import { Second, Section, Table } from './table.js'

/** Milliseconds without a report after which a process is called silent; each reports once a second. */
const SILENT_MS = 2_000
/** Delay of the event loop from which it is marked, in milliseconds: a lease's heartbeat becomes late. */
const LATE_MS = 250
/** Number of queues that are named; a worker may drain hundreds. */
const NAMED = 3

/** @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Fleet({ snapshot: { at, processes: all } }) {
  // APIs first, and each at its place, so that no row moves while it is read.
  const processes = all && [...all].sort((a, b) => `${a.role} ${a.id}`.localeCompare(`${b.role} ${b.id}`))
  const now_ms = Date.parse(at)
  const silent = (one) => now_ms - Date.parse(one.seen_at) > SILENT_MS
  const columns = [
    {
      title: 'Process',
      cell: (one) =>
        html`<span class="role">${one.role === 'api' ? 'API' : 'Worker'}</span> ${one.id}<${Second}>version ${one.version}<//>`,
    },
    { title: 'Up', number: true, cell: (one) => longTime(Math.max(0, now_ms - Date.parse(one.started_at))) },
    {
      title: 'Last sign of life',
      number: true,
      cell: (one) => html`<span class=${silent(one) ? 'bad' : ''}>${ago(one.seen_at, now_ms)}</span>`,
    },
    { title: 'Works on', cell: (one) => html`<${Work} process=${one} silent=${silent(one)} />` },
    {
      title: 'Event loop, p99',
      number: true,
      cell: ({ event_loop_p99_ms: ms }) => html`<span class=${ms > LATE_MS ? 'bad' : ''}>${orDash(ms, time)}</span>`,
    },
    { title: 'Breakers', cell: (one) => html`<${Breakers} breakers=${one.breakers} />` },
  ]
  return html`
    <${Section} id="fleet" title="Fleet">
      <${Table} label="Fleet" items=${processes} keyOf=${(one) => one.id} columns=${columns} none="No process has reported." />
    <//>`
}

function Work({ process, silent }) {
  if (process.role === 'api') return html`<span class="muted">requests</span>`
  const { queues } = process
  if (queues.length === 0) return html`<span class="muted">${silent ? 'unknown' : 'idle'}</span>`
  const named = queues.slice(0, NAMED).map((ref, i) => html`${i > 0 && ', '}<a href=${resourceHref(ref)}>${ref}</a>`)
  return html`${named}${queues.length > NAMED && ` and ${queues.length - NAMED} more`}`
}

function Breakers({ breakers }) {
  const notClosed = Object.entries(breakers).filter(([, state]) => state !== 'closed')
  if (notClosed.length === 0) return html`<span class="muted">all closed</span>`
  return notClosed.map(([name, state]) => html`<span class="bad breaker">${name} ${state.replace('_', ' ')}</span> `)
}
