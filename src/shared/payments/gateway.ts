/**
 * Interface of a payment provider. Invariant: a method that returns has the state of the payment from the provider; after
 * any error except RefusedError the state is unknown and must be read again.
 *
 * A charge has three steps, so that each can be read by id and repeated: `create` moves no money, `confirm` reserves the
 * amount on the card, `capture` takes it. A cancelled intent can never be confirmed.
 */

export interface Intent {
  /** the provider's id */
  id: string
  /** created: not reserved yet; declined: will not be; authorized: reserved; captured: taken; cancelled: reservation ended */
  status: 'created' | 'processing' | 'declined' | 'authorized' | 'captured' | 'cancelled'
  /** why it was declined: the provider's code */
  reason: string | null
}

export interface NewIntent {
  /** id of the purchase or booking, stored in the metadata of the intent */
  id: string
  /** idempotency key: the charge's id, so that another card after a declined one creates another intent */
  key: string
  of: 'purchase' | 'booking'
  /** minor units */
  amount: number
  /** ISO 4217 */
  currency: string
  /** a card's token or payment method */
  token: string
}

/** A refund at the provider. */
export interface Refund {
  id: string
  /** minor units */
  amount: number
  /** pending: no money was moved yet; failed: none will be, or a bank has returned the money */
  status: 'pending' | 'refunded' | 'failed'
  /** why it failed: the provider's code */
  reason: string | null
  /** idempotency key of our request; null: the refund was not made by us */
  key: string | null
}

export interface Dispute {
  id: string
  /** minor units */
  amount: number
  /** lost: the money went back to the card's owner */
  status: 'open' | 'won' | 'lost'
  reason: string | null
}

/** The whole state of a payment at the provider. */
export interface PaymentSnapshot {
  intent: Intent
  refunds: Refund[]
  disputes: Dispute[]
}

/** Subject of a webhook. */
export interface Hint {
  /** the purchase or booking, when the event names it */
  subject: string | undefined
  /** the provider's id of the intent, when the event names it */
  intent: string | undefined
  /** the event may be of a change made at the provider: read the whole state */
  recheck: boolean
}

export interface Gateway {
  /** The same key returns the same intent. @throws RefusedError when the provider rejects it */
  create(intent: NewIntent): Promise<Intent>
  /** @throws RefusedError when there is no such intent */
  find(id: string): Promise<Intent>
  /** The intent with its refunds and disputes. @throws RefusedError when there is no such intent */
  fetchSnapshot(id: string): Promise<PaymentSnapshot>
  /** Reserves the amount. For an intent in a later state, returns that state. */
  confirm(id: string): Promise<Intent>
  capture(id: string): Promise<Intent>
  /** Ends a reservation. For an intent that can no longer be cancelled, returns its state. */
  cancel(id: string): Promise<Intent>
  /**
   * Refunds captured money; the same key returns the same result. @throws RefusedError when the provider rejects it: then
   * the key is used up. After any other error only the same key may be used.
   */
  refund(id: string, amount: number, key: string): Promise<Refund>
  /** @throws RefusedError when the signature is not the provider's */
  webhook(body: string, signature: string): Hint
}

/** The provider has rejected the request: a retry with the same key gets the same response. */
export class RefusedError extends Error {
  readonly code = 'payment_refused'
}
