/**
 * Timestamps as clients write them. Invariant: a parsed timestamp is whole milliseconds, and lies in the years 2000 to 2099 or is
 * the first instant of 2100.
 */
import Type from 'typebox'
import { fieldProblem } from '../../shared/problem.ts'

const PATTERN = /^(\d{4})-(\d\d)-(\d\d)(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|([+-])(\d\d):(\d\d)))?$/
const EARLIEST_MS = Date.UTC(2000, 0)
const LATEST_MS = Date.UTC(2100, 0)
const DAY_MS = 86_400_000
/** The largest daylight-saving step in use: the UTC offsets of one place do not differ by more. */
const CLOCK_STEP_MS = 2 * 3_600_000

export const Timestamp = (example: string) =>
  Type.String({
    minLength: 1,
    maxLength: 40,
    description: 'ISO 8601 with an offset, or a date alone, which means its midnight in UTC',
    examples: [example],
  })

interface Timestamp {
  /** milliseconds since 1970 */
  at_ms: number
  /** milliseconds by which the local clock is ahead of UTC */
  offset_ms: number
}

/** Parses a timestamp. @throws Problem 400 that names the field */
function readMoment(text: string, field: string): Timestamp {
  const match = PATTERN.exec(text)
  const at_ms = match ? Date.parse(text) : Number.NaN
  const [year = 0, month = 0, day = 0] = match?.slice(1, 4).map(Number) ?? []
  // Date.parse reads the 30th of February as the 2nd of March.
  const real = new Date(Date.UTC(year, month - 1, day)).getUTCDate() === day
  if (!real || Number.isNaN(at_ms)) {
    throw fieldProblem(
      field,
      'must be a date, or a time with its offset, as in 2030-06-01 or 2030-06-01T15:00:00+02:00',
    )
  }
  if (at_ms < EARLIEST_MS || at_ms > LATEST_MS) throw fieldProblem(field, 'must lie in the years 2000 to 2099')
  const [sign, hours = 0, minutes = 0] = match?.slice(4) ?? []
  const offset_ms = (Number(hours) * 60 + Number(minutes)) * 60_000 * (sign === '-' ? -1 : 1)
  return { at_ms, offset_ms }
}

/**
 * Returns how many periods of 24 hours have begun by the local clock, at least one: from 15:00+02:00 to 15:00+01:00 on the
 * next day is one, although it lasts 25 hours.
 */
function daysBetween(from: Timestamp, to: Timestamp): number {
  const step_ms = to.offset_ms - from.offset_ms
  // Offsets of two places do not describe one local clock, and must not make a stay cheaper: count real time then.
  const local_ms = Math.abs(step_ms) <= CLOCK_STEP_MS ? step_ms : 0
  return Math.max(1, Math.ceil((to.at_ms - from.at_ms + local_ms) / DAY_MS))
}

/**
 * Parses a range and counts the days to charge for it.
 * @throws Problem 400 when an end is malformed, or the range is empty or longer than max_days
 */
export function readRange(from: string, to: string, max_days: number) {
  const [first, last] = [readMoment(from, 'from'), readMoment(to, 'to')]
  const [from_ms, to_ms] = [first.at_ms, last.at_ms]
  if (to_ms <= from_ms) throw fieldProblem('to', 'must be later than from')
  if (to_ms - from_ms > max_days * DAY_MS) throw fieldProblem('to', `must be within ${max_days} days of from`)
  return { from_ms, to_ms, days: daysBetween(first, last) }
}

/** Converts Postgres's text form of a timestamp to RFC 3339. */
export const iso = (at: string) => new Date(at).toISOString()
export const isoOrNull = (at: string | null) => (at === null ? null : iso(at))
