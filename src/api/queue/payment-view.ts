/**
 * The payment of a purchase or booking, as the API shows it. Invariant: it is read from the rows of the charge, its refunds
 * and disputes. The status `refunded` means that the sale is undone; a refund's `succeeded` means that the money has moved.
 */
import Type from 'typebox'
import type { ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'
import type { ChargeState } from './charge-columns.ts'

const Amount = Type.Integer({ description: 'Minor units' })
const Reason = Nullable(
  Type.String({ description: 'The provider’s code: `insufficient_funds`, `balance_insufficient` …' }),
)

/** The payment method, and the state of its charge, refunds and dispute. */
export const PaymentState = Type.Object({
  method: Type.String(),
  account: Type.Optional(Type.String()),
  charge: Type.Optional(
    Nullable(
      Type.Object({
        status: Type.Enum([
          'pending',
          'authorized',
          'captured',
          'declined',
          'unavailable',
          'released',
          'authorization_lost',
        ]),
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
        at_provider: Type.Boolean({ description: 'The refund was made at the provider, not by a command of this API' }),
        attempts: Type.Integer({ description: 'Attempts at the provider; a failed refund of this API is retried' }),
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
  confirming: 'pending',
  cancelling: 'pending',
  capturing: 'authorized',
}
const REFUNDS: Partial<Record<ChargeStatus, NonNullable<PaymentState['refunds']>[number]['status']>> = {
  pending: 'pending',
  refunded: 'succeeded',
  released: 'canceled',
  failed: 'failed',
}

/** Builds the payment state that a client sees. It never contains the token of a card. */
export function paymentState(payment: Payment, charges: ChargeState): PaymentState {
  const { method } = payment
  if (payment.method === 'wallet') return { method, account: payment.account }
  if (charges === null) return { method }
  // While a hold is still open after a failed attempt, there is no charge: show the last failed attempt.
  const charge = charges.findLast((one) => one.kind === 'charge' || one.kind === 'attempt')
  const dispute = charges.findLast((one) => one.kind === 'dispute')
  return {
    method,
    charge: charge
      ? {
          status: CHARGES[charge.status] ?? (charge.status as NonNullable<PaymentState['charge']>['status']),
          amount: charge.amount,
          currency: charge.currency,
          reason: charge.reason,
        }
      : null,
    refunds: charges
      .filter((one) => one.kind === 'refund')
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

/** Returns the provider's decline code, for the body of a 402. */
export const declineOf = ({ charge }: PaymentState): { decline_code?: string } =>
  charge?.status === 'declined' && charge.reason !== null ? { decline_code: charge.reason } : {}

/** Returns the problem code of a 402, which depends on the last failed attempt. */
export const unpaidCode = ({ charge }: PaymentState) =>
  charge?.status === 'declined' ? 'payment_declined' : 'payment_unavailable'
