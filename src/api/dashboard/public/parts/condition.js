/**
 * The sentence at the top. Invariant: it is about now: if the page has no live data, the sentence says that and nothing else,
 * because the last condition may no longer be true.
 */
import { clock, longTime } from '../format.js'
import { useEffect, useRef, useState } from '../hooks.js'
import { resourceHref } from '../routes.js'
import { html } from '../view.js'

/** Milliseconds after which figures count as old; a slow server measures every five seconds. */
const OLD_MS = 7_000
const WORDS = { green: 'OK', amber: 'Warning', red: 'Critical', none: 'Unknown' }
const SHAPES = {
  green: 'M4.6 8.4 7 10.8l4.4-5.4',
  amber: 'M8 5.6v4M8 11.7v.4',
  red: 'M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2',
  none: 'M5 8h6',
}

/** An icon that differs by its shape, not only by its colour; the text beside it names the level. */
export const Level = ({ level }) => html`
  <svg class=${`level-icon ${level}`} viewBox="0 0 16 16" aria-hidden="true">
    ${level === 'amber' ? html`<path class="shape" d="M8 .8 15.6 14.4H.4z" />` : html`<circle class="shape" cx="8" cy="8" r="7.6" />`}
    <path class="stroke" d=${SHAPES[level]} />
  </svg>`

export const levelWord = (level) => WORDS[level]

/** Returns performance.now(), anew each second, so that "for 4 s" counts on while nothing arrives. */
function useSecond() {
  const [now, setNow] = useState(() => performance.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), 500)
    return () => clearInterval(timer)
  }, [])
  return Math.max(now, performance.now())
}

/** @param {import('../stream.js').Stream} stream @param {number} now */
function describe({ state, beat_ms, arrived_ms, snapshot }, now) {
  const from = snapshot ? ` The figures below are from ${clock(snapshot.at)}.` : ''
  if (state === 'hidden') return { level: 'none', key: state, sentence: `Paused while this tab is hidden.${from}` }
  if (state === 'lost') {
    return {
      level: 'red',
      key: state,
      sentence: `The server has not answered for ${longTime(now - beat_ms)}.`,
      note: `${from} The page tries again.`,
    }
  }
  if (!snapshot) return { level: 'none', key: 'connecting', sentence: 'Connecting to the server.' }
  if (now - arrived_ms > OLD_MS) {
    const sentence = `The figures are ${longTime(now - arrived_ms)} old: the server answers, but it has not measured since.`
    return { level: 'amber', key: 'old', sentence }
  }
  const { level, sentence, since, findings } = snapshot.condition
  const [worst] = findings
  return { level, key: `${level} ${worst?.rule} ${worst?.subject}`, sentence, since, subject: worst?.subject }
}

/** @param {{ stream: import('../stream.js').Stream }} props */
export function Condition({ stream }) {
  const now = useSecond()
  const { level, key, sentence, since, subject, note } = describe(stream, now)
  // A screen reader hears a sentence once, not each second with a new number in it.
  const spoken = useRef({ key: '', text: '' })
  if (spoken.current.key !== key) spoken.current = { key, text: `${WORDS[level]}: ${sentence}` }
  const { snapshot } = stream
  return html`
    <section class=${`condition ${level}`} aria-label="Condition" data-level=${level}>
      <${Level} level=${level} />
      <div>
        <p class="sentence">${sentence}</p>
        <p class="note">
          <strong>${WORDS[level]}</strong>${since && snapshot && html`<${Since} at=${since} now_ms=${Date.parse(snapshot.at)} />`}${note}
          <${Subject} subject=${subject} snapshot=${snapshot} />
        </p>
      </div>
      <p class="unseen" role="status">${spoken.current.text}</p>
    </section>`
}

const Since = ({ at, now_ms }) =>
  html` since <time datetime=${at}>${clock(at)}</time> (${longTime(now_ms - Date.parse(at))})`

/** A link to what a finding is about, where the page has a view of it. */
function Subject({ subject, snapshot }) {
  if (!subject || !snapshot) return null
  const known = [...(snapshot.queues ?? []), ...(snapshot.resources ?? []), ...(snapshot.locks ?? [])]
  if (!known.some(({ resource }) => resource === subject)) return null
  return html` <a href=${resourceHref(subject)}>Show ${subject}</a>`
}

/** The findings after the worst one. @param {{ snapshot: import('../types.d.ts').Snapshot }} props */
export function Findings({ snapshot }) {
  const findings = snapshot.condition.findings.slice(1)
  if (findings.length === 0) return null
  const now_ms = Date.parse(snapshot.at)
  return html`
    <section class="findings" aria-labelledby="findings-title">
      <h2 id="findings-title">Also</h2>
      <ul>
        ${findings.map(
          ({ rule, level, sentence, since, subject }) => html`
            <li key=${`${rule} ${subject}`}>
              <${Level} level=${level} />
              <span>${sentence} <span class="note"><strong>${WORDS[level]}</strong>${since && html`<${Since} at=${since} now_ms=${now_ms} />`}<${Subject} subject=${subject} snapshot=${snapshot} /></span></span>
            </li>`,
        )}
      </ul>
    </section>`
}
