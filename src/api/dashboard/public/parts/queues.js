/** The queues with the oldest rows, and the jobs that failed. */
import { count, time } from '../format.js'
import { resourceHref } from '../routes.js'
import { html } from '../view.js'
import { Second, Section, Table } from './table.js'

/** Address of Bull Board; its queues have a page each. */
const BOARD = '/admin/queues'

/** @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Queues({ snapshot: { queues, more_queues, failed_jobs } }) {
  const columns = [
    { title: 'Resource', cell: ({ resource }) => html`<a href=${resourceHref(resource)}>${resource}</a>` },
    { title: 'Queued', number: true, cell: ({ length, more }) => count(length) + (more ? '+' : '') },
    { title: 'Oldest', number: true, cell: ({ oldest_ms }) => time(oldest_ms) },
    {
      title: 'Holder',
      cell: ({ holder }) =>
        holder
          ? html`${holder.owner}<${Second}>token ${holder.fencing_token}<//>`
          : html`<span class="muted">none</span>`,
    },
  ]
  return html`
    <${Section} id="queues" title="Queues" aside=${html`<a href=${BOARD}>Jobs in Bull Board</a>`}
      note=${more_queues > 0 && `${count(more_queues)} more queues, with younger rows.`}>
      <${Table} label="Queues" items=${queues} keyOf=${({ resource }) => resource} columns=${columns} none="All queues are empty." />
      <${FailedJobs} failed=${failed_jobs} />
    <//>`
}

function FailedJobs({ failed }) {
  if (failed === null) return html`<p class="note">Failed jobs: unknown, they could not be read.</p>`
  const some = failed.filter((one) => one.count > 0)
  if (some.length === 0) return null
  return html`
    <p class="note">Failed jobs: ${some.map(
      ({ queue, count: n }, i) =>
        html`${i > 0 && ', '}<a href=${`${BOARD}/queue/${encodeURIComponent(queue)}?status=failed`}>${count(n)} in ${queue}</a>`,
    )}</p>`
}
