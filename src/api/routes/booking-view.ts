/** Bookings as clients see them: the body of every answer, and the problems that say how a booking or a command ended. */
import Type from 'typebox'
import { BOOKING_STATUSES, type BookingCommand } from '../../shared/domain/booking.ts'
import { Problem } from '../../shared/problem.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { iso, isoOrNull } from '../http/timestamps.ts'
import type { BookingRow } from '../queue/booking-rows.ts'
import { declineOf, PaymentState, paymentState, unpaidCode } from '../queue/payment-view.ts'
import { PAYMENT_FAILURES, PAYMENT_REFUSALS } from '../queue/requests.ts'
import { type CommandFailure, statusNow } from '../queue/submission.ts'

export const BookingSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Position in its queue: first come, first served' }),
    kind: Type.Enum(['stay', 'ride']),
    status: Type.Enum([...BOOKING_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why the booking was rejected or cancelled' })),
    conflicting_ids: Nullable(
      Type.Array(Type.String(), {
        description: 'Bookings that this booking conflicts with, if it was rejected for a conflict',
      }),
    ),
    resource: Type.String(),
    customer: Type.String(),
    from: Time,
    to: Nullable(Type.String({ format: 'date-time', description: 'Exclusive; null while a ride has no end' })),
    pickup: Nullable(Type.Object({ lat: Type.Number(), lng: Type.Number() })),
    amount: Nullable(
      Type.Integer({
        description: 'Price × days begun by the local clock, in minor units; null until the booking is settled',
      }),
    ),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired booking whose late payment paid for this one' }),
    ),
    replaced_by: Nullable(
      Type.String({ format: 'uuid', description: 'The booking that the late payment of this one paid for' }),
    ),
    fencing_token: Nullable(
      Type.Integer({ description: 'Fencing token of the lease under which the booking was settled' }),
    ),
    created_at: Time,
    settled_at: Nullable(Time),
  },
  {
    $id: 'Booking',
    examples: [
      {
        id: '01935f5e-0000-7000-8000-000000000011',
        seq: 4,
        kind: 'stay',
        status: 'accepted',
        reason: null,
        conflicting_ids: null,
        resource: 'property:42',
        customer: 'ada',
        from: '2030-06-01T00:00:00.000Z',
        to: '2030-06-05T00:00:00.000Z',
        pickup: null,
        amount: 48_000,
        currency: 'USD',
        payment: { method: 'none' },
        hold_seconds: null,
        expires_at: null,
        replaces: null,
        replaced_by: null,
        fencing_token: 1_795_257_640_880_613,
        created_at: '2026-11-21T10:00:00.000Z',
        settled_at: '2026-11-21T10:00:00.012Z',
      },
    ],
  },
)
type Booking = Type.Static<typeof BookingSchema>

export const BookingRef = Type.Unsafe<Booking>(Type.Ref('Booking'))

export function bookingView(row: BookingRow): Booking {
  return {
    id: row.id,
    seq: row.seq,
    kind: row.kind,
    status: statusNow(row),
    reason: row.reason,
    conflicting_ids: row.conflicting_ids,
    resource: row.queue,
    customer: row.customer,
    from: iso(row.from_at),
    to: isoOrNull(row.until_at),
    pickup: row.pickup,
    amount: row.amount,
    currency: row.currency,
    payment: paymentState(row.payment, row.charge_state),
    hold_seconds: row.hold_seconds,
    expires_at: isoOrNull(row.expires_at),
    replaces: row.replaces_id,
    replaced_by: row.replaced_by,
    fencing_token: row.fencing_token,
    created_at: iso(row.created_at),
    settled_at: isoOrNull(row.settled_at),
  }
}

/** Returns the body of the 201 for a settled booking. @throws Problem when a worker rejected it */
export function bookingOutcome(row: BookingRow): Booking {
  const booking = bookingView(row)
  const { status, reason, conflicting_ids } = booking
  if (status === 'requested' || status === 'accepted' || status === 'completed') return booking
  if (status !== 'rejected') throw new Problem(409, status, `The booking is ${status}.`, { booking })
  if (conflicting_ids) throw conflict(conflicting_ids, booking)
  throw refusal(booking, reason ?? status)
}

/** Returns the body of the 200 for an executed command. @throws Problem when the charge of the command failed later */
export function commandOutcome(command: BookingCommand, row: BookingRow): Booking {
  const booking = bookingView(row)
  const { status, reason } = booking
  if (command !== 'accept' || status === 'accepted' || status === 'completed') return booking
  if (status === 'rejected') throw refusal(booking, reason ?? status)
  if (status === 'requested') throw refusal(booking, unpaidCode(booking.payment))
  // The booking was accepted and cancelled later: a replay of the accept answers with the booking as it is now.
  const { charge } = booking.payment
  if (status === 'cancelled' && (!charge || charge.status === 'captured')) return booking
  // The hold expired before the card charge ended, or a cancel or decline was settled first.
  throw wrongStatus(command, status)
}

/** Returns the problem for a command that no worker executed, or whose charge failed. */
export function commandProblem(command: BookingCommand, result: CommandFailure<BookingRow>): Problem {
  const { reason } = result
  const booking = bookingView(result.row)
  if (reason === 'too_early' || reason === 'too_late') return illTimed(command, reason, booking)
  if (result.status === 'unpaid' || PAYMENT_FAILURES.has(reason)) return refusal(booking, reason)
  const why = PAYMENT_REFUSALS[reason]
  if (why !== undefined) return new Problem(409, reason, why, { booking })
  return wrongStatus(command, result.observed_status)
}

const refusal = (booking: Booking, code: string) =>
  PAYMENT_FAILURES.has(code)
    ? new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(booking.payment), booking })
    : new Problem(409, code, `The booking was rejected: ${code}.`, { booking })

const illTimed = (command: BookingCommand, code: 'too_early' | 'too_late', booking: Booking) => {
  const when = code === 'too_early' ? `before it begins, ${booking.from}` : `after its end, ${booking.to}`
  return new Problem(409, code, `A stay cannot be ${PARTICIPLES[command]} ${when}.`, { booking })
}

export const conflict = (conflicting_ids: string[], booking?: Booking) =>
  new Problem(409, 'conflict', 'Another booking overlaps this time, or has this rider.', {
    conflicting_ids,
    ...(booking ? { booking } : {}),
  })

const PARTICIPLES: Record<BookingCommand, string> = {
  accept: 'accepted',
  decline: 'declined',
  cancel: 'cancelled',
  complete: 'completed',
}
export const wrongStatus = (command: BookingCommand, status: string) =>
  new Problem(409, 'wrong_status', `A booking that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
