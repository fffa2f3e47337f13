/**
 * Booking rows of a batch: the pending ones, the active ones, and what was decided. Invariants: active bookings are read
 * and all are written under the row locks of the batch; every change is conditional on the status that was decided on and
 * on no newer token; ended bookings are written before new ones, so that the EXCLUDE constraint never sees a transient overlap.
 */
import { sql } from 'drizzle-orm'
import { type Client, query, type Transaction } from '../../shared/db/client.ts'
import type { BookingCommand, ChargeCommand, Payment } from '../../shared/db/schema.ts'
import { unnestRows } from '../../shared/db/unnest.ts'
import { isActive } from '../../shared/domain/booking.ts'
import type { BookingChange, BookingDecision, BookingItem, BookingRow } from '../decide/bookings.ts'
import type { QueueCursor } from './queue-item.ts'

/** Columns of BookingRow, of `b`. */
const COLUMNS = `b.id, b.seq, b.resource_id AS queue, b.kind, b.customer,
  (extract(epoch FROM lower(b.period)) * 1000)::float8 AS from_ms,
  (extract(epoch FROM upper(b.period)) * 1000)::float8 AS until_ms,
  b.days, b.amount, b.currency, b.payment, b.hold_seconds, b.status,
  (extract(epoch FROM b.expires_at) * 1000)::float8 AS expires_ms,
  (extract(epoch FROM b.created_at) * 1000)::float8 AS created_ms, b.replaces_id,
  CASE b.payment ->> 'method' WHEN 'card' THEN (
    SELECT c.status FROM charges c WHERE c.booking_id = b.id AND c.kind = 'charge') END AS charge,
  CASE b.payment ->> 'method' WHEN 'card' THEN (
    SELECT (extract(epoch FROM c.hold_until) * 1000)::float8 FROM charges c
    WHERE c.booking_id = b.id AND c.kind = 'charge') END AS hold_until_ms`

type FetchedRow = BookingRow & {
  fetched_queue: string
  resource_kind: 'units' | 'calendar' | null
  item: BookingItem['kind'] | null
  command_id: string | null
  command_seq: number | null
  action: BookingCommand | ChargeCommand | null
  command_payment: Payment | null
}

/** Resources of kind `units` that one process remembers, so that their queues are not read for bookings again. */
const REMEMBERED = 100_000

