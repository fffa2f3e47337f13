/** Parts that several claims use: lookups over the records, and a short name of a request for people. */
import type { Finding } from '../../src/shared/invariants.ts'
import type { Evidence, Row } from './evidence.ts'
import type { Entry } from './record.ts'

export type Claim = (evidence: Evidence, known: Known) => Omit<Finding, 'invariant'>

/** Lookups that several claims use. */
export interface Known {
  byId: ReadonlyMap<string, Row>
  /** entries whose answer contains a purchase or booking, by its id, in order of the answers */
  told: ReadonlyMap<string, (Entry & { told: NonNullable<Entry['told']> })[]>
}

export const COMMAND = /^\/api\/(?:purchases|bookings)\/([0-9a-f-]{36})\/(\w+)$/
const TAKES = new Set(['/api/purchases', '/api/bookings'])
export const isTaking = ({ method, path }: Entry) => method === 'POST' && TAKES.has(path)
export const brief = (entry: Entry) =>
  `#${entry.n} ${entry.method} ${entry.path}: ${entry.status}${entry.code ? ` ${entry.code}` : ''}${
    entry.told ? ` ${entry.told.status}` : ''
  }`

/** Groups the list by a key. Leaves out members without one. */
export function groups<T>(list: readonly T[], by: (one: T) => string | undefined): Map<string, T[]> {
  const map = new Map<string, T[]>()
  for (const one of list) {
    const key = by(one)
    if (key === undefined) continue
    const group = map.get(key)
    if (group) group.push(one)
    else map.set(key, [one])
  }
  return map
}
