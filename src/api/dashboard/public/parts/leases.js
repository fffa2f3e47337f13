/** Locks with their holders and waiters. */
import { count, isExample, NONE, time } from '../format.js'
import { resourceHref } from '../routes.js'
import { html } from '../view.js'
import { Second, Section, Table } from './table.js'

const modeOf = ({ mode, limit }) => (mode === 'permit' ? `permit of ${limit}` : mode)

/** @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Leases({ snapshot: { at, locks, more_locks, resources } }) {
  // A lease may be of anything: only what is for sale has a view.
  const known = new Set(resources?.map(({ resource }) => resource))
  const now_ms = Date.parse(at)
  const entries = locks
    ?.filter(({ resource }) => !isExample(resource))
    .flatMap((lock) => {
      const holders = lock.holders.length > 0 ? lock.holders : [undefined]
      return holders.map((holder, i) => ({
        lock,
        holder,
        key: `${lock.resource} ${i}`,
        waiters: i === 0 ? lock.waiters : [],
      }))
    })
  const columns = [
    {
      title: 'Resource, holder',
      cell: ({ lock, holder }) => html`
        ${known.has(lock.resource) ? html`<a href=${resourceHref(lock.resource)}>${lock.resource}</a>` : lock.resource}
        <${Second}>${holder ? `${modeOf(holder)}: ${holder.owner}` : 'free, being handed to a waiter'}<//>`,
    },
    {
      title: 'Since, token',
      cell: ({ lock, holder }) => html`
        ${holder ? time(Math.max(0, now_ms - Date.parse(holder.since))) : NONE}
        <${Second}>${String(holder?.fencing_token ?? lock.fencing_token)}<//>`,
    },
    {
      title: 'Waiting',
      cell: ({ waiters }) =>
        waiters.length > 0
          ? html`${count(waiters.length)}<${Second}>${waiters.map(({ owner }) => owner).join(', ')}<//>`
          : NONE,
    },
  ]
  const more = more_locks > 0 ? `${count(more_locks)} more locks. ` : ''
  return html`
    <${Section} id="leases" title="Leases"
      note=${`${more}Leases that are held for less than half a second may be missing: a worker takes and releases one for each batch. Those of the samples are left out.`}>
      <${Table} label="Leases" items=${entries ?? null} keyOf=${({ key }) => key} columns=${columns} none="No lease is held." />
    <//>`
}
