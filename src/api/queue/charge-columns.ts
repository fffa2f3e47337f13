/**
 * Columns of a purchase or booking that are read from its charge. Invariant: they are read in the statement of the row, so
 * that a row and its charge are of one moment.
 */
import { and, eq, exists, type SQL, sql } from 'drizzle-orm'
import { bookings, charges, purchases } from '../../shared/db/schema.ts'
import { build } from '../../shared/db/statements.ts'

type Charged = typeof purchases | typeof bookings

const ofPurchase = charges.purchase_id
const ofBooking = charges.booking_id

/**
 * Units or time are held and the card charge is in progress: the row has left the queue, and is not settled until the charge
 * ends.
 */
export const charging = {
  purchases: chargingOf(purchases, ofPurchase, 'held'),
  bookings: chargingOf(bookings, ofBooking, 'requested'),
}

function chargingOf(row: Charged, subject: typeof ofPurchase | typeof ofBooking, held: string): SQL<boolean> {
  const own = build
    .select({ one: sql`1` })
    .from(charges)
    .where(and(eq(subject, row.id), eq(charges.kind, 'charge')))
  return sql<boolean>`(${row.status} = ${held} AND ${row.expires_at} > clock_timestamp() AND ${exists(own)})`
}

/** One row of charges, as the state of a payment is read from it. */
const STATE = {
  id: charges.id,
  kind: charges.kind,
  status: charges.status,
  amount: charges.amount,
  currency: charges.currency,
  reason: charges.reason,
  attempts: charges.attempts,
  at_provider: charges.at_provider,
  created_at: charges.created_at,
}
/** Its charge, refunds, dispute and failed attempts, oldest first; null: not paid by card. */
export type ChargeState = Pick<typeof charges.$inferSelect, keyof typeof STATE>[] | null

export const chargeState = {
  purchases: stateOf(purchases, ofPurchase),
  bookings: stateOf(bookings, ofBooking),
}

/** A replacement is paid by the charge of the row that it replaces. */
function stateOf(row: Charged, subject: typeof ofPurchase | typeof ofBooking): SQL<ChargeState> {
  const members = Object.entries(STATE).flatMap(([name, column]) => [sql.raw(`'${name}'`), sql`${column}`])
  const object = sql`json_build_object(${sql.join(members, sql`, `)})`
  const rows = build
    .select({ rows: sql`coalesce(json_agg(${object} ORDER BY ${charges.created_at}, ${charges.n}), '[]')` })
    .from(charges)
    .where(eq(subject, sql`coalesce(${row.replaces_id}, ${row.id})`))
  return sql<ChargeState>`CASE ${row.payment} ->> 'method' WHEN 'card' THEN ${rows} END`
}
