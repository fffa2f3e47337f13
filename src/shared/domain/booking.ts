/**
 * Bookings: their vocabulary and their status transitions. Invariant: a booking changes its status only as in MOVES;
 * statuses without a move are final, and the trigger bookings_terminal of the database enforces the same.
 */
import type { ChargeCommand } from './charge.ts'
import { isStillPossible, type Moves } from './moves.ts'

export const BOOKING_STATUSES = [
  'queued',
  'requested',
  'accepted',
  'completed',
  'rejected',
  'declined',
  'cancelled',
  'expired',
] as const
export type BookingStatus = (typeof BOOKING_STATUSES)[number]

/** Commands that a client may send. */
export const BOOKING_COMMANDS = ['accept', 'decline', 'cancel', 'complete'] as const
export type BookingCommand = (typeof BOOKING_COMMANDS)[number]

export const BOOKING_KINDS = ['stay', 'ride'] as const
export type BookingKind = (typeof BOOKING_KINDS)[number]

/** Where a ride begins: coordinates in degrees. */
export interface Pickup {
  lat: number
  lng: number
}

/** Moves without a client's command: settlement of the queued booking, outcome of its charge, expiry. */
type Turn = 'request' | 'book' | 'refuse' | 'expire' | ChargeCommand
export type BookingMove = Turn | BookingCommand

export const MOVES: Moves<BookingStatus, BookingMove> = {
  queued: { request: 'requested', book: 'accepted', refuse: 'rejected', cancel: 'cancelled' },
  requested: {
    accept: 'accepted',
    decline: 'declined',
    cancel: 'cancelled',
    expire: 'expired',
    paid: 'accepted',
    unpaid: 'rejected',
  },
  accepted: { complete: 'completed', cancel: 'cancelled' },
  completed: {},
  rejected: {},
  declined: {},
  cancelled: {},
  expired: {},
}

/** Returns whether a booking with this status occupies its time, so that no other booking gets that time. */
export const isActive = (status: BookingStatus) => status === 'requested' || status === 'accepted'

/** Returns whether the command can still succeed, in this status or in a status that the booking may reach. */
export const mayStill = (status: BookingStatus, command: BookingCommand): boolean =>
  isStillPossible(MOVES, status, command)

/** Times in milliseconds since 1970. A ride has no dates: it begins when it is requested and has no end yet. */
export interface StayTime {
  kind: BookingKind
  from_ms: number
  until_ms: number | null
}

/** Returns whether a stay has ended; the end of a stay is exclusive. */
export const isOver = ({ kind, until_ms }: StayTime, now_ms: number) =>
  kind === 'stay' && until_ms !== null && until_ms <= now_ms

/**
 * Returns why a command that the status allows must be rejected because of the time; undefined if it must not. A stay can be
 * completed from its beginning on. After its end a stay cannot be accepted, and an accepted stay cannot be cancelled, because
 * that would refund time that was used.
 */
export function refusedByTime(
  booking: StayTime & { status: BookingStatus },
  command: BookingCommand,
  now_ms: number,
): 'too_early' | 'too_late' | undefined {
  if (command === 'complete' && booking.kind === 'stay' && now_ms < booking.from_ms) return 'too_early'
  const ends = command === 'accept' || (command === 'cancel' && booking.status === 'accepted')
  return ends && isOver(booking, now_ms) ? 'too_late' : undefined
}
