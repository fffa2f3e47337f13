/** Numbers, times and names as text. Invariant: a value that is not known is a dash, never zero. */

const numbers = new Intl.NumberFormat('en')
export const NONE = '–'

/** @param {number} n */
export const count = (n) => numbers.format(n).replace('-', '−')

/**
 * Returns `how(value)`, or a dash for null and undefined.
 * @param {any} value @param {(value: any) => string} how
 */
export const orDash = (value, how) => (value === null || value === undefined ? NONE : how(value))

/** Returns a number with at most one decimal, and none from 10 on. */
export const rate = (n) => count(n < 10 ? Math.round(10 * n) / 10 : Math.round(n))

/** Returns milliseconds in readable units. */
export function time(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  return longTime(ms)
}

/** Returns milliseconds in whole units, for ages that are redrawn each second. */
export function longTime(ms) {
  if (ms < 60_000) return `${Math.max(0, Math.floor(ms / 1_000))} s`
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`
  if (ms < 2 * 86_400_000) return `${Math.floor(ms / 3_600_000)} h`
  return `${Math.floor(ms / 86_400_000)} days`
}

/** @param {string} at @param {number} now_ms */
export const ago = (at, now_ms) => `${longTime(Math.max(0, now_ms - Date.parse(at)))} ago`

/** @param {string | number} at */
export const clock = (at) => new Date(at).toLocaleTimeString('en-GB')
export const minute = (at) => new Date(at).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })

/** Returns date and time, without the date if it is today. */
export function moment(at) {
  const date = new Date(at)
  if (date.toDateString() === new Date().toDateString()) return clock(at)
  return `${date.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year: 'numeric' })}, ${clock(at)}`
}

/** Returns a time of a booking: bookings of whole days begin at midnight UTC, whatever the zone of the viewer. */
export const utcMoment = (at) =>
  `${new Date(at).toLocaleString('en-GB', { timeZone: 'UTC', day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit' })} UTC`

/** @param {number} amount in minor units @param {string} currency */
export function money(amount, currency) {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency })
  const { maximumFractionDigits = 2 } = format.resolvedOptions()
  return format.format(amount / 10 ** maximumFractionDigits)
}

/** Returns a word of the API as text: `lease_lost` is `lease lost`. */
export const words = (name) => name.replaceAll('_', ' ')

/** Returns whether a resource exists for the examples of the documentation or for the lab, and not to be sold. */
export const isExample = (ref) => /^(sample:|lab-|driver:lab$)/.test(ref)
