/**
 * The queries of one resource on the dashboard. Invariant: each reads an index up to a limit, so its cost grows neither with
 * past sales nor with the length of the queue. The limits are values: if the planner knew that an average resource has fewer
 * rows than the limit, it would read all rows of the resource and sort them, also the million rows of a hot one.
 */
import { desc, eq, sql } from 'drizzle-orm'
import type { Client } from '../../shared/db/client.ts'
import { ledgerEntries, purchases } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import { COUNT_TO, entryCount, firstEntries } from '../queue/queue-entries.ts'
import { statusNow } from '../queue/submission.ts'

/** Maximum number of ledger entries that the stock over time covers: 5 ms of Postgres. */
const ENTRIES = 1_000
/** Maximum number of points of the stock over time: as many as a chart on a phone has pixels for. */
export const POINTS = 200
/** Number of purchases shown. */
export const PURCHASES = 20
/** A purchase writes at most four entries of a resource: hold, release, sale and refund. */
const ENTRIES_OF_PURCHASES = 4 * PURCHASES
/** The window of a calendar's bookings: days before and after now, and their maximum number. */
export const [DAYS_BEFORE, DAYS_AFTER, BOOKINGS] = [7, 60, 500]

const id = sql`${value('id')}::text`

interface QueueRow {
  length: number
  oldest_ms: number
  id: string
  kind: 'purchase' | 'booking'
  command: string | null
  since: string
}
// Written as raw SQL: it joins the heads of three tables, and counts up to a limit.
const queueSql = prepare<QueueRow>(sql`
  WITH heads AS (${firstEntries(id)})
  SELECT ${entryCount(id)} AS length,
         greatest(0, extract(epoch FROM clock_timestamp() - min(created_at) OVER ()) * 1000)::bigint AS oldest_ms,
         id, kind, command, created_at AS since
  FROM heads ORDER BY seq LIMIT 1`)

/** Reads the queue of a resource, and the row at its head. */
export async function readQueue(client: Client, id: string) {
  const [row] = await queueSql(client, { id })
  if (!row) return { length: 0, more: false, oldest_ms: 0, head: null }
  const { length, oldest_ms, ...head } = row
  return { length: Math.min(length, COUNT_TO), more: length > COUNT_TO, oldest_ms, head }
}

interface StockRow {
  at: string
  available: number
  held: number
  sold: number
}
// Written as raw SQL: it sums over windows. The stock after an entry is the present stock without what the later entries have
// changed. The reasons tell `held` and `sold` apart, as the ledger defines them (src/shared/db/schema.ts). An entry that is
// followed by one of the same purchase or booking is no point: release and sale are one step.
const stockSql = prepare<StockRow>(sql`
  WITH newest AS (
    SELECT id, created_at, delta, coalesce(purchase_id, booking_id) AS subject, reason FROM ledger_entries
    WHERE resource_id = ${id} ORDER BY id DESC LIMIT ${value('entries')}::int
  ), before AS (
    SELECT id, created_at, subject IS NOT NULL AND subject IS NOT DISTINCT FROM lag(subject) OVER (ORDER BY id DESC) AS within_step,
           coalesce(sum(delta) OVER later, 0) AS available,
           coalesce(sum(delta) FILTER (WHERE subject IS NOT NULL AND reason IN ('hold', 'release')) OVER later, 0) AS held,
           coalesce(sum(delta) FILTER (WHERE subject IS NOT NULL AND reason IN ('sale', 'refund')) OVER later, 0) AS sold
    FROM newest WINDOW later AS (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  ), step AS (
    SELECT *, row_number() OVER (ORDER BY id DESC) - 1 AS n, count(*) OVER () AS steps FROM before WHERE NOT within_step
  )
  SELECT s.created_at AS at, (r.available - s.available)::bigint AS available, (r.held + s.held)::bigint AS held,
         (r.total - r.available - r.held + s.sold)::bigint AS sold
  FROM step s JOIN resources r ON r.id = ${id}
  WHERE s.n % ceil(s.steps / ${POINTS}::numeric) = 0 ORDER BY s.id`)

/** Reads the stock over time, oldest first: the stock after each of the newest steps of the ledger, or after every nth. */
export const readStock = (client: Client, id: string) => stockSql(client, { id, entries: ENTRIES })

function purchasesStatement() {
  const { id, items, payment, status, expires_at } = purchases
  const inQueue = build
    .select({ id })
    .from(purchases)
    .where(eq(purchases.queue, value('id')))
    .orderBy(desc(id))
    .limit(value('limit'))
  // Carts that are settled in the queue of another resource, and purchases that an account has paid for.
  const inLedger = build
    .select({ id: ledgerEntries.purchase_id })
    .from(ledgerEntries)
    .where(eq(ledgerEntries.resource_id, value('id')))
    .orderBy(desc(ledgerEntries.id))
    .limit(value('entries'))
  return prepare(
    build
      .select({
        id,
        customer: purchases.customer,
        items,
        amount: purchases.amount,
        payment,
        status,
        overdue: sql<boolean>`${status} = 'held' AND ${expires_at} <= clock_timestamp()`.as('overdue'),
        created_at: purchases.created_at,
      })
      .from(purchases)
      .where(sql`${id} = ANY(ARRAY${inQueue} || ARRAY${inLedger})`)
      .orderBy(desc(id))
      .limit(value('limit')),
  )
}
const purchasesSql = purchasesStatement()

/** Reads the newest purchases in the queue of a resource, and those that have moved its units. */
export async function readPurchases(client: Client, ref: string) {
  const rows = await purchasesSql(client, { id: ref, limit: PURCHASES, entries: ENTRIES_OF_PURCHASES })
  return rows.map(({ id, customer, items, amount, payment, status, overdue, created_at }) => {
    const paid = payment.method === 'wallet' && payment.account === ref ? (amount ?? 0) : 0
    const units = items.reduce((sum, item) => sum + (item.resource === ref ? item.units : 0), paid)
    return { id, customer, units, status: statusNow({ status, overdue }), created_at }
  })
}

interface BookingRow {
  id: string
  customer: string
  from: string
  to: string | null
  status: 'requested' | 'accepted' | 'completed'
}
const period = sql.raw(`tstzrange(now() - interval '${DAYS_BEFORE} days', now() + interval '${DAYS_AFTER} days')`)
// Written as raw SQL: ranges. Active bookings come from the index that forbids their overlap; completed ones are not in it, so
// they are looked for in the newest bookings of the calendar.
const bookingsSql = prepare<BookingRow>(sql`
  WITH shown AS (
    (SELECT id, customer, period, status FROM bookings
     WHERE resource_id = ${id} AND period && ${period} AND status IN ('requested', 'accepted')
       AND NOT (status = 'requested' AND coalesce(expires_at <= clock_timestamp(), false))
     ORDER BY lower(period) LIMIT ${value('limit')}::int)
    UNION ALL
    SELECT id, customer, period, status FROM (
      SELECT id, customer, period, status FROM bookings WHERE resource_id = ${id} ORDER BY id DESC LIMIT ${value('limit')}::int
    ) newest WHERE status = 'completed' AND period && ${period}
  )
  SELECT id, customer, lower(period) AS from, upper(period) AS to, status FROM shown
  ORDER BY lower(period), id LIMIT ${value('limit')}::int`)

/** Reads the bookings of a calendar around now, in the order of their beginning; an overdue request occupies no time. */
export const readBookings = (client: Client, id: string) => bookingsSql(client, { id, limit: BOOKINGS })
