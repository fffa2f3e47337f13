/** One resource: its stock over time or its calendar, its queue, its lock, its ledger and its newest purchases. */
import { ago, count, longTime, moment, money, NONE, time, words } from '../format.js'
import { useMemo } from '../hooks.js'
import { Bookings, Calendar } from '../parts/calendar.js'
import { Chart } from '../parts/chart.js'
import { Share } from '../parts/stock.js'
import { Second, Section, Status, Table } from '../parts/table.js'
import { useAnswer } from '../request.js'
import { rowHref } from '../routes.js'
import { html } from '../view.js'
import { Missing } from './missing.js'

/** Milliseconds between two reads of a resource: each read costs some bounded queries. */
const EVERY_MS = 2_000

/** @param {{ type: string, id: string }} props */
export function ResourcePage({ type, id }) {
  const ref = `${type}:${id}`
  const path = `/api/dashboard/resources/${encodeURIComponent(type)}/${encodeURIComponent(id)}`
  const { body, problem } = useAnswer(path, EVERY_MS)
  if (!body) return html`<${Missing} what=${ref} problem=${problem} />`
  /** @type {import('../types.d.ts').ResourceView} */
  const { resource, queue, lock, stock, movements, purchases, bookings } = body
  const isCalendar = resource.kind === 'calendar'
  return html`
    <div class="title"><h1>${ref}</h1><p>${resource.name}</p>${problem && html`<p class="bad" role="status">${problem}</p>`}</div>
    <${Figures} resource=${resource} />
    ${isCalendar ? html`<${CalendarCard} resource=${resource} bookings=${bookings} />` : html`<${StockOverTime} stock=${stock} />`}
    <div class="pair"><${QueueCard} queue=${queue} /><${LockCard} lock=${lock} /></div>
    ${
      isCalendar
        ? html`<${Section} id="bookings" title="Bookings"><${Bookings} bookings=${bookings} /><//>`
        : html`<div class="pair"><${Purchases} purchases=${purchases} /><${Ledger} movements=${movements} /></div>`
    }`
}

const UNREAD = 'Unknown: it could not be read.'
const Empty = ({ id, title, children }) =>
  html`<${Section} id=${id} title=${title}><p class="empty">${children}</p><//>`

const CalendarCard = ({ resource, bookings }) =>
  bookings === null
    ? html`<${Empty} id="calendar" title="Calendar">${UNREAD}<//>`
    : html`<${Section} id="calendar" title="Calendar"><${Calendar} resource=${resource} bookings=${bookings} /><//>`

function Figures({ resource }) {
  const { available, held, sold, total, price, kind, version, max_per_customer, updated_at } = resource
  const units =
    kind === 'calendar'
      ? []
      : [
          ['Available', available],
          ['Held', held],
          ['Sold', sold],
          ['In total', total],
        ]
  return html`
    <section class="panel" aria-label="Figures">
      <dl class="tiles">
        ${units.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${count(value)}</dd></div>`)}
        <div><dt>${kind === 'calendar' ? 'Price a day' : 'Price'}</dt><dd>${money(price.amount, price.currency)}</dd></div>
        ${max_per_customer !== null && html`<div><dt>Most for a customer</dt><dd>${count(max_per_customer)}</dd></div>`}
      </dl>
      <${Share} ...${resource} />
      <p class="note">Version ${count(version)}, changed ${moment(updated_at)}.</p>
    </section>`
}

const STOCK = [
  { name: 'available', colour: '--left', stepped: true },
  { name: 'held', colour: '--held', stepped: true },
  { name: 'sold', colour: '--sold', stepped: true },
]

function StockOverTime({ stock }) {
  const columns = useMemo(() => {
    const row = (at_ms, { available, held, sold }) => [at_ms / 1000, available, held, sold]
    const last = stock?.at(-1)
    const rows = (stock ?? []).map((one) => row(Date.parse(one.at), one))
    // The last point is the stock as it is now: its lines go on to the present.
    if (last) rows.push(row(Math.max(Date.now(), Date.parse(last.at)), last))
    return [0, 1, 2, 3].map((i) => rows.map((row) => row[i]))
  }, [JSON.stringify(stock)])
  if (!stock || stock.length === 0) {
    return html`<${Empty} id="stock" title="Stock over time">${stock ? 'The ledger has no entries.' : UNREAD}<//>`
  }
  return html`
    <${Section} id="stock" title="Stock over time">
      <${Chart} title="Units" series=${STOCK} columns=${columns} format=${count} />
    <//>`
}

