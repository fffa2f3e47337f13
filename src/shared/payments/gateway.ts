/**
 * What Holdfast asks of a payment provider. Invariant: a method that returns has the provider's word for the state of
 * that payment; one that throws says nothing about it (RefusedError apart), and the payment has to be asked about.
 *
 * Money moves in three steps, so that each can be asked about by id and done again: `create` moves nothing, `confirm`
 * reserves the amount on the card, `capture` takes it. A cancelled intent can never be confirmed.
 */

export interface Intent {
  /** the provider's id */
  id: string
  /** created: nothing was reserved, declined: nor will it be; authorized: reserved; captured: taken; cancelled: given back */
  status: 'created' | 'processing' | 'declined' | 'authorized' | 'captured' | 'cancelled'
  /** why it was declined, in the provider's word */
  reason: string | null
}

export interface NewIntent {
  /** of the purchase or booking, written into its metadata */
  id: string
  /** the provider's idempotency key: the charge's id, so that another card after a declined one is another intent */
  key: string
  of: 'purchase' | 'booking'
  /** minor units */
  amount: number
  /** ISO 4217 */
  currency: string
  /** a card's token or payment method */
  token: string
}

/** A refund as the provider has it. */
export interface Refund {
  id: string
  /** minor units */
  amount: number
  /** pending: it has not moved money yet; failed: it never will, or a bank has sent the money back */
  status: 'pending' | 'refunded' | 'failed'
  /** why it failed, in the provider's word */
  reason: string | null
  /** the idempotency key of the request that made it; null: it was not made by us */
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

/** Everything that has become of a payment, by the provider's word. */
export interface PaymentSnapshot {
  intent: Intent
  refunds: Refund[]
  disputes: Dispute[]
}

/** What a webhook is about. */
export interface Hint {
  /** the purchase or booking, when the event names it */
  subject: string | undefined
  /** the provider's id of the intent, when the event names it */
  intent: string | undefined
  /** it may be something that was done at the provider: everything is to be looked at */
  recheck: boolean
}

export interface Gateway {
  /** Asks with the same key give the same intent. @throws RefusedError when the provider will not have it */
  create(intent: NewIntent): Promise<Intent>
  /** @throws RefusedError when there is no such intent */
  find(id: string): Promise<Intent>
  /** The intent with its refunds and disputes. @throws RefusedError when there is no such intent */
  fetchSnapshot(id: string): Promise<PaymentSnapshot>
  /** Reserves the amount. On an intent that is further already, its state. */
  confirm(id: string): Promise<Intent>
  capture(id: string): Promise<Intent>
  /** Gives a reservation back. On an intent that cannot be cancelled any more, its state. */
  cancel(id: string): Promise<Intent>
  /**
   * Gives captured money back; the same key gives the same answer. @throws RefusedError when the provider will not do it:
   * then this key is used up. After any other error the same key is the only one that may be used.
   */
  refund(id: string, amount: number, key: string): Promise<Refund>
  /** @throws RefusedError when the signature is not the provider's */
  webhook(body: string, signature: string): Hint
}

/** The provider has answered, and the answer is no: asking again with the same key gives the same one. */
export class RefusedError extends Error {
  readonly code = 'payment_refused'
}
