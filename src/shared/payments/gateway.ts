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
  /** of the purchase or booking: the provider's idempotency key, and written into its metadata */
  id: string
  of: 'purchase' | 'booking'
  /** minor units */
  amount: number
  /** ISO 4217 */
  currency: string
  /** a card's token or payment method */
  token: string
}

export interface Gateway {
  /** Asks for the same purchase or booking give the same intent. @throws RefusedError when the provider will not have it */
  create(intent: NewIntent): Promise<Intent>
  find(id: string): Promise<Intent>
  /** Reserves the amount. On an intent that is further already, its state. */
  confirm(id: string): Promise<Intent>
  capture(id: string): Promise<Intent>
  /** Gives a reservation back. On an intent that cannot be cancelled any more, its state. */
  cancel(id: string): Promise<Intent>
  /** Gives captured money back; the same key gives the same answer. @throws RefusedError when more than was captured */
  refund(id: string, amount: number, key: string): Promise<void>
  /** The purchase or booking that a webhook is about. @throws RefusedError when the signature is not the provider's */
  webhook(body: string, signature: string): { subject: string | undefined }
}

/** The provider has answered, and the answer is no: asking again gives the same one. */
export class RefusedError extends Error {
  readonly code = 'payment_refused'
}
