/**
 * Columns of a purchase or booking that are read from its charge. Invariant: the statement that reads the row also reads
 * these columns, so the row and its charge show the same moment.
 */
import { and, eq, exists, type SQL, sql } from 'drizzle-orm'
import { bookings, charges, purchases } from '../../shared/db/schema.ts'
import { build } from '../../shared/db/statements.ts'

type Charged = typeof purchases | typeof bookings

const ofPurchase = charges.purchase_id
const ofBooking = charges.booking_id

/**
 * True while the row holds units or time and its card charge is in progress: the row has left the queue, but it is not
 * settled until the charge ends.
 */
export const charging = {
  purchases: chargingOf(purchases, ofPurchase, 'held'),
  bookings: chargingOf(bookings, ofBooking, 'requested'),
}

function chargingOf(row: Charged, subject: typeof ofPurchase | typeof ofBooking, held: string): SQL<boolean> {
  const charge = build
    .select({ one: sql`1` })
    .from(charges)
    .where(and(eq(subject, row.id), eq(charges.kind, 'charge')))
  return sql<boolean>`(${row.status} = ${held} AND ${row.expires_at} > clock_timestamp() AND ${exists(charge)})`
}

/** Columns of a row of charges from which the state of a payment is read. */
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
/** The charge, refunds, dispute and failed attempts of a row, oldest first; null if the row is not paid by card. */
export type ChargeState = Pick<typeof charges.$inferSelect, keyof typeof STATE>[] | null

export const chargeState = {
  purchases: stateOf(purchases, ofPurchase),
  bookings: stateOf(bookings, ofBooking),
}

/** Selects the charges that pay for the row. For a replacement, these are the charges of the row that it replaces. */
function stateOf(row: Charged, subject: typeof ofPurchase | typeof ofBooking): SQL<ChargeState> {
  const members = Object.entries(STATE).flatMap(([name, column]) => [sql.raw(`'${name}'`), sql`${column}`])
  const object = sql`json_build_object(${sql.join(members, sql`, `)})`
  const rows = build
    .select({ rows: sql`coalesce(json_agg(${object} ORDER BY ${charges.created_at}, ${charges.n}), '[]')` })
    .from(charges)
    .where(eq(subject, sql`coalesce(${row.replaces_id}, ${row.id})`))
  return sql<ChargeState>`CASE ${row.payment} ->> 'method' WHEN 'card' THEN ${rows} END`
}
