/**
 * A calendar drawn as one: stays as booked days of months, rides as booked hours of days. Invariant: a day or hour is booked as
 * far as its bookings cover it; half a day shows as half. Days are those of UTC, as the bookings' own times are.
 */
import { count, utcMoment, words } from '../format.js'
import { useState } from '../hooks.js'
import { rowHref } from '../routes.js'
import { html } from '../view.js'
import { Second, Status, Table } from './table.js'

const [HOUR_MS, DAY_MS] = [3_600_000, 86_400_000]
/** Months and days that are shown at once. */
const [MONTHS, DAYS] = [3, 7]
/** The API returns bookings from this many days ago to this many days ahead, at most so many. */
const [DAYS_BEFORE, DAYS_AFTER, BOOKINGS] = [7, 60, 500]
/** Weekdays, Monday first. */
const WEEKDAYS = ['Mo', 'Tu', 'We', 'Th', 'Fr', 'Sa', 'Su']
const OCCUPIES = new Set(['requested', 'accepted', 'completed'])

const utc = (at, options) => new Date(at).toLocaleString('en-GB', { timeZone: 'UTC', ...options })
const dayText = (at) => utc(at, { weekday: 'short', day: 'numeric', month: 'short' })

/** Returns the range in which a time without a booking is free. Outside, the API has not told what is booked. */
const knownRange = (bookings, now) => ({
  from_ms: Math.floor(now / DAY_MS) * DAY_MS - DAYS_BEFORE * DAY_MS,
  to_ms: bookings.length < BOOKINGS ? now + DAYS_AFTER * DAY_MS : Date.parse(bookings.at(-1).from),
})
const startOfMonth = (at, more = 0) => {
  const date = new Date(at)
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + more, 1)
}

/** Returns the bookings that occupy time, with their range in milliseconds. A ride without an end lasts until now at least. */
const occupied = (bookings, now) =>
  bookings
    .filter(({ status }) => OCCUPIES.has(status))
    .map((one) => ({
      ...one,
      from_ms: Date.parse(one.from),
      to_ms: one.to ? Date.parse(one.to) : Math.max(now, Date.parse(one.from)) + HOUR_MS,
    }))

/** Returns how much of [from, to) is booked, 0 to 1, and by what. */
function cover(bookings, from, to) {
  const within = bookings.filter((one) => one.from_ms < to && one.to_ms > from)
  const covered = within.reduce((sum, one) => sum + Math.min(one.to_ms, to) - Math.max(one.from_ms, from), 0)
  return { share: Math.min(1, covered / (to - from)), within }
}

/** @param {{ resource: { type: string }, bookings: any[] }} props */
export function Calendar({ resource, bookings }) {
  const now = Date.now()
  const all = occupied(bookings, now)
  const known = knownRange(bookings, now)
  // A driver's rides last minutes: months would show nothing of them.
  const rides =
    resource.type === 'driver' || (all.length > 0 && all.every((one) => one.to_ms - one.from_ms < DAY_MS / 2))
  const first = Math.min(...all.filter((one) => one.to_ms > now).map((one) => one.from_ms))
  const begin = Number.isFinite(first) ? Math.max(first, now) : now
  const [moved, move] = useState(0)
  const start = rides
    ? Math.floor(begin / DAY_MS) * DAY_MS + moved * DAYS * DAY_MS
    : startOfMonth(begin, moved * MONTHS)
  const step = rides ? 'week' : 'months'
  return html`
    <div class="calendar-head">
      <button type="button" onClick=${() => move(moved - 1)} aria-label=${`Earlier ${step}`}>‹</button>
      <button type="button" onClick=${() => move(0)} disabled=${moved === 0}>${Number.isFinite(first) ? 'Next booking' : 'Now'}</button>
      <button type="button" onClick=${() => move(moved + 1)} aria-label=${`Later ${step}`}>›</button>
      <span class="legend"><span class="key accepted">accepted</span> <span class="key requested">requested</span> <span class="key completed">completed</span></span>
    </div>
    ${rides ? html`<${Week} start=${start} bookings=${all} known=${known} />` : html`<div class="months">${[0, 1, 2].map((n) => html`<${Month} key=${startOfMonth(start, n)} start=${startOfMonth(start, n)} bookings=${all} known=${known} />`)}</div>`}
    <p class="note">Days and hours of UTC. Bookings are read from ${DAYS_BEFORE} days ago to ${DAYS_AFTER} days ahead; other days are pale.</p>`
}

