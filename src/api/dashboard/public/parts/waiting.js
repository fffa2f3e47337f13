/** Why a purchase or booking waits: the thing in front of it, with a link. */
import { ago, count, moment } from '../format.js'
import { resourceHref, rowHref } from '../routes.js'
import { html } from '../view.js'
import { Section } from './table.js'

/** @param {{ waiting_for: NonNullable<import('../types.d.ts').History['waiting_for']>, kind: 'purchase' | 'booking' }} props */
export function Waiting({ waiting_for, kind }) {
  return html`
    <${Section} id="waiting" title="Why is it waiting?" className="waiting"><${Sentence} ...${waiting_for} kind=${kind} /><//>`
}

function Sentence(props) {
  const { what, until, next_attempt_at, provider, kind } = props
  if (what === 'hold')
    return html`<p>It is held until ${moment(until)}: until then it can be ${kind === 'purchase' ? 'confirmed' : 'accepted'}.</p>`
  if (what === 'charge' || what === 'refund') {
    return html`<p>The payment provider (${provider}) has not ended its ${what} yet. Next attempt: ${moment(next_attempt_at)}.</p>`
  }
  return html`<${InQueue} ...${props} />`
}

function InQueue({ queue, ahead, ahead_capped, head, holder, command }) {
  const before =
    ahead === 0
      ? 'it is the next'
      : `${count(ahead)}${ahead_capped ? ' or more' : ''} ${ahead === 1 && !ahead_capped ? 'entry is' : 'entries are'} before it`
  return html`
    <p>${command ? `Its command ${command.action}` : 'It'} waits in the queue of <a href=${resourceHref(queue)}>${queue}</a>: ${before}.</p>
    <p class="note">
      ${head && ahead > 0 && html`At the head, since ${ago(head.since, Date.now())}: ${head.command && `${head.command} of `}${head.kind} <a class="id" href=${rowHref(head.kind, head.id)}>${head.id}</a>. `}
      ${holder === undefined ? 'The lock server did not say who settles the queue.' : holder === null ? 'No process holds the lease of the queue now.' : `${holder.owner} holds the lease of the queue, with token ${holder.fencing_token}.`}
    </p>`
}
