/**
 * Bookings as the API queues and reads them. Invariant: Postgres' clock decides which requests are overdue, so all processes
 * agree.
 */
import { and, desc, eq, lt, not, or, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { bookings } from '../../shared/db/schema.ts'
import { build, isOneOf, prepare, type Statement, value } from '../../shared/db/statements.ts'
import type { BookingStatus, Pickup } from '../../shared/domain/booking.ts'
import { chargeState, charging } from './charge-columns.ts'
import { type Enqueued, type QueuedRowInput, UNSETTLED } from './intake-rows.ts'

/** A booking before it is queued. A ride has neither from_at nor until_at: it begins when its row is inserted. */
export interface NewBooking extends QueuedRowInput {
  kind: 'stay' | 'ride'
  from_at: string | null
  until_at: string | null
  /** days charged for a stay; stored here because the UTC offsets of the request are not stored */
  days: number | null
  pickup: Pickup | null
}

const later = alias(bookings, 'later')
const overdue = sql<boolean>`(${bookings.status} = 'requested' AND coalesce(${bookings.expires_at} <= clock_timestamp(), false))`

const select = () =>
  build
    .select({
      id: bookings.id,
      seq: bookings.seq,
      /** the resource that is booked */
      queue: sql<string>`${bookings.resource_id}`.as('queue'),
      kind: bookings.kind,
      status: bookings.status,
      reason: bookings.reason,
      conflicting_ids: bookings.conflicting_ids,
      customer: bookings.customer,
      from_at: sql<string>`lower(${bookings.period})`.as('from_at'),
      until_at: sql<string | null>`upper(${bookings.period})`.as('until_at'),
      pickup: bookings.pickup,
      amount: bookings.amount,
      currency: bookings.currency,
      payment: bookings.payment,
      hold_seconds: bookings.hold_seconds,
      expires_at: bookings.expires_at,
      replaces_id: bookings.replaces_id,
      fencing_token: bookings.fencing_token,
      created_at: bookings.created_at,
      settled_at: bookings.settled_at,
      overdue: overdue.as('overdue'),
      charging: charging.bookings.as('charging'),
      charge_state: chargeState.bookings.as('charge_state'),
      replaced_by: sql<string | null>`CASE WHEN ${bookings.status} = 'expired' THEN ${build
        .select({ id: later.id })
        .from(later)
        .where(eq(later.replaces_id, bookings.id))} END`.as('replaced_by'),
    })
    .from(bookings)

export type BookingRow = Awaited<ReturnType<typeof select>>[number]

/** Returns a new booking as it was queued, before any worker has settled it. */
const asQueued = (input: NewBooking, { seq, created_at }: Enqueued): BookingRow => ({
  ...input,
  ...UNSETTLED,
  conflicting_ids: null,
  from_at: input.from_at ?? created_at,
  seq,
  created_at,
})

const byIds = isOneOf(bookings.id, 'ids')
export const BOOKING_ROWS = {
  noun: 'booking' as const,
  asQueued,
  read: prepare(select().where(byIds)),
  lock: prepare(select().where(byIds).orderBy(bookings.id).for('share')),
}

/** Finds the booking that an earlier request with this idempotency key has queued. Parameters: `key` and `scope`. */
export const bookingByKey = prepare(
  build
    .select({ id: bookings.id })
    .from(bookings)
    .where(and(eq(bookings.idempotency_key, value('key')), eq(bookings.idempotency_scope, value('scope')))),
)

export interface BookingFilters {
  resource?: string | undefined
  customer?: string | undefined
  status?: BookingStatus | undefined
  before?: string | undefined
}

/** Builds the statement that reads a page of bookings, newest first. Its parameters: the filters and `limit`. */
export function bookingPage({ resource, customer, status, before }: BookingFilters): Statement<BookingRow> {
  const statuses = {
    requested: and(eq(bookings.status, 'requested'), not(overdue)),
    expired: or(eq(bookings.status, 'expired'), overdue),
  }
  return prepare(
    select()
      .where(
        and(
          before === undefined ? undefined : lt(bookings.id, value('before')),
          resource === undefined ? undefined : eq(bookings.resource_id, value('resource')),
          customer === undefined ? undefined : eq(bookings.customer, value('customer')),
          status === 'requested' || status === 'expired'
            ? statuses[status]
            : status && eq(bookings.status, value('status')),
        ),
      )
      .orderBy(desc(bookings.id))
      .limit(value('limit')),
  )
}
