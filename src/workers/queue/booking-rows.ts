/**
 * Booking rows of a batch: reads the pending and the active ones, writes the decisions. Invariants: active bookings are
 * read, and all bookings are written, under the row locks of the batch; every change is conditional on the status that
 * was decided on and on no newer token; ended bookings are written before new ones, so that the EXCLUDE constraint
 * never sees a transient overlap.
 */
import { and, eq, gt, isNull, lte, notInArray, or, sql } from 'drizzle-orm'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { bookings, resources } from '../../shared/db/schema.ts'
import { build, epochMs, insertFrom, isOneOf, listOf, prepare, toTime } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { type BookingCommand, isActive } from '../../shared/domain/booking.ts'
import type { ChargeCommand, Payment } from '../../shared/domain/charge.ts'
import { PROCESS_ID } from '../../shared/fleet-reports.ts'
import type { BookingDecision, BookingItem, BookingRow, Replacement } from '../decide/types.ts'
import type { QueueCursor } from './queue-item.ts'
import { settledBy, settlementColumns } from './settlement-columns.ts'

/** The columns of a booking (alias `b`) that the decision needs. */
const COLUMNS = [
  'id',
  'seq',
  'kind',
  'customer',
  'days',
  'amount',
  'currency',
  'payment',
  'hold_seconds',
  'status',
  'replaces_id',
] as const satisfies readonly (keyof typeof bookings.$inferSelect)[]
const columns = sql`b.resource_id AS queue, ${sql.raw(COLUMNS.map((column) => `b.${column}`).join(', '))},
  ${epochMs('lower(b.period)')} AS from_ms, ${epochMs('upper(b.period)')} AS until_ms,
  ${epochMs('b.expires_at')} AS expires_ms, ${epochMs('b.created_at')} AS created_ms,
  CASE b.payment ->> 'method' WHEN 'card' THEN (
    SELECT c.status FROM charges c WHERE c.booking_id = b.id AND c.kind = 'charge') END AS charge,
  CASE b.payment ->> 'method' WHEN 'card' THEN (
    SELECT ${epochMs('c.hold_until')} FROM charges c WHERE c.booking_id = b.id AND c.kind = 'charge') END AS hold_until_ms`

type FetchedRow = BookingRow & {
  fetched_queue: string
  resource_kind: 'units' | 'calendar' | null
  item: BookingItem['kind'] | null
  command_id: string | null
  command_seq: number | null
  action: BookingCommand | ChargeCommand | null
  command_payment: Payment | null
}

/**
 * Most resources of kind `units` that one process remembers, so that it does not read their queues for bookings again.
 */
const REMEMBERED = 100_000

/**
 * Creates the fetcher of pending rows of calendars. It reads a queue of units only once, because a resource never
 * changes its kind.
 */
export function createBookingFetcher(client: Client) {
  const units = new Set<string>()
  return {
    /**
     * Fetches overdue requests first, then bookings after `after` and commands, by seq. Rows of one booking share one
     * object.
     */
    async fetch(queues: readonly QueueCursor[]): Promise<Map<string, BookingItem[]>> {
      const fetched = new Map<string, BookingItem[]>()
      const calendars = queues.filter(({ queue }) => !units.has(queue))
      if (calendars.length === 0) return fetched
      const rows = await pendingSql(client, cursors.values(calendars))
      if (units.size > REMEMBERED) units.clear()
      const byId = new Map<string, BookingRow>()
      for (const {
        fetched_queue,
        resource_kind,
        item,
        command_id,
        command_seq,
        action,
        command_payment,
        ...row
      } of rows) {
        if (resource_kind === 'units') units.add(fetched_queue)
        if (item === null) continue
        const booking = byId.get(row.id) ?? row
        byId.set(booking.id, booking)
        const one: BookingItem =
          command_id !== null && command_seq !== null && action !== null
            ? {
                kind: 'command',
                booking,
                command: { id: command_id, seq: command_seq, action, payment: command_payment },
              }
            : { kind: item === 'expired' ? 'expired' : 'booking', booking }
        fetched.set(fetched_queue, [...(fetched.get(fetched_queue) ?? []), one])
      }
      return fetched
    },
  }
}

