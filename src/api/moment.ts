/** Moments as clients write them. Invariant: what is read is whole milliseconds and lies between 2000 and 2100. */
import Type from 'typebox'
import { badField } from '../shared/problem.ts'

const PATTERN = /^(\d{4})-(\d\d)-(\d\d)(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d))?$/
const EARLIEST_MS = Date.UTC(2000, 0)
const LATEST_MS = Date.UTC(2100, 0)

export const Moment = (example: string) =>
  Type.String({
    minLength: 1,
    maxLength: 40,
    description: 'ISO 8601 with an offset, or a date alone: then its midnight in UTC',
    examples: [example],
  })

/** Milliseconds since 1970. @throws Problem 400 naming the field */
function readMoment(text: string, field: string): number {
  const match = PATTERN.exec(text)
  const at = match ? Date.parse(text) : Number.NaN
  const [year = 0, month = 0, day = 0] = match?.slice(1).map(Number) ?? []
  // Date.parse takes the 30th of February for the 2nd of March.
  const real = new Date(Date.UTC(year, month - 1, day)).getUTCDate() === day
  if (!real || Number.isNaN(at)) {
    throw badField(field, 'must be a date, or a time with its offset, as in 2030-06-01 or 2030-06-01T15:00:00+02:00')
  }
  if (at < EARLIEST_MS || at > LATEST_MS) throw badField(field, 'must lie between the years 2000 and 2100')
  return at
}

/** The two ends of a range. @throws Problem 400 when it is empty, or longer than that many days */
export function readRange(from: string, to: string, max_days: number): { from_ms: number; to_ms: number } {
  const [from_ms, to_ms] = [readMoment(from, 'from'), readMoment(to, 'to')]
  if (to_ms <= from_ms) throw badField('to', 'must be later than from')
  if (to_ms - from_ms > max_days * 86_400_000) throw badField('to', `must be within ${max_days} days of from`)
  return { from_ms, to_ms }
}
