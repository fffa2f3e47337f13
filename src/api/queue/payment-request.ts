/**
 * Reads the payment that a request names. Invariant: equal payments have equal text, because a request that repeats an
 * Idempotency-Key is compared by the hash of its body.
 */
import Type from 'typebox'
import type { Payment } from '../../shared/domain/charge.ts'
import { ACCOUNT_PATTERN, TOKEN_PATTERN } from '../http/schemas.ts'
import type { RequestedResource } from './resource-kinds.ts'

/** Longest hold, in seconds: a week. */
const MAX_HOLD_S = 604_800
export const HoldSeconds = (options: { description?: string } = {}) =>
  Type.Integer({ minimum: 1, maximum: MAX_HOLD_S, ...options })

export const PaymentSchema = Type.Unsafe<Payment>({
  type: 'object',
  discriminator: { propertyName: 'method' },
  required: ['method'],
  oneOf: [
    Type.Object({ method: Type.Literal('none') }, { additionalProperties: false }),
    Type.Object(
      {
        method: Type.Literal('card'),
        token: Type.String({ minLength: 1, maxLength: 200, pattern: TOKEN_PATTERN }),
      },
      { additionalProperties: false },
    ),
    Type.Object(
      {
        method: Type.Literal('wallet'),
        account: Type.String({ pattern: ACCOUNT_PATTERN }),
      },
      { additionalProperties: false },
    ),
  ],
})

/** Schema for the body of a command that pays: the body is optional, and may be empty. */
export const PayingSchema = Type.Unsafe<{ payment?: Payment } | null>({
  type: ['object', 'null'],
  properties: { payment: PaymentSchema },
  additionalProperties: false,
  examples: [{ payment: { method: 'none' } }],
})
/** Returns the payment of a command; null: the command uses the payment stored in the row, if it has one. */
export function readPaying(body: unknown): Payment | null {
  const { payment } = (body ?? {}) as { payment?: Payment }
  return payment === undefined || payment.method === 'none' ? null : readPayment(payment)
}

/** Returns the payment with its members in a fixed order, so that two equal payments have the same hash. */
export function readPayment(payment: Payment = { method: 'none' }): Payment {
  return Object.fromEntries(Object.entries(payment).sort(([a], [b]) => (a < b ? -1 : 1))) as Payment
}

/** Returns the account that a wallet payment names, as a resource whose kind must be checked; empty for other methods. */
export const accountOf = (payment: Payment): RequestedResource[] =>
  payment.method === 'wallet' ? [{ ref: payment.account, field: 'payment.account', kind: 'account' }] : []
