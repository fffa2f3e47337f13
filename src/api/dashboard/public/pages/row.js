/** A purchase or a booking: what it is, why it waits, and what has happened to it. */
import { moment, money, utcMoment, words } from '../format.js'
import { useEffect, useState } from '../hooks.js'
import { Section, Status } from '../parts/table.js'
import { Timeline } from '../parts/timeline.js'
import { Waiting } from '../parts/waiting.js'
import { useAnswer } from '../request.js'
import { customerHref, resourceHref } from '../routes.js'
import { html } from '../view.js'
import { Missing } from './missing.js'

/** Milliseconds between two reads: of a row that waits for something, and of one that does not. */
const [EVERY_MS, SETTLED_MS] = [1_500, 10_000]

/** @param {{ kind: 'purchase' | 'booking', id: string }} props */
export function RowPage({ kind, id }) {
  const path = `/api/${kind}s/${encodeURIComponent(id)}`
  const [every_ms, setEvery] = useState(EVERY_MS)
  const row = useAnswer(path, every_ms)
  // The history is asked for only when the row exists: otherwise the second answer would be a 404 as well.
  const history = useAnswer(row.body && `${path}/history`, every_ms)
  const waits = history.body?.waiting_for !== null
  useEffect(() => setEvery(waits ? EVERY_MS : SETTLED_MS), [waits])
  if (!row.body) return html`<${Missing} what=${`${kind} ${id}`} problem=${row.problem} />`
  return html`
    <div class="title">
      <h1>${kind === 'purchase' ? 'Purchase' : 'Booking'} <span class="id">${id}</span></h1>
      <p><${Status} status=${row.body.status} />${row.body.reason && html` ${words(row.body.reason)}`}</p>
    </div>
    ${history.body?.waiting_for && html`<${Waiting} waiting_for=${history.body.waiting_for} kind=${kind} />`}
    <div class="pair">
      <${Section} id="timeline" title="Timeline">
        ${history.body ? html`<${Timeline} history=${history.body.history} kind=${kind} />` : html`<p class="empty">${history.problem ?? 'Reading.'}</p>`}
      <//>
      <${Facts} row=${row.body} kind=${kind} />
    </div>`
}

function Facts({ row, kind }) {
  const items = (row.lines ?? []).map(
    ({ resource, units }) =>
      html`<span class="item">${units} × <a href=${resourceHref(resource)}>${resource}</a></span>`,
  )
  const facts = [
    ['Customer', html`<a href=${customerHref(row.customer)}>${row.customer}</a>`],
    [
      kind === 'purchase' ? 'Items' : 'Resource',
      kind === 'purchase' ? items : html`<a href=${resourceHref(row.resource)}>${row.resource}</a>`,
    ],
    ['From, to', row.from && `${utcMoment(row.from)} – ${row.to ? utcMoment(row.to) : 'no end yet'}`],
    ['Amount', row.amount !== null && row.currency && money(row.amount, row.currency)],
    ['Payment', paymentText(row.payment)],
    ['Received', moment(row.created_at)],
    ['Settled', row.settled_at && moment(row.settled_at)],
    ['Held until', row.expires_at && moment(row.expires_at)],
    ['Fencing token', row.fencing_token],
    ['Conflicts with', row.conflicting_ids?.map((id) => html`<a class="id item" href=${`#/bookings/${id}`}>${id}</a>`)],
    ['Replaces', row.replaces && html`<a class="id" href=${`#/${kind}s/${row.replaces}`}>${row.replaces}</a>`],
    [
      'Replaced by',
      row.replaced_by && html`<a class="id" href=${`#/${kind}s/${row.replaced_by}`}>${row.replaced_by}</a>`,
    ],
  ].filter(([, value]) => value !== null && value !== undefined && value !== false && value !== '')
  return html`
    <${Section} id="facts" title="Facts">
      <dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <//>`
}

function paymentText(payment) {
  const { method, account, charge } = payment ?? {}
  if (!method) return null
  const reason = charge?.reason ? ` (${words(charge.reason)})` : ''
  return [method, account, charge && `${words(charge.status)}${reason}`].filter(Boolean).join(', ')
}
