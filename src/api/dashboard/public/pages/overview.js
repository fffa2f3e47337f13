/** The overview: what is wrong, what runs, what waits, what is for sale. */
import { Findings } from '../parts/condition.js'
import { Fleet } from '../parts/fleet.js'
import { Leases } from '../parts/leases.js'
import { LastMinutes, Now } from '../parts/now.js'
import { Queues } from '../parts/queues.js'
import { Stock } from '../parts/stock.js'
import { html } from '../view.js'

/** @param {{ stream: import('../stream.js').Stream }} props */
export function Overview({ stream: { snapshot, samples } }) {
  const title = html`<h1 class="unseen">Overview</h1>`
  if (!snapshot) return title
  return html`
    ${title}
    <${Findings} snapshot=${snapshot} />
    <${Now} snapshot=${snapshot} />
    <${LastMinutes} samples=${samples} />
    <${Fleet} snapshot=${snapshot} />
    <div class="pair">
      <${Queues} snapshot=${snapshot} />
      <${Leases} snapshot=${snapshot} />
    </div>
    <${Stock} snapshot=${snapshot} />`
}
