/**
 * The columns with which each settlement writes when, by which process, and what the row was before. Invariant: no settlement
 * replaces an earlier one without keeping it in `earlier_settlements`; a queued row has nothing to keep, so a plain sale
 * writes no more than the name of its worker.
 */
import { type SQL, sql } from 'drizzle-orm'
import type { bookings, purchases } from '../../shared/db/schema.ts'
import { value } from '../../shared/db/statements.ts'

/** SQL expression for the name of the settling process: each run of the statement passes it as `settled_by`. */
export const settledBy = sql<string>`${value('settled_by')}::text`

/**
 * Returns the columns for an UPDATE that moves the row from the status `was` to `status`. A hold that goes on, because a charge
 * extends it or has failed, is kept once, when it began: otherwise every further card would add an element.
 */
export function settlementColumns(row: typeof purchases | typeof bookings, was: SQL, status: SQL) {
  const { earlier_settlements } = row
  return {
    settled_at: sql`clock_timestamp()`,
    settled_by: settledBy,
    earlier_settlements: sql`CASE
      WHEN ${was} = 'queued' OR (${was} = ${status} AND ${earlier_settlements} IS NOT NULL) THEN ${earlier_settlements}
      ELSE coalesce(${earlier_settlements}, '[]') || jsonb_build_object('status', ${row.status}, 'settled_at', ${row.settled_at},
        'settled_by', ${row.settled_by}, 'fencing_token', ${row.fencing_token}, 'expires_at', ${row.expires_at}) END`,
  }
}
