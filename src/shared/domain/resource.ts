/**
 * Resource references `type:id`, and the one order in which several are locked: by reference, accounts last. Invariant:
 * whoever needs several resources takes them in this order, so waiting can never form a circle.
 */
import type { LineItem } from '../db/schema.ts'

export const TYPE_PATTERN = '[a-z][a-z0-9_-]{0,31}'
export const ID_PATTERN = '[A-Za-z0-9][A-Za-z0-9._~-]{0,127}'
export const REF_PATTERN = `^${TYPE_PATTERN}:${ID_PATTERN}$`

/** `product` of `product:1`. */
export const typeOf = (ref: string) => ref.slice(0, ref.indexOf(':'))

/** Money: a wallet pays from it, and it is never sold nor booked. */
export const isAccount = (ref: string) => ref.startsWith('account:')

/** Sort order for locking: byte order of the reference, `account:` after everything else. */
export function byLockOrder(a: string, b: string): number {
  const accounts = Number(isAccount(a)) - Number(isAccount(b))
  if (accounts !== 0) return accounts
  return a < b ? -1 : a > b ? 1 : 0
}

/** The same resource on several lines becomes one line, at its first place. */
export function mergeItems(lines: readonly LineItem[]): LineItem[] {
  /* guard:merge-lines */
  const units = new Map<string, number>()
  for (const line of lines) units.set(line.resource, (units.get(line.resource) ?? 0) + line.units)
  return Array.from(units, ([resource, count]) => ({ resource, units: count }))
  /* end:merge-lines */
}

/** The resource whose line a purchase of these lines stands in. */
export function queueFor(lines: readonly LineItem[]): string {
  const [first] = lines.map((line) => line.resource).sort(byLockOrder)
  if (first === undefined) throw new Error('a purchase has at least one line')
  return first
}