const cursors = listOf('q', { queue: bookings.resource_id, after: 'bigint', limit: 'int' })

/**
 * Written as raw SQL: one LATERAL union of three kinds of rows, each with its own index and limit, on which the plan
 * depends.
 */
const pendingSql = prepare<FetchedRow>(sql`
  SELECT q.queue AS fetched_queue, r.kind AS resource_kind, i.*
  FROM ${cursors.rows}
  LEFT JOIN resources r ON r.id = q.queue
  LEFT JOIN LATERAL (
    (SELECT 'expired' AS item, NULL::uuid AS command_id, NULL::bigint AS command_seq, NULL::text AS action,
            NULL::jsonb AS command_payment, 0 AS rank, ${columns}
     FROM bookings b WHERE b.resource_id = q.queue AND b.status = 'requested' AND b.expires_at <= clock_timestamp()
     ORDER BY b.expires_at LIMIT q."limit")
    UNION ALL
    (SELECT 'booking', NULL, NULL, NULL, NULL, 1, ${columns}
     FROM bookings b WHERE b.resource_id = q.queue AND b.status = 'queued' AND b.seq > q.after
     ORDER BY b.seq LIMIT q."limit")
    UNION ALL
    (SELECT 'command', c.id, c.seq, c.action, c.payment, 1, ${columns}
     FROM commands c JOIN bookings b ON b.id = c.booking_id WHERE c.queue = q.queue AND c.status = 'queued'
     ORDER BY c.seq LIMIT q."limit")
  ) i ON true
  ORDER BY q.queue, i.rank, coalesce(i.command_seq, i.seq)`)

const ranges = listOf('d', { queue: bookings.resource_id, from_ms: 'float8', until_ms: 'float8' })
const customers = listOf('w', { customer: bookings.customer })

/** Written as raw SQL: it aggregates ranges, and a union of two joins lets each join use its own index. */
const activeSql = prepare<BookingRow>(sql`
  SELECT ${columns} FROM (
    SELECT queue, range_agg(tstzrange(to_timestamp(from_ms / 1000), to_timestamp(until_ms / 1000), '[]')) AS times
    FROM ${ranges.rows} GROUP BY queue
  ) w JOIN bookings b ON b.resource_id = w.queue AND b.period && w.times AND b.status IN ('requested', 'accepted')
  UNION
  SELECT ${columns} FROM ${customers.rows}
  JOIN bookings b ON b.customer = w.customer AND b.kind = 'ride' AND b.status IN ('requested', 'accepted')`)

/**
 * Reads the active bookings with which a new booking of this batch could conflict: those in its calendar at its time,
 * and those of its rider. Bookings with a `paid` command count as new, because the command may have to replace an
 * expired booking.
 */
export async function readActiveBookings(tx: Transaction, items: readonly BookingItem[]): Promise<BookingRow[]> {
  const isNew = (item: BookingItem) => item.kind === 'booking' || item.command?.action === 'paid'
  const added = items.filter(isNew).map((item) => item.booking)
  if (added.length === 0) return []
  const times = added.map(({ queue, from_ms, until_ms }) => ({ queue, from_ms, until_ms }))
  const riders = added.filter((row) => row.kind === 'ride').map((row) => ({ customer: row.customer }))
  return await activeSql(tx, { ...ranges.values(times), ...customers.values(riders) })
}

const changeList = listOf('d', {
  id: bookings.id,
  was: 'text',
  status: bookings.status,
  reason: bookings.reason,
  conflicting_ids: bookings.conflicting_ids,
  amount: bookings.amount,
  currency: bookings.currency,
  expires_ms: 'float8',
  fencing_token: bookings.fencing_token,
})

/**
 * SQL expression for the period of a booking that ends. A ride ends now, but at least a microsecond after its start,
 * because a range must not be empty.
 */
const endedPeriod = sql`CASE WHEN upper_inf(${bookings.period}) THEN tstzrange(lower(${bookings.period}),
  greatest(clock_timestamp(), lower(${bookings.period}) + interval '1 microsecond')) ELSE ${bookings.period} END`

