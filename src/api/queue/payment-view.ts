/**
 * What a purchase or booking by card tells of its money. Invariant: it is read from the rows of the charge and of its
 * refunds and disputes, so `refunded` as a status says that the sale is undone, and a refund's `succeeded` that the money
 * has moved.
 */
import Type from 'typebox'
import type { ChargeStatus, Payment } from '../../shared/db/schema.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'

/** One row of charges, as MONEY reads it. */
interface Row {
  id: string
  purpose: 'charge' | 'refund' | 'dispute' | 'attempt'
  status: ChargeStatus
  amount: number
  currency: string
  reason: string | null
  attempts: number
  at_provider: boolean
  created_at: string
}
/** null: not paid by card */
export type Money = Row[] | null

/** A column of `table`: the rows of its charge. What late money bought is paid for by what it replaces. */
export const MONEY = (table: 'purchases' | 'bookings') => `CASE ${table}.payment ->> 'method' WHEN 'card' THEN (
  SELECT coalesce(json_agg(json_build_object('id', m.id, 'purpose', m.purpose, 'status', m.status, 'amount', m.amount,
    'currency', m.currency, 'reason', m.reason, 'attempts', m.attempts, 'at_provider', m.at_provider,
    'created_at', m.created_at) ORDER BY m.created_at, m.n), '[]')
  FROM charges m WHERE m.${table === 'purchases' ? 'purchase' : 'booking'} = coalesce(${table}.replaces, ${table}.id)
) END AS money`

const Amount = Type.Integer({ description: 'Minor units' })
const Reason = Nullable(
  Type.String({ description: 'In the provider’s word: `insufficient_funds`, `balance_insufficient` …' }),
)

/** How it is paid, and what has become of that money. */
export const PaymentState = Type.Object({
  method: Type.String(),
  account: Type.Optional(Type.String()),
  charge: Type.Optional(
    Nullable(
      Type.Object({
        status: Type.Enum(['pending', 'authorized', 'captured', 'declined', 'unavailable', 'released', 'lost']),
        amount: Amount,
        currency: Type.String(),
        reason: Reason,
      }),
    ),
  ),
  refunds: Type.Optional(
    Type.Array(
      Type.Object({
        id: Type.String({ format: 'uuid' }),
        status: Type.Enum(['pending', 'succeeded', 'failed', 'canceled']),
        amount: Amount,
        reason: Reason,
        at_provider: Type.Boolean({ description: 'Made at the provider, and not by a command' }),
        attempts: Type.Integer({ description: 'How often it was asked for; a failed one of ours is asked for again' }),
        created_at: Time,
      }),
    ),
  ),
  dispute: Type.Optional(
    Nullable(Type.Object({ status: Type.Enum(['open', 'won', 'lost']), amount: Amount, reason: Reason })),
  ),
})
type PaymentState = Type.Static<typeof PaymentState>

const CHARGES: Partial<Record<ChargeStatus, NonNullable<PaymentState['charge']>['status']>> = {
  sent: 'pending',
  capturing: 'authorized',
}
const REFUNDS: Partial<Record<ChargeStatus, NonNullable<PaymentState['refunds']>[number]['status']>> = {
  pending: 'pending',
  refunded: 'succeeded',
  released: 'canceled',
  failed: 'failed',
}

/** A card's token never leaves again. */
export function presentPayment(payment: Payment, money: Money): PaymentState {
  const { method } = payment
  if (payment.method === 'wallet') return { method, account: payment.account }
  if (money === null) return { method }
  // Of a hold that goes on, the card that took nothing last.
  const charge = money.findLast((one) => one.purpose === 'charge' || one.purpose === 'attempt')
  const dispute = money.findLast((one) => one.purpose === 'dispute')
  return {
    method,
    charge: charge
      ? {
          status: CHARGES[charge.status] ?? (charge.status as NonNullable<PaymentState['charge']>['status']),
          amount: charge.amount,
          currency: charge.currency,
          reason: charge.status === 'pending' || charge.status === 'sent' ? null : charge.reason,
        }
      : null,
    refunds: money
      .filter((one) => one.purpose === 'refund')
      .map(({ id, status, amount, reason, at_provider, attempts, created_at }) => ({
        id,
        status: REFUNDS[status] ?? 'pending',
        amount,
        reason,
        at_provider,
        attempts,
        created_at: iso(created_at),
      })),
    dispute: dispute
      ? { status: dispute.status as 'open' | 'won' | 'lost', amount: dispute.amount, reason: dispute.reason }
      : null,
  }
}

/** For a 402: why the card was declined, in the provider's word. */
export const declineOf = ({ charge }: PaymentState): { decline_code?: string } =>
  charge?.status === 'declined' && charge.reason !== null ? { decline_code: charge.reason } : {}

/** The code of a 402 by the card that took nothing last. */
export const unpaidCode = ({ charge }: PaymentState) =>
  charge?.status === 'declined' ? 'payment_declined' : 'payment_unavailable'