/** Fetches the pending rows of calendars. A resource never changes its kind: a queue of units is read once. */
export function createBookingFetcher(client: Client) {
  const units = new Set<string>()
  return {
    /** Overdue requests first, then bookings after `after` and commands by seq. Rows of one booking share one object. */
    async fetch(cursors: readonly QueueCursor[]): Promise<Map<string, BookingItem[]>> {
      const fetched = new Map<string, BookingItem[]>()
      const calendars = cursors.filter(({ queue }) => !units.has(queue))
      if (calendars.length === 0) return fetched
      const rows = await query<FetchedRow>(client, pendingBookingsSql(calendars))
      if (units.size > REMEMBERED) units.clear()
      const bookings = new Map<string, BookingRow>()
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
        const booking = bookings.get(row.id) ?? row
        bookings.set(booking.id, booking)
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

const pendingBookingsSql = (cursors: readonly QueueCursor[]) => sql`
  SELECT q.queue AS fetched_queue, r.kind AS resource_kind, i.*
  FROM ${unnestRows('q', cursors, { queue: 'text', after: 'bigint', limit: 'int' })}
  LEFT JOIN resources r ON r.id = q.queue
  LEFT JOIN LATERAL (
    (SELECT 'expired' AS item, NULL::uuid AS command_id, NULL::bigint AS command_seq, NULL::text AS action,
            NULL::jsonb AS command_payment, 0 AS rank, ${sql.raw(COLUMNS)}
     FROM bookings b WHERE b.resource_id = q.queue AND b.status = 'requested' AND b.expires_at <= clock_timestamp()
     ORDER BY b.expires_at LIMIT q."limit")
    UNION ALL
    (SELECT 'booking', NULL, NULL, NULL, NULL, 1, ${sql.raw(COLUMNS)}
     FROM bookings b WHERE b.resource_id = q.queue AND b.status = 'queued' AND b.seq > q.after
     ORDER BY b.seq LIMIT q."limit")
    UNION ALL
    (SELECT 'command', c.id, c.seq, c.action, c.payment, 1, ${sql.raw(COLUMNS)}
     FROM commands c JOIN bookings b ON b.id = c.booking_id WHERE c.queue = q.queue AND c.status = 'queued'
     ORDER BY c.seq LIMIT q."limit")
  ) i ON true
  ORDER BY q.queue, i.rank, coalesce(i.command_seq, i.seq)`

/**
 * The active bookings that a new booking of this batch could conflict with: of its calendar at its time, or of its rider. A
 * `paid` command may have to replace its expired booking.
 */
export async function readActiveBookings(tx: Transaction, items: readonly BookingItem[]): Promise<BookingRow[]> {
  const isNew = (item: BookingItem) => item.kind === 'booking' || item.command?.action === 'paid'
  const added = items.filter(isNew).map((item) => item.booking)
  if (added.length === 0) return []
  const ranges = added.map(({ queue, from_ms, until_ms }) => ({ queue, from_ms, until_ms }))
  const riders = added.filter((row) => row.kind === 'ride').map((row) => row.customer)
  return await query<BookingRow>(
    tx,
    sql`
    SELECT ${sql.raw(COLUMNS)} FROM (
      SELECT queue, range_agg(tstzrange(to_timestamp(from_ms / 1000), to_timestamp(until_ms / 1000), '[]')) AS times
      FROM ${unnestRows('d', ranges, { queue: 'text', from_ms: 'float8', until_ms: 'float8' })}
      GROUP BY queue
    ) w JOIN bookings b ON b.resource_id = w.queue AND b.period && w.times AND b.status IN ('requested', 'accepted')
    UNION
    SELECT ${sql.raw(COLUMNS)} FROM json_array_elements_text(${JSON.stringify(riders)}::json) AS w(customer)
    JOIN bookings b ON b.customer = w.customer AND b.kind = 'ride' AND b.status IN ('requested', 'accepted')`,
  )
}

/** Writes what was decided; false when a row has changed since the fetch, and the batch is to be rolled back. */
export async function writeBookings(tx: Transaction, { bookings, overdue }: BookingDecision): Promise<boolean> {
  const active = bookings.filter((change) => isActive(change.status))
  const ended = bookings.filter((change) => !isActive(change.status))
  // In one order of riders, so that the batches of two drivers cannot deadlock on their riders.
  active.sort((a, b) => (a.customer < b.customer ? -1 : 1))
  const expire = sql`
    UPDATE bookings SET status = 'expired', period = ${ENDED_RANGE}, settled_at = clock_timestamp()
    WHERE id IN (SELECT json_array_elements_text(${JSON.stringify(overdue)}::json)::uuid)
      AND status = 'requested' AND expires_at <= clock_timestamp()
    RETURNING id`
  const parts = await Promise.all([
    overdue.length > 0 ? query(tx, expire) : [],
    ended.length > 0 ? query(tx, updateSql(ended)) : [],
    active.length > 0 ? query(tx, updateSql(active)) : [],
  ])
  return parts.reduce((sum, rows) => sum + rows.length, 0) === bookings.length + overdue.length
}

/** Period of an ended ride: until now; a range must not be empty. */
const ENDED_RANGE = sql.raw(`CASE WHEN upper_inf(period)
  THEN tstzrange(lower(period), greatest(clock_timestamp(), lower(period) + interval '1 microsecond')) ELSE period END`)

const updateSql = (changes: readonly BookingChange[]) => sql`
  UPDATE bookings t
  SET status = d.status, reason = d.reason, conflicting_ids = d.conflicting_ids, amount = d.amount, currency = d.currency,
      fencing_token = d.fencing_token, settled_at = clock_timestamp(),
      expires_at = CASE WHEN d.status = 'requested' THEN to_timestamp(d.expires_ms / 1000) ELSE t.expires_at END,
      period = CASE WHEN d.status IN ('requested', 'accepted', 'rejected') THEN t.period ELSE ${ENDED_RANGE} END
  FROM ${unnestRows('d', changes, { id: 'uuid', was: 'text', status: 'text', reason: 'text', conflicting_ids: 'jsonb', amount: 'bigint', currency: 'text', expires_ms: 'float8', fencing_token: 'bigint' })}
  WHERE t.id = d.id AND t.status = d.was
    -- A request that a reader has seen as expired must not be accepted: the clock is read under the row lock.
    AND (d.was <> 'requested' OR d.status NOT IN ('requested', 'accepted') OR t.expires_at IS NULL
         OR t.expires_at > clock_timestamp())
    AND NOT EXISTS (SELECT 1 FROM resources r WHERE r.id = t.resource_id AND r.fencing_token > d.fencing_token)
  RETURNING t.id`
