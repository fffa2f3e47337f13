/** What has happened to a purchase or booking. Invariant: every entry of the API's answer is shown, in its order. */
import { count, longTime, moment, money, time, words } from '../format.js'
import { resourceHref, rowHref } from '../routes.js'
import { html } from '../view.js'

/** Milliseconds from which the time between two entries has no decimals. */
const LONG_MS = 60_000

/** @param {{ history: import('../types.d.ts').History['history'], kind: 'purchase' | 'booking' }} props */
export function Timeline({ history, kind }) {
  const after = (at, i) => {
    const ms = Date.parse(at) - Date.parse(history[i - 1]?.at ?? at)
    return i === 0 ? '' : `+${ms < LONG_MS ? time(ms) : longTime(ms)}`
  }
  return html`
    <ol class="timeline" aria-label="Timeline">
      ${history.map(
        ({ at, what, by, fencing_token, detail }, i) => html`
          <li key=${`${at} ${i}`} data-what=${what} data-at=${at}>
            <div class="when"><time datetime=${at}>${moment(at)}</time><span class="second">${after(at, i)}</span></div>
            <div class="what">
              <strong>${words(what)}</strong>
              ${by !== undefined && html` <span class="by">by ${by}</span>`}
              ${fencing_token !== undefined && html`<span class="second">token ${fencing_token}</span>`}
              ${detail && html`<${Detail} detail=${detail} kind=${kind} />`}
            </div>
          </li>`,
      )}
    </ol>`
}

/** The fields of a detail with their names. An amount takes its currency along, and a count says when there are more. */
function Detail({ detail: { currency, ahead_capped, movements, ...detail }, kind }) {
  const fields = Object.entries(detail).map(([name, value]) => {
    if (name === 'amount') return [name, money(value, currency)]
    if (name === 'ahead') return [name, `${count(value)}${ahead_capped ? '+' : ''}`]
    return [words(name), html`<${Value} name=${name} value=${value} kind=${kind} />`]
  })
  return html`
    <dl class="detail">${fields.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${movements?.map(
      ({ resource, reason, delta }) => html`
        <p class="detail">${reason} ${delta > 0 && '+'}${count(delta)} <a href=${resourceHref(resource)}>${resource}</a></p>`,
    )}`
}

/** A value, with a link where the page has a view of it. */
function Value({ name, value, kind }) {
  if (name === 'queue' || name === 'resource') return html`<a href=${resourceHref(value)}>${value}</a>`
  if (name === 'replaces' || name === 'replaced_by')
    return html`<a class="id" href=${rowHref(kind, value)}>${value}</a>`
  if (name === 'conflicting_ids')
    return value.map((id) => html`<a class="id item" href=${rowHref('booking', id)}>${id}</a>`)
  if (name === 'until') return moment(value)
  if (name === 'reason') return words(value)
  return value === null ? 'none' : String(value)
}
