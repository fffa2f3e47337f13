/** The payment that a request names. Invariant: equal payments have equal text, since a key is compared with the body's hash. */
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

/** The body of a command that pays: optional, and may be empty. */
export const PayingSchema = Type.Unsafe<{ payment?: Payment } | null>({
  type: ['object', 'null'],
  properties: { payment: PaymentSchema },
  additionalProperties: false,
  examples: [{ payment: { method: 'none' } }],
})
/** The payment of a command; null: the purchase's own payment is used, if it has one. */
export function readPaying(body: unknown): Payment | null {
  const { payment } = (body ?? {}) as { payment?: Payment }
  return payment === undefined || payment.method === 'none' ? null : readPayment(payment)
}

/** Sorts the members, so that two equal payments have the same hash. */
export function readPayment(payment: Payment = { method: 'none' }): Payment {
  return Object.fromEntries(Object.entries(payment).sort(([a], [b]) => (a < b ? -1 : 1))) as Payment
}

/** The account that a payment names, as a resource to check. */
export const accountOf = (payment: Payment): RequestedResource[] =>
  payment.method === 'wallet' ? [{ ref: payment.account, field: 'payment.account', kind: 'account' }] : []
