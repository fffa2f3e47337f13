/**
 * Interface of a payment provider. Invariant: if a method returns, its result is the state of the payment at the provider;
 * after any error except RefusedError the state is unknown, and the caller must read it again.
 *
 * A charge has three steps, so that the caller can read the state by id after each step and repeat the step: `create` moves no
 * money, `confirm` reserves the amount on the card, `capture` takes the amount. A cancelled intent can never be confirmed.
 */

export interface Intent {
  /** the provider's id */
  id: string
  /**
   * State of the amount. created: not reserved yet; declined: will not be reserved; authorized: reserved; captured: taken;
   * cancelled: the reservation has ended.
   */
  status: 'created' | 'processing' | 'declined' | 'authorized' | 'captured' | 'cancelled'
  /** the provider's code for why the card was declined */
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
  /** the provider's code for why the refund failed */
  reason: string | null
  /** idempotency key of our request; null: someone made the refund at the provider */
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

/** What a webhook of the provider is about. */
export interface Hint {
  /** the purchase or booking, when the event names it */
  subject: string | undefined
  /** the provider's id of the intent, when the event names it */
  intent: string | undefined
  /** true if the event may be about a change made at the provider, so that the whole state must be read */
  recheck: boolean
}

export interface Gateway {
  /** Creates an intent; the same key returns the same intent. @throws RefusedError when the provider rejects the request */
  create(intent: NewIntent): Promise<Intent>
  /** Reads an intent. @throws RefusedError when there is no such intent */
  find(id: string): Promise<Intent>
  /** Reads the intent with its refunds and disputes. @throws RefusedError when there is no such intent */
  fetchSnapshot(id: string): Promise<PaymentSnapshot>
  /** Reserves the amount. If the intent is in a later state, returns the intent as it is. */
  confirm(id: string): Promise<Intent>
  capture(id: string): Promise<Intent>
  /** Ends a reservation. If the intent can no longer be cancelled, returns the intent as it is. */
  cancel(id: string): Promise<Intent>
  /**
   * Refunds captured money; the same key returns the same result. After any error except RefusedError the caller may retry only
   * with the same key, because the refund may have been made.
   * @throws RefusedError when the provider rejects the request: the key cannot succeed any more
   */
  refund(id: string, amount: number, key: string): Promise<Refund>
  /** Checks the signature of a webhook and reads it. @throws RefusedError when the signature is not the provider's */
  webhook(body: string, signature: string): Hint
}

/** Thrown when the provider has rejected a request for good: a retry with the same key gets the same response. */
export class RefusedError extends Error {
  readonly code = 'payment_refused'
}
