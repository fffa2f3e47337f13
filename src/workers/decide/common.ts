/** Functions that the decisions about purchases and about bookings share: holds, charges and payments from a wallet. */
import type { ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import { sameCurrency } from '../../shared/domain/currency.ts'
import type { BookingRow, ChargeRequest, LedgerEntry, PurchaseRow, Resource } from './types.ts'

/**
 * Thrown for a row that no worker can decide, such as one that was not written by the API. The batcher quarantines the
 * row and settles the others.
 */
export class UnprocessableError extends Error {
  readonly code = 'unprocessable'
}

/**
 * Seconds that units or dates stay held while a charge is in progress: enough for a few slow attempts at the provider.
 * If the outcome comes later, the units or dates are already on sale again.
 */
const PAYMENT_S = 60

/** Final statuses of charges that took no money. */
const UNCHARGED: ReadonlySet<ChargeStatus> = new Set(['declined', 'unavailable'])

/** Returns true if the row's charge has ended without taking money. */
export const chargeFailed = ({ charge }: Pick<PurchaseRow, 'charge'>) => charge !== null && UNCHARGED.has(charge)

/** Returns true if the row's charge has taken or reserved money, or still may. */
export const mayBeCharged = (row: Pick<PurchaseRow, 'charge'>) => row.charge !== null && !chargeFailed(row)

/** Returns true if the row is paid by charging a card. */
export const isCharged = ({ payment, amount }: Pick<PurchaseRow, 'payment' | 'amount'>) =>
  payment.method === 'card' && (amount ?? 0) > 0

/**
 * Returns a request for the next step of the row's charge. A replacement is paid by the charge of the expired purchase
 * or booking that it replaces.
 */
export function chargeRequest(
  of: ChargeRequest['of'],
  step: ChargeRequest['step'],
  row: PurchaseRow | BookingRow,
): ChargeRequest {
  const { id, replaces_id, amount, currency, hold_until_ms } = row
  return { step, of, id: replaces_id ?? id, amount: amount ?? 0, currency: currency ?? '', hold_until_ms }
}

/** Extends the hold for a new charge to at least PAYMENT_S from now, and keeps the original end in `hold_until_ms`. */
export function extendHold(row: PurchaseRow | BookingRow, now_ms: number): void {
  row.charge = 'pending'
  row.hold_until_ms = row.hold_seconds === null ? null : row.expires_ms
  row.expires_ms = Math.max(row.expires_ms ?? 0, now_ms + PAYMENT_S * 1000)
}

/** Restores the original end of the hold, which may be past, after a failed charge. */
export function restoreHold(row: PurchaseRow | BookingRow): void {
  row.charge = null
  row.expires_ms = row.hold_until_ms ?? row.expires_ms
  row.hold_until_ms = null
}

export const isPast = (expires_ms: number | null, now_ms: number) => expires_ms !== null && expires_ms <= now_ms

/** Returns by how many units a ledger entry with this reason changes the available units. */
export const deltaOf = (reason: LedgerEntry['reason'], units: number) =>
  reason === 'sale' || reason === 'hold' ? -units : units

export const samePayment = (one: Payment, other: Payment) =>
  one.method === 'card'
    ? other.method === 'card' && one.token === other.token
    : one.method === 'wallet'
      ? other.method === 'wallet' && one.account === other.account
      : other.method === 'none'

/**
 * Returns true if the wallet's currency differs from that of the payment. Currencies can no longer change, but older
 * data may contain a changed one, and units of the new currency must not refund a payment in the old one.
 */
export function isForeign(
  { payment, amount, currency }: Pick<PurchaseRow, 'payment' | 'amount' | 'currency'>,
  resources: ReadonlyMap<string, Resource>,
): boolean {
  const wallet = payment.method === 'wallet' && amount ? resources.get(payment.account) : undefined
  return wallet !== undefined && currency !== null && !sameCurrency(wallet.currency, currency)
}
