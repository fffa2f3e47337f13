/**
 * Status transitions of a booking. Invariant: a booking changes its status only as in this table; statuses without a
 * transition are final, and a trigger of the database enforces the same.
 */
import type { BookingCommand, BookingStatus, ChargeCommand } from '../db/schema.ts'

/** Moves without a client's command: settlement of the queued booking, outcome of its charge, expiry. */
type Turn = 'request' | 'book' | 'refuse' | 'expire' | ChargeCommand
export type BookingMove = Turn | BookingCommand

/** from → move → to */
export const MOVES: Readonly<Record<BookingStatus, Partial<Record<BookingMove, BookingStatus>>>> = {
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

/** Whether the booking occupies its time, so that no other booking gets it. */
export const isActive = (status: BookingStatus) => status === 'requested' || status === 'accepted'

/** Whether the command can still succeed: in this status, or in one that the booking may reach. */
export const mayStill = (status: BookingStatus, command: BookingCommand): boolean =>
  MOVES[status][command] !== undefined || Object.values(MOVES[status]).some((next) => mayStill(next, command))

/** Time of a stay in milliseconds since 1970. A ride has no dates: it begins when it is requested and has no end yet. */
export interface StayTime {
  kind: 'stay' | 'ride'
  from_ms: number
  until_ms: number | null
}

/** Whether a stay has ended: its end is exclusive. */
export const isOver = ({ kind, until_ms }: StayTime, now_ms: number) =>
  kind === 'stay' && until_ms !== null && until_ms <= now_ms

/**
 * Why a command that the status allows is rejected because of the time; undefined when it is not. A stay can be completed
 * from its beginning on. After its end it cannot be accepted, and an accepted one cannot be cancelled: that would refund
 * time that was used.
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