function QueueCard({ queue }) {
  if (!queue || queue.length === 0)
    return html`<${Empty} id="queue" title="Queue">${queue ? 'Nothing waits.' : UNREAD}<//>`
  const { head, oldest_ms } = queue
  return html`
    <${Section} id="queue" title="Queue">
      <dl class="tiles">
        <div><dt>Queued</dt><dd>${count(queue.length)}${queue.more ? '+' : ''}</dd></div>
        <div><dt>Oldest</dt><dd>${time(oldest_ms)}</dd></div>
      </dl>
      ${head && html`<p class="note">At its head since ${moment(head.since)}: ${head.command && `${head.command} of `}${head.kind} <a class="id" href=${rowHref(head.kind, head.id)}>${head.id}</a></p>`}
    <//>`
}

function LockCard({ lock }) {
  if (!lock || (lock.holders.length === 0 && lock.waiters.length === 0)) {
    const none = 'No process holds it now. A worker holds it while it settles a batch, often for a few milliseconds.'
    return html`<${Empty} id="lock" title="Lease">${lock ? none : UNREAD}<//>`
  }
  const now_ms = Date.now()
  const columns = [
    { title: 'Holder', cell: ({ owner, mode }) => html`${owner}<${Second}>${mode}<//>` },
    { title: 'Since', cell: ({ since }) => longTime(Math.max(0, now_ms - Date.parse(since))) },
    { title: 'Token', cell: ({ fencing_token }) => String(fencing_token) },
  ]
  return html`
    <${Section} id="lock" title="Lease">
      <${Table} label="Holders" items=${lock.holders} keyOf=${({ fencing_token, owner }) => `${owner} ${fencing_token}`} columns=${columns} none="Free, being handed to a waiter." />
      ${lock.waiters.length > 0 && html`<p class="note">Waiting, in order: ${lock.waiters.map(({ owner }) => owner).join(', ')}</p>`}
    <//>`
}

function Purchases({ purchases }) {
  const columns = [
    {
      title: 'Purchase',
      cell: ({ id, at }) => html`<a class="id" href=${rowHref('purchase', id)}>${id}</a><${Second}>${moment(at)}<//>`,
    },
    { title: 'Customer', cell: ({ customer }) => customer },
    { title: 'Units', number: true, cell: ({ units }) => count(units) },
    {
      title: 'Status',
      cell: ({ status, reason }) =>
        html`<${Status} status=${status} />${reason && html`<${Second}>${words(reason)}<//>`}`,
    },
  ]
  return html`
    <${Section} id="purchases" title="Newest purchases">
      <${Table} label="Newest purchases" items=${purchases} keyOf=${({ id }) => id} columns=${columns} none="Nothing was bought." />
    <//>`
}

function Ledger({ movements }) {
  const now_ms = Date.now()
  const signed = (n) => (n > 0 ? `+${count(n)}` : count(n))
  const columns = [
    {
      title: 'Reason',
      cell: ({ reason, created_at }) => html`${words(reason)}<${Second}>${ago(created_at, now_ms)}<//>`,
    },
    { title: 'Units', number: true, cell: ({ delta }) => signed(delta) },
    { title: 'Row', cell: (one) => html`<${RowOf} movement=${one} />` },
  ]
  return html`
    <${Section} id="ledger" title="Ledger">
      <${Table} label="Ledger" items=${movements} keyOf=${({ id }) => String(id)} columns=${columns} none="The ledger has no entries." />
    <//>`
}

function RowOf({ movement: { purchase, booking, fencing_token } }) {
  const id = purchase ?? booking
  const kind = purchase ? 'purchase' : 'booking'
  return html`${id ? html`<a class="id" href=${rowHref(kind, id)}>${id}</a>` : NONE}${fencing_token !== null && html`<${Second}>token ${fencing_token}<//>`}`
}
