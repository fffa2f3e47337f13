/** How a purchase or booking is paid, and what becomes of its charges. */

/** `token` stands for a card at the provider; `account` is the resource of a wallet. */
export type Payment = { method: 'none' } | { method: 'card'; token: string } | { method: 'wallet'; account: string }

/** A row of charges: a charge, a refund, a dispute, or the attempt that a failed charge becomes when the hold goes on. */
export type ChargeKind = 'charge' | 'refund' | 'dispute' | 'attempt'

/**
 * A charge: pending → confirming → authorized → capturing → captured, or confirming → cancelling: its intent is being
 * cancelled, so it is not sold any more. declined and unavailable took no money; released gave the reservation back;
 * authorization_lost is one that the provider ended before it was captured. A refund: pending → refunded, or failed when the
 * provider refused it (our own is requested again: pending), or released when nothing was left to refund. A refund can fail
 * after it was done: a bank returned it. A dispute: open → won or lost.
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

/** Outcome of a charge, queued as a command on what it pays for: `paid` (money is reserved) or `unpaid` (none is taken). */
export const CHARGE_COMMANDS = ['paid', 'unpaid'] as const
export type ChargeCommand = (typeof CHARGE_COMMANDS)[number]
