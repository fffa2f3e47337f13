/**
 * Reads the outbox. Invariant: rows at or below the horizon are final, that is, no further row can become visible there. So a
 * reader that has read up to a horizon has missed nothing, although Postgres assigns ids before their transactions commit.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from './db/client.ts'
import { BOOKING_STATUSES, type BookingStatus } from './domain/booking.ts'
import { type LineItem, PURCHASE_STATUSES, type PurchaseStatus } from './domain/purchase.ts'

/** Returns the statuses that are events. `queued` is not an event: the caller that created the row has the response. */
const settled = <Status extends string>(statuses: readonly Status[]) => statuses.filter((one) => one !== 'queued')

/** Event types for changes of a charge that no status of a purchase or booking shows. */
const MONEY = [
  'refunded',
  'refund_failed',
  'authorization_lost',
  'dispute_opened',
  'dispute_won',
  'dispute_lost',
] as const

export const EVENT_TYPES: readonly string[] = [
  ...settled(PURCHASE_STATUSES).map((status) => `purchase.${status}`),
  ...settled(BOOKING_STATUSES).map((status) => `booking.${status}`),
  ...MONEY.map((what) => `payment.${what}`),
  'resource.restocked',
]

/** A position between events: `n` changes of the outbox row `id` lie before it. */
export interface Position {
  id: number
  n: number
}

/**
 * One change, as readers of the outbox get it. Every delivery of an event has the same content. A change of a purchase of
 * several resources is one event for each resource.
 */
export interface Event {
  /** unique, and in the order of the whole log: `17-3` is the third change of row 17 */
  id: string
  /** the same in the events of all resources of a cart, so that a receiver of several of these events can act once */
  change: string
  type: string
  /** a resource of the purchase, or the booked resource */
  resource: string
  /** counts the resource's events, without gaps */
  sequence: number
  timestamp: string
  data: object
}

/** Returns the id of the purchase or booking that the event is about; null if the stock of a resource changed. */
export function subjectOf({ data }: Event): string | null {
  const { purchase, booking } = data as { purchase?: string; booking?: string }
  return purchase ?? booking ?? null
}

export const formatEventId = ({ id, n }: Position) => `${id}-${n}`
export const ID_PATTERN = '^(0|[1-9]\\d{0,14})-(0|[1-9]\\d{0,5})$'

/** Returns the position that formatEventId has formatted. */
export function parseEventId(id: string): Position {
  const [row = '', n = ''] = id.split('-')
  return { id: Number(row), n: Number(n) }
}

/** Compares two positions, for sorting: negative if `a` lies before `b`. */
export const comparePositions = (a: Position, b: Position) => a.id - b.id || a.n - b.n

/** More than the number of rows in a batch, so no outbox row has as many changes. */
const MAX_CHANGES = 999_999
/** Returns the position behind all changes of an outbox row. */
export const endOfRow = (id: number): Position => ({ id, n: MAX_CHANGES })

/** Default number of outbox rows in one page: few, because one row can contain the changes of a whole batch. */
const ROWS = 16

interface Row {
  id: number
  n: number
  about: 'purchase' | 'booking' | 'payment' | 'resource'
  resource: string
  sequence: number
  created_at: string
  /** null: the stock of a resource changed */
  subject: string | null
  status: PurchaseStatus | BookingStatus | (typeof MONEY)[number] | 'restocked'
  reason: string | null
  delta: number | null
  /** for a payment: what it pays for, and whether the change was made at the provider */
  purchase: string | null
  booking: string | null
  at_provider: boolean | null
  customer: string | null
  lines: LineItem[] | null
  amount: number | null
  currency: string | null
  kind: string | null
  from: string | null
  to: string | null
}

interface Page {
  events: Event[]
  /** the reader has read everything up to this position */
  end: Position
  /** there may be more below the horizon */
  more: boolean
}

interface PageOptions {
  after: Position
  horizon: number
  resource?: string | undefined
  /** maximum number of outbox rows */
  limit?: number
}

/**
 * Reads the next events after a position, for one resource or for all, up to `horizon`. It reads data that the outbox row does
 * not store from the purchase or booking, and only from columns that no longer change.
 */
