/**
 * The checker: compares the answers that clients got with the data of the database and the provider. Each claim returns
 * how much it looked at and its offenders. The checker only reads the records that it is given, so that a test can give
 * it falsified ones.
 */
import type { Finding } from '../../src/shared/invariants.ts'
import { KEPT } from './claims-kept.ts'
import { TOLD } from './claims-told.ts'
import type { Evidence } from './evidence.ts'
import { groups } from './known.ts'
import type { Entry } from './record.ts'

/** Most offenders that one claim names. */
const OFFENDERS = 20

export function check(evidence: Evidence): Finding[] {
  const byId = new Map(evidence.rows.map((row) => [row.id, row]))
  const told = groups(
    evidence.entries.filter((one): one is Entry & { told: NonNullable<Entry['told']> } => one.told !== undefined),
    (one) => one.told.id,
  )
  for (const list of told.values()) list.sort((a, b) => a.until_ms - b.until_ms)
  const found = Object.entries({ ...TOLD, ...KEPT }).map(([invariant, claim]): Finding => {
    const { looked_at, offenders } = claim(evidence, { byId, told })
    return { invariant, looked_at, offenders: offenders.slice(0, OFFENDERS) }
  })
  return [...found, ...evidence.invariants]
}
