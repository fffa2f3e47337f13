/**
 * The life of a booking. Invariant: a booking changes its status along this table and no other way; the statuses
 * without a move are terminal, and a trigger of the database says so too.
 */
import type { BookingCommand, BookingStatus, ChargeCommand } from './schema.ts'

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
