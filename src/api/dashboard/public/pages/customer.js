/** The newest purchases and bookings of one customer. */
import { moment, words } from '../format.js'
import { Second, Section, Status, Table } from '../parts/table.js'
import { useAnswer } from '../request.js'
import { rowHref } from '../routes.js'
import { html } from '../view.js'

/** Milliseconds between two reads of the lists. */
const EVERY_MS = 5_000

/** @param {{ id: string }} props */
export function CustomerPage({ id }) {
  const query = `?customer=${encodeURIComponent(id)}&limit=20`
  const purchases = useAnswer(`/api/purchases${query}`, EVERY_MS)
  const bookings = useAnswer(`/api/bookings${query}`, EVERY_MS)
  const items = ({ lines }) => lines.map(({ resource, units }) => `${units} × ${resource}`).join(', ')
  return html`
    <div class="title"><h1>${id}</h1><p>Customer</p></div>
    <div class="pair">
      <${Rows} kind="purchase" title="Purchases" answer=${purchases} what=${items} />
      <${Rows} kind="booking" title="Bookings" answer=${bookings} what=${({ resource }) => resource} />
    </div>`
}

function Rows({ kind, title, answer, what }) {
  const columns = [
    {
      title: title.slice(0, -1),
      cell: (row) =>
        html`<a class="id" href=${rowHref(kind, row.id)}>${row.id}</a><${Second}>${moment(row.created_at)}<//>`,
    },
    { title: 'What', cell: what },
    {
      title: 'Status',
      cell: ({ status, reason }) =>
        html`<${Status} status=${status} />${reason && html`<${Second}>${words(reason)}<//>`}`,
    },
  ]
  const none = answer.body ? 'None.' : (answer.problem ?? 'Reading.')
  return html`
    <${Section} id=${`${kind}s`} title=${title} note=${answer.body?.next_cursor && 'The newest 20; the API lists all.'}>
      <${Table} label=${title} items=${answer.body?.data ?? []} keyOf=${(row) => row.id} columns=${columns} none=${none} />
    <//>`
}