export async function readEvents(
  client: Client,
  { after, horizon, resource, limit = ROWS }: PageOptions,
): Promise<Page> {
  const first = after.n === MAX_CHANGES ? after.id + 1 : after.id
  const only = resource === undefined ? sql`` : sql`AND resource_id = ${resource}`
  const rows = await query<Row>(
    client,
    sql`
    WITH page AS MATERIALIZED (
      SELECT * FROM outbox WHERE id >= ${first} AND id <= ${horizon} ${only} ORDER BY id LIMIT ${limit}
    )
    SELECT e.id, c.n::int AS n, e.subject_type AS about, e.resource_id AS resource, e.last_sequence - cardinality(e.statuses) + c.n AS sequence, e.created_at,
           c.subject, c.status, c.reason, e.delta,
           coalesce(p.customer, b.customer) AS customer, p.items AS lines,
           coalesce(p.amount, b.amount) AS amount, coalesce(m.currency, p.currency, b.currency) AS currency,
           m.purchase_id AS purchase, m.booking_id AS booking, m.at_provider,
           b.kind, lower(b.period) AS from, CASE b.kind WHEN 'stay' THEN upper(b.period) END AS to
    FROM page e
    CROSS JOIN LATERAL unnest(e.subject_ids, e.statuses, e.reasons) WITH ORDINALITY AS c(subject, status, reason, n)
    LEFT JOIN charges m ON e.subject_type = 'payment' AND m.id = c.subject
    LEFT JOIN purchases p ON p.id = CASE e.subject_type WHEN 'purchase' THEN c.subject ELSE m.purchase_id END
    LEFT JOIN bookings b ON b.id = CASE e.subject_type WHEN 'booking' THEN c.subject ELSE m.booking_id END
    ORDER BY e.id, c.n`,
  )
  const count = new Set(rows.map((row) => row.id)).size
  const last = rows.at(-1)
  const more = count === limit && last !== undefined
  const fresh = rows.filter((row) => comparePositions(row, after) > 0)
  return { events: fresh.map(toEvent), end: endOfRow(more ? last.id : horizon), more }
}

function toEvent(row: Row): Event {
  const { n, about, resource, sequence, created_at, subject, status, reason, customer, amount, currency } = row
  const iso = (at: string | null) => at && new Date(at).toISOString()
  const common = { status, reason, customer, amount, currency }
  const { purchase, booking, at_provider, delta } = row
  const paid = purchase === null ? { booking } : { purchase }
  const data =
    about === 'payment'
      ? { payment: subject, ...paid, ...common, amount: delta, at_provider }
      : about === 'resource'
        ? { delta, reason }
        : about === 'purchase'
          ? { purchase: subject, ...common, lines: row.lines }
          : { booking: subject, ...common, kind: row.kind, from: iso(row.from), to: iso(row.to) }
  const timestamp = new Date(created_at).toISOString()
  const id = formatEventId({ id: row.id, n })
  // A purchase or booking enters each status once. A refund may fail repeatedly, so the id of its change contains the time.
  const what = about === 'payment' ? `${status}/${timestamp}` : status
  const change = subject === null ? id : `${subject}/${what}`
  return { id, change, type: `${about}.${status}`, resource, sequence, timestamp, data }
}

/** Returns the bounds of the outbox ids: rows up to `dropped` were pruned, and no row is later than `newest`. */
export async function outboxBounds(client: Client): Promise<{ dropped: number; newest: number }> {
  const [row] = await query<{ dropped: number; newest: number }>(
    client,
    sql`SELECT (SELECT pruned_through_id FROM outbox_retention) AS dropped,
               (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_id_seq) AS newest`,
  )
  if (!row) throw new Error('outbox_retention has lost its row')
  return row
}

/**
 * Finds the horizon. A transaction takes the table lock of the outbox before it gets an id, and holds the lock until it ends.
 * This reads `newest`, then lists the transactions that hold the lock. When all of them have ended, every row up to `newest`
 * is visible. Unlike the xmin of a snapshot, this waits only for writers of the outbox.
 */
export function createHorizon(client: Client) {
  let final: number | undefined
  let pending: { upto: number; writers: string[] } | undefined

  async function writers(): Promise<string[]> {
    const rows = await query<{ writer: string }>(
      client,
      sql`SELECT DISTINCT virtualtransaction AS writer FROM pg_locks
          WHERE locktype = 'relation' AND relation = 'outbox'::regclass AND mode = 'RowExclusiveLock'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    )
    return rows.map((row) => row.writer)
  }

  return {
    /** Returns the id up to which all rows are final; undefined if that is not known yet: poll again soon. */
    async poll(): Promise<number | undefined> {
      if (pending) {
        const still = new Set(await writers())
        if (pending.writers.some((one) => still.has(one))) return final
        final = pending.upto
        pending = undefined
      }
      const { newest } = await outboxBounds(client)
      if (newest === final) return final
      pending = { upto: newest, writers: await writers() }
      if (pending.writers.length === 0) {
        final = newest
        pending = undefined
      }
      return final
    },
    /** Returns true while some rows are not final yet: the caller should poll again sooner. */
    waiting: () => pending !== undefined,
  }
}
