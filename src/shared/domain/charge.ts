/** How a purchase or booking is paid, and the states of its charges, refunds and disputes. */

/** `token` stands for a card at the provider; `account` is the resource of a wallet. */
export type Payment = { method: 'none' } | { method: 'card'; token: string } | { method: 'wallet'; account: string }

/** A row of charges: a charge, a refund, a dispute, or the attempt that a failed charge becomes when the hold goes on. */
export type ChargeKind = 'charge' | 'refund' | 'dispute' | 'attempt'

/**
 * States of a row of charges.
 *
 * A charge: pending → confirming → authorized → capturing → captured. Or confirming → cancelling: a job is cancelling the
 * intent, so no job may sell for this charge any more. declined and unavailable: no money was taken. released: the reservation
 * was given back. authorization_lost: the provider ended the reservation before it was captured.
 *
 * A refund: pending → refunded; or failed, if the provider refused it (our own refund is then requested again: pending); or
 * released, if nothing was left to refund. A refund can fail after it was done, because a bank returned the money.
 *
 * A dispute: open → won or lost.
 */
export type ChargeStatus =
  | 'pending'
  | 'confirming'
  | 'cancelling'
  | 'authorized'
  | 'capturing'
  | 'captured'
  | 'declined'
  | 'unavailable'
  | 'released'
  | 'refunded'
  | 'failed'
  | 'authorization_lost'
  | 'lost'
  | 'open'
  | 'won'

/**
 * Commands that tell the outcome of a charge; a charge job queues them on the purchase or booking. `paid`: money is reserved;
 * `unpaid`: no money is taken.
 */
export const CHARGE_COMMANDS = ['paid', 'unpaid'] as const
export type ChargeCommand = (typeof CHARGE_COMMANDS)[number]
