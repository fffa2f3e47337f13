/**
 * The judge: from what clients were told and from what the database and the provider have, each claim with what it looked
 * at and what speaks against it. It asks nobody and changes nothing, so that doctored records show whether it can object.
 */
import type { Finding } from '../../src/shared/invariants.ts'
import { KEPT } from './claims-kept.ts'
import { TOLD } from './claims-told.ts'
import type { Evidence } from './evidence.ts'
import { groups } from './known.ts'
import type { Entry } from './record.ts'

/** Offenders named by one claim. */
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