/** Text of a booked cell for people who do not see its colour. */
const says = ({ share, within }) =>
  `${share < 1 ? 'partly ' : ''}${words(within[0].status ?? 'booked')}${within.length > 1 ? `, ${count(within.length)} bookings` : ''}`

function Cell({ children, label, from, to, bookings, known }) {
  const covered = cover(bookings, from, to)
  const [one] = covered.within
  const unknown = from < known.from_ms || to > known.to_ms
  const status = one ? one.status : unknown ? 'unknown' : 'free'
  const text = one ? says(covered) : status
  // Where a booking ends and another begins on the same day, the cell shows which half each has.
  const edge = !one || covered.share === 1 ? '' : one.from_ms > from ? ' begins' : ' ends'
  const past = to < Date.now() ? ' past' : ''
  const content = html`${children}<span class="unseen">, ${text}</span>`
  return html`
    <td class=${`slot ${status}${edge}${past}`} title=${`${label}: ${text}`}>
      ${one?.id ? html`<a href=${rowHref('booking', one.id)}>${content}</a>` : html`<span>${content}</span>`}
    </td>`
}

function Month({ start, bookings, known }) {
  const name = utc(start, { month: 'long', year: 'numeric' })
  const days = (startOfMonth(start, 1) - start) / DAY_MS
  const before = (new Date(start).getUTCDay() + 6) % 7
  const cells = [...Array(before).fill(undefined), ...Array.from({ length: days }, (_, day) => start + day * DAY_MS)]
  const weeks = Array.from({ length: Math.ceil(cells.length / 7) }, (_, week) => cells.slice(week * 7, week * 7 + 7))
  return html`
    <table class="month">
      <caption>${name}</caption>
      <thead><tr>${WEEKDAYS.map((day) => html`<th scope="col">${day}</th>`)}</tr></thead>
      <tbody>
        ${weeks.map(
          (week) =>
            html`<tr>${week.map((at) =>
              at === undefined
                ? html`<td></td>`
                : html`<${Cell} key=${at} label=${dayText(at)} from=${at} to=${at + DAY_MS} bookings=${bookings} known=${known}>${new Date(at).getUTCDate()}<//>`,
            )}</tr>`,
        )}
      </tbody>
    </table>`
}

function Week({ start, bookings, known }) {
  const hours = Array.from({ length: 24 }, (_, hour) => hour)
  return html`
    <table class="week">
      <caption class="unseen">Booked hours</caption>
      <thead><tr><th scope="col">Day</th>${hours.map((hour) => html`<th scope="col">${hour % 3 === 0 ? hour : html`<span class="unseen">${hour}</span>`}</th>`)}</tr></thead>
      <tbody>
        ${Array.from({ length: DAYS }, (_, n) => start + n * DAY_MS).map(
          (day) => html`
            <tr key=${day}><th scope="row"><span class="weekday">${utc(day, { weekday: 'short' })} </span>${utc(day, { day: 'numeric', month: 'short' })}</th>
              ${hours.map((hour) => {
                const from = day + hour * HOUR_MS
                return html`<${Cell} key=${hour} label=${`${dayText(day)}, ${hour} h`} from=${from} to=${from + HOUR_MS} bookings=${bookings} known=${known} />`
              })}
            </tr>`,
        )}
      </tbody>
    </table>`
}

/** The bookings as rows, for their ids and customers. */
export function Bookings({ bookings }) {
  const columns = [
    { title: 'Booking', cell: ({ id }) => html`<a href=${rowHref('booking', id)} class="id">${id}</a>` },
    { title: 'Customer', cell: ({ customer }) => customer ?? '' },
    {
      title: 'From, to',
      cell: ({ from, to }) => html`${utcMoment(from)}<${Second}>${to ? utcMoment(to) : 'no end yet'}<//>`,
    },
    { title: 'Status', cell: ({ status }) => html`<${Status} status=${status} />` },
  ]
  return html`<${Table} label="Bookings" items=${bookings} keyOf=${({ id }) => id} columns=${columns} none="Nothing is booked." />`
}
