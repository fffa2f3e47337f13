/**
 * Purchases: their vocabulary and their status transitions. Invariant: a purchase changes its status only as in MOVES;
 * statuses without a move are final, and the trigger purchases_terminal of the database enforces the same.
 */
import type { ChargeCommand } from './charge.ts'
import { isStillPossible, type Moves } from './moves.ts'

export const PURCHASE_STATUSES = [
  'queued',
  'held',
  'confirmed',
  'rejected',
  'failed',
  'cancelled',
  'expired',
  'refunded',
] as const
export type PurchaseStatus = (typeof PURCHASE_STATUSES)[number]

/** Commands that a client may send. */
export const PURCHASE_COMMANDS = ['confirm', 'cancel', 'refund'] as const
export type PurchaseCommand = (typeof PURCHASE_COMMANDS)[number]

/** One item of a purchase: whole units of a resource `type:id`. */
export interface LineItem {
  resource: string
  units: number
}

/**
 * The resource for which a worker rejected a purchase, with the units that were available (sold_out) or the maximum that one
 * customer may have (limit).
 */
export interface Observed {
  resource: string
  available?: number
  max_per_customer?: number
}

/** Moves without a client's command: settlement of the queued purchase, outcome of its charge, expiry. */
type Turn = 'hold' | 'sell' | 'refuse' | 'fail' | 'expire' | ChargeCommand
export type PurchaseMove = Turn | PurchaseCommand

export const MOVES: Moves<PurchaseStatus, PurchaseMove> = {
  queued: { hold: 'held', sell: 'confirmed', refuse: 'rejected', fail: 'failed', cancel: 'cancelled' },
  held: { confirm: 'confirmed', cancel: 'cancelled', expire: 'expired', paid: 'confirmed', unpaid: 'failed' },
  confirmed: { refund: 'refunded' },
  rejected: {},
  failed: {},
  cancelled: {},
  expired: {},
  refunded: {},
}

/** Returns whether the command can still succeed, in this status or in a status that the purchase may reach. */
export const mayStill = (status: PurchaseStatus, command: PurchaseCommand): boolean =>
  isStillPossible(MOVES, status, command)
