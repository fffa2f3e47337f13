/**
 * The life of a booking. Invariant: a booking changes its status along this table and no other way; the statuses
 * without a move are terminal, and a trigger of the database says so too.
 */
import type { BookingCommand, BookingStatus, ChargeCommand } from '../db/schema.ts'

/** What happens to a booking without a client's command: its turn in the line, its card's answer, the end of its time. */
type Turn = 'request' | 'book' | 'refuse' | 'expire' | ChargeCommand
export type BookingMove = Turn | BookingCommand

/** from → what happens → to */
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

/** Whether the booking's time is taken: nobody else gets it. */
export const isActive = (status: BookingStatus) => status === 'requested' || status === 'accepted'

/** Whether the command can still succeed: now, or in a status that the booking may reach. */
export const mayStill = (status: BookingStatus, command: BookingCommand): boolean =>
  MOVES[status][command] !== undefined || Object.values(MOVES[status]).some((next) => mayStill(next, command))

/** When a stay is, in milliseconds since 1970. A ride has no dates: it begins when it is asked for and has no end yet. */
export interface StayTime {
  kind: 'stay' | 'ride'
  from_ms: number
  until_ms: number | null
}

/** Whether a stay is over: its end is not part of it. */
export const isOver = ({ kind, until_ms }: StayTime, now_ms: number) =>
  kind === 'stay' && until_ms !== null && until_ms <= now_ms

/**
 * Why the time refuses a command that the status allows; undefined when it does not. A stay completes from its beginning
 * on. One that is over is not accepted any more, and an accepted one is not cancelled: its refund would be of time that
 * was used.
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
