/** What is for sale. Invariant: rows that exist for the documentation's examples and for the lab are apart from real stock. */
import { count, isExample } from '../format.js'
import { resourceHref } from '../routes.js'
import { html } from '../view.js'
import { Second, Section, Table } from './table.js'

const units = (title, of) => ({ title, number: true, cell: (one) => count(of(one)) })

/** Available, held and sold units as one bar; the numbers are beside it. */
export function Share({ available, held, sold, total, kind }) {
  if (kind === 'calendar' || total === 0) return null
  const part = (name, value) => value > 0 && html`<i class=${name} style=${{ flexGrow: value }}></i>`
  return html`<span class="share" aria-hidden="true">${part('left', available)}${part('held', held)}${part('sold', sold)}</span>`
}

const COLUMNS = [
  {
    title: 'Resource',
    cell: (one) => html`<a href=${resourceHref(one.resource)}>${one.resource}</a><${Second}>${one.name}<//>`,
  },
  {
    title: html`<span class="key left">available</span> <span class="key held">held</span> <span class="key sold">sold</span>`,
    wide: true,
    cell: (one) => html`<${Share} ...${one} />`,
  },
  units('Available', (one) => one.available),
  units('Held', (one) => one.held),
  units('Sold', (one) => one.sold),
]

/** @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Stock({ snapshot: { resources } }) {
  const real = resources?.filter(({ resource }) => !isExample(resource)) ?? null
  const examples = resources?.filter(({ resource }) => isExample(resource)) ?? []
  return html`
    <${Section} id="stock" title="For sale" note="The first resources of each type, and all that have a queue or a lease. The search finds the others.">
      <${Rows} label="For sale" resources=${real} />
      ${
        examples.length > 0 &&
        html`<details><summary>Samples and lab: ${count(examples.length)}</summary><${Rows} label="Samples and lab" resources=${examples} /></details>`
      }
    <//>`
}

/** What is sold by units as a table with its numbers; what is booked by time has none. */
function Rows({ label, resources }) {
  const units = resources?.filter(({ kind }) => kind === 'units') ?? null
  const calendars = resources?.filter(({ kind }) => kind === 'calendar') ?? []
  return html`
    <${Table} label=${label} items=${units} keyOf=${({ resource }) => resource} columns=${COLUMNS} none="Nothing is sold by units." />
    ${
      calendars.length > 0 &&
      html`<p class="calendars"><span class="muted">Booked by time</span> ${calendars.map(
        ({ resource, name }) =>
          html`<span key=${resource} data-key=${resource}><a href=${resourceHref(resource)}>${resource}</a> <span class="note">${name}</span></span>`,
      )}</p>`
    }`
}