const expireSql = prepare(
  build
    .update(bookings)
    .set({
      status: 'expired',
      period: endedPeriod,
      ...settlementColumns(bookings, sql`'requested'`, sql`'expired'`),
    })
    .where(
      and(
        isOneOf(bookings.id, 'ids'),
        eq(bookings.status, 'requested'),
        lte(bookings.expires_at, sql`clock_timestamp()`),
      ),
    )
    .returning({ id: bookings.id }),
)

function writeStatement() {
  const { was, status, expires_ms, ...d } = changeList.columns
  const newer = build
    .select({ id: resources.id })
    .from(resources)
    .where(and(eq(resources.id, bookings.resource_id), gt(resources.fencing_token, d.fencing_token)))
  return prepare(
    build
      .update(bookings)
      .set({
        status,
        reason: d.reason,
        conflicting_ids: d.conflicting_ids,
        amount: d.amount,
        currency: d.currency,
        fencing_token: d.fencing_token,
        ...settlementColumns(bookings, was, status),
        expires_at: sql`CASE WHEN ${status} = 'requested' THEN ${toTime(expires_ms)} ELSE ${bookings.expires_at} END`,
        period: sql`CASE WHEN ${status} IN ('requested', 'accepted', 'rejected') THEN ${bookings.period} ELSE ${endedPeriod} END`,
      })
      .from(changeList.rows)
      .where(
        and(
          eq(bookings.id, d.id),
          eq(bookings.status, was),
          // Do not accept a request that a reader has already seen as expired: read the clock under the row lock.
          or(
            sql`${was} <> 'requested'`,
            notInArray(status, ['requested', 'accepted']),
            isNull(bookings.expires_at),
            gt(bookings.expires_at, sql`clock_timestamp()`),
          ),
          sql`NOT EXISTS ${newer}`,
        ),
      )
      .returning({ id: bookings.id }),
  )
}
const writeSql = writeStatement()

/**
 * Writes the decisions about bookings. Returns false if a row has changed since the fetch; then the caller must roll
 * the batch back.
 */
export async function writeBookings(tx: Transaction, decision: BookingDecision): Promise<boolean> {
  const { bookings: changed, overdue } = decision
  const active = changed.filter((change) => isActive(change.status))
  const ended = changed.filter((change) => !isActive(change.status))
  // Write in the order of riders, so that the batches of two drivers cannot deadlock on their riders.
  active.sort((a, b) => (a.customer < b.customer ? -1 : 1))
  const by = { settled_by: PROCESS_ID }
  const parts = await Promise.all([
    overdue.length > 0 ? expireSql(tx, { ids: arrayText(overdue), ...by }) : [],
    ended.length > 0 ? writeSql(tx, { ...changeList.values(ended), ...by }) : [],
    active.length > 0 ? writeSql(tx, { ...changeList.values(active), ...by }) : [],
  ])
  return parts.reduce((sum, rows) => sum + rows.length, 0) === changed.length + overdue.length
}

const replacementList = listOf('d', {
  id: bookings.id,
  replaces_id: bookings.replaces_id,
  fencing_token: bookings.fencing_token,
})
const insertReplacementsSql = prepare(
  insertFrom(
    bookings,
    build
      .select({
        id: replacementList.columns.id,
        resource_id: bookings.resource_id,
        kind: bookings.kind,
        customer: bookings.customer,
        period: bookings.period,
        amount: bookings.amount,
        currency: bookings.currency,
        payment: bookings.payment,
        status: sql`'accepted'`,
        replaces_id: replacementList.columns.replaces_id,
        fencing_token: replacementList.columns.fencing_token,
        settled_at: sql`clock_timestamp()`,
        settled_by: settledBy,
      })
      .from(replacementList.rows)
      .innerJoin(bookings, eq(bookings.id, replacementList.columns.replaces_id)),
  ),
)

/**
 * Inserts accepted bookings that replace expired ones. A unique index lets each expired booking be replaced only once.
 */
export async function insertBookingReplacements(tx: Transaction, replacements: readonly Replacement[]): Promise<void> {
  if (replacements.length === 0) return
  await insertReplacementsSql(tx, { ...replacementList.values(replacements), settled_by: PROCESS_ID })
}
