/**
 * The gateway on the official Stripe package. Invariant: every request has a time limit and is sent once; whether and
 * when it is sent again is decided by the caller, who counts it and jitters it.
 */
import Stripe from 'stripe'
import { type Gateway, type Intent, RefusedError } from './gateway.ts'

export interface StripeOptions {
  secret_key: string
  webhook_secret: string
  /** the sandbox's address; undefined: Stripe's */
  url: string | undefined
  /** for one request */
  timeout_ms: number
}

/** Seconds that a webhook's signature is good for: Stripe's own tolerance. */
const TOLERANCE_S = 300

export function createStripe({ secret_key, webhook_secret, url, timeout_ms }: StripeOptions): Gateway {
  const stripe = new Stripe(secret_key, {
    timeout: timeout_ms,
    maxNetworkRetries: 0,
    telemetry: false,
    ...(url === undefined ? {} : address(new URL(url))),
  })

  /** On an intent that is in another state than the request needs, that state is the answer. */
  async function move(id: string, request: () => Promise<Stripe.PaymentIntent>): Promise<Intent> {
    try {
      return read(await request())
    } catch (error) {
      if (error instanceof Stripe.errors.StripeCardError) {
        return { id, status: 'declined', reason: error.decline_code ?? error.code ?? 'card_declined' }
      }
      if (!(error instanceof Stripe.errors.StripeInvalidRequestError)) throw error
      return read(await stripe.paymentIntents.retrieve(id))
    }
  }

  return {
    async create({ id, of, amount, currency, token }) {
      try {
        const intent = await stripe.paymentIntents.create(
          {
            amount,
            currency: currency.toLowerCase(),
            capture_method: 'manual',
            automatic_payment_methods: { enabled: true, allow_redirects: 'never' },
            metadata: { [of]: id },
            ...(token.startsWith('tok_')
              ? {
                  payment_method_data: {
                    type: 'card',
                    card: { token },
                  } as Stripe.PaymentIntentCreateParams.PaymentMethodData,
                }
              : { payment_method: token }),
          },
          { idempotencyKey: id },
        )
        return read(intent)
      } catch (error) {
        throw refused(error)
      }
    },
    find: async (id) => read(await stripe.paymentIntents.retrieve(id)),
    // A card that wants its owner to be asked is declined: nobody is there to be asked.
    confirm: (id) => move(id, () => stripe.paymentIntents.confirm(id, { error_on_requires_action: true })),
    capture: (id) => move(id, () => stripe.paymentIntents.capture(id)),
    cancel: (id) => move(id, () => stripe.paymentIntents.cancel(id)),
    async refund(id, amount, key) {
      try {
        await stripe.refunds.create({ payment_intent: id, amount }, { idempotencyKey: key })
      } catch (error) {
        // By a request of ours whose answer was lost, or by a person: there is nothing left to give back.
        if (error instanceof Stripe.errors.StripeInvalidRequestError && error.code === 'charge_already_refunded') return
        throw refused(error)
      }
    },
    webhook(body, signature) {
      try {
        const event = stripe.webhooks.constructEvent(body, signature, webhook_secret, TOLERANCE_S)
        const { metadata } = event.data.object as { metadata?: Record<string, string> | null }
        return { subject: metadata?.purchase ?? metadata?.booking }
      } catch (error) {
        throw new RefusedError(error instanceof Error ? error.message : 'no event', { cause: error })
      }
    },
  }
}

function address(url: URL): { host: string; port: number; protocol: 'http' | 'https' } {
  const protocol = url.protocol === 'https:' ? 'https' : 'http'
  return { host: url.hostname, port: Number(url.port || (protocol === 'https' ? 443 : 80)), protocol }
}

/** What Stripe will not have, now or later, as RefusedError; everything else as it is: nothing is known then. */
function refused(error: unknown): unknown {
  const final =
    error instanceof Stripe.errors.StripeCardError ||
    error instanceof Stripe.errors.StripeInvalidRequestError ||
    error instanceof Stripe.errors.StripeIdempotencyError
  return final ? new RefusedError(error.code ?? error.message, { cause: error }) : error
}

const STATUSES: Partial<Record<Stripe.PaymentIntent.Status, Intent['status']>> = {
  requires_confirmation: 'created',
  // So it is when a card was declined, and when none was given.
  requires_payment_method: 'declined',
  requires_action: 'declined',
  processing: 'processing',
  requires_capture: 'authorized',
  succeeded: 'captured',
  canceled: 'cancelled',
}

function read({ id, status, last_payment_error: failure }: Stripe.PaymentIntent): Intent {
  // One that this version does not know is asked about again.
  return { id, status: STATUSES[status] ?? 'processing', reason: failure?.decline_code ?? failure?.code ?? null }
}
