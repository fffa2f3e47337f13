/**
 * Resource references `type:id`, and the order in which several resources are locked: by reference, accounts last. Invariant:
 * a process that needs several resources locks them in this order, so that waits can never form a cycle. Tests remove the code
 * between the guard markers (test/races, test/chaos).
 */
import type { LineItem } from './purchase.ts'

export const TYPE_PATTERN = '[a-z][a-z0-9_-]{0,31}'
export const ID_PATTERN = '[A-Za-z0-9][A-Za-z0-9._~-]{0,127}'
export const REF_PATTERN = `^${TYPE_PATTERN}:${ID_PATTERN}$`

/** Returns the type of a resource: `product` for `product:1`. */
export const typeOf = (ref: string) => ref.slice(0, ref.indexOf(':'))

/**
 * Returns whether a resource is an account. An account holds money: a wallet pays from it, and it can be neither sold nor
 * booked.
 */
export const isAccount = (ref: string) => ref.startsWith('account:')

/** Compares two references for the lock order: byte order of the reference, `account:` after everything else. */
export function byLockOrder(a: string, b: string): number {
  const accounts = Number(isAccount(a)) - Number(isAccount(b))
  if (accounts !== 0) return accounts
  return a < b ? -1 : a > b ? 1 : 0
}

/** Merges items of the same resource into one, at the position of the first. */
export function mergeItems(items: readonly LineItem[]): LineItem[] {
  /* guard:merge-items */
  const units = new Map<string, number>()
  for (const item of items) units.set(item.resource, (units.get(item.resource) ?? 0) + item.units)
  return Array.from(units, ([resource, count]) => ({ resource, units: count }))
  /* end:merge-items */
}

/** Returns the resource whose queue a purchase joins: the first of its resources in lock order. */
export function queueFor(items: readonly LineItem[]): string {
  const [first] = items.map((item) => item.resource).sort(byLockOrder)
  if (first === undefined) throw new Error('a purchase has at least one item')
  return first
}
