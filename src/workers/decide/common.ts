/** What deciding a purchase and deciding a booking have in common: holds, charges and the payment of a wallet. */
import type { ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import { sameCurrency } from '../../shared/domain/currency.ts'
import type { BookingRow, ChargeRequest, LedgerEntry, PurchaseRow, Resource } from './types.ts'

/** Thrown for a row that no worker can decide (written past the API): the row is quarantined, the others are settled. */
export class UnprocessableError extends Error {
  readonly code = 'unprocessable'
}

/**
 * Seconds that units or dates stay held for a charge to end: a few slow attempts at the provider. When the outcome comes
 * later, they are on sale again.
 */
const PAYMENT_S = 60

/** Final statuses of a charge that took no money. */
const UNCHARGED: ReadonlySet<ChargeStatus> = new Set(['declined', 'unavailable'])

/** Whether its charge has ended without taking money. */
export const chargeFailed = ({ charge }: Pick<PurchaseRow, 'charge'>) => charge !== null && UNCHARGED.has(charge)

/** Whether its charge has taken or reserved money, or still may. */
export const mayBeCharged = (row: Pick<PurchaseRow, 'charge'>) => row.charge !== null && !chargeFailed(row)

/** Whether it is paid by a charge of a card. */
export const isCharged = ({ payment, amount }: Pick<PurchaseRow, 'payment' | 'amount'>) =>
  payment.method === 'card' && (amount ?? 0) > 0

/** The next step of its charge. The charge of a replacement belongs to the expired purchase or booking that it replaces. */
export function chargeRequest(
  of: ChargeRequest['of'],
  step: ChargeRequest['step'],
  row: PurchaseRow | BookingRow,
): ChargeRequest {
  const { id, replaces_id, amount, currency, hold_until_ms } = row
  return { step, of, id: replaces_id ?? id, amount: amount ?? 0, currency: currency ?? '', hold_until_ms }
}

/** A new charge: extends the hold until the charge has ended. */
export function extendHold(row: PurchaseRow | BookingRow, now_ms: number): void {
  row.charge = 'pending'
  row.hold_until_ms = row.hold_seconds === null ? null : row.expires_ms
  row.expires_ms = Math.max(row.expires_ms ?? 0, now_ms + PAYMENT_S * 1000)
}

/** A failed charge: restores the original end of the hold, which may be past. */
export function restoreHold(row: PurchaseRow | BookingRow): void {
  row.charge = null
  row.expires_ms = row.hold_until_ms ?? row.expires_ms
  row.hold_until_ms = null
}

export const isPast = (expires_ms: number | null, now_ms: number) => expires_ms !== null && expires_ms <= now_ms

/** Change of the units that are available, by the reason of the ledger entry. */
export const deltaOf = (reason: LedgerEntry['reason'], units: number) =>
  reason === 'sale' || reason === 'hold' ? -units : units

export const samePayment = (one: Payment, other: Payment) =>
  one.method === 'card'
    ? other.method === 'card' && one.token === other.token
    : one.method === 'wallet'
      ? other.method === 'wallet' && one.account === other.account
      : other.method === 'none'

/**
 * Whether the paying wallet has another currency by now. A currency can no longer be changed; where it once was, units of
 * the new currency must not refund a payment in the old one.
 */
export function isForeign(
  { payment, amount, currency }: Pick<PurchaseRow, 'payment' | 'amount' | 'currency'>,
  resources: ReadonlyMap<string, Resource>,
): boolean {
  const wallet = payment.method === 'wallet' && amount ? resources.get(payment.account) : undefined
  return wallet !== undefined && currency !== null && !sameCurrency(wallet.currency, currency)
}
