/**
 * The gateway on the official Stripe package. Invariant: every request has a time limit and is sent once. The caller retries, a
 * limited number of times with jitter.
 */
import Stripe from 'stripe'
import {
  type Dispute,
  type Gateway,
  type Hint,
  type Intent,
  type NewIntent,
  type PaymentSnapshot,
  type Refund,
  RefusedError,
} from './gateway.ts'

export interface StripeOptions {
  secret_key: string
  webhook_secret: string
  /** address of the sandbox; undefined: Stripe's */
  url: string | undefined
  /** time limit of one request, in milliseconds */
  timeout_ms: number
}

/** Seconds for which the signature of a webhook is valid: Stripe's own tolerance. */
const TOLERANCE_S = 300
/** Most refunds (or disputes) read per intent: two pages of 100, Stripe's maximum page size. */
const MOST = 200

export function createStripe({ secret_key, webhook_secret, url, timeout_ms }: StripeOptions): Gateway {
  const stripe = new Stripe(secret_key, {
    timeout: timeout_ms,
    maxNetworkRetries: 0,
    telemetry: false,
    ...(url === undefined ? {} : address(new URL(url))),
  })

  return {
    create: (request) => createIntent(stripe, request),
    find: (id) => find(stripe, id),
    fetchSnapshot: (id) => fetchSnapshot(stripe, id),
    // Treat a card that requires its owner's authentication as declined: the buyer is not present.
    confirm: (id) => move(stripe, id, () => stripe.paymentIntents.confirm(id, { error_on_requires_action: true })),
    capture: (id) => move(stripe, id, () => stripe.paymentIntents.capture(id)),
    cancel: (id) => move(stripe, id, () => stripe.paymentIntents.cancel(id)),
    async refund(id, amount, key) {
      try {
        const asked = { payment_intent: id, amount, metadata: { [KEY]: key } }
        return readRefund(await stripe.refunds.create(asked, { idempotencyKey: key }))
      } catch (error) {
        throw isKept(error) ? new RefusedError('api_error', { cause: error }) : refused(error)
      }
    },
    webhook(body, signature) {
      try {
        return hint(stripe.webhooks.constructEvent(body, signature, webhook_secret, TOLERANCE_S))
      } catch (error) {
        throw new RefusedError(error instanceof Error ? error.message : 'no event', { cause: error })
      }
    },
  }
}

async function createIntent(stripe: Stripe, { id, of, amount, currency, token, key }: NewIntent): Promise<Intent> {
  const card = { type: 'card', card: { token } } as Stripe.PaymentIntentCreateParams.PaymentMethodData
  try {
    const intent = await stripe.paymentIntents.create(
      {
        amount,
        currency: currency.toLowerCase(),
        capture_method: 'manual',
        automatic_payment_methods: { enabled: true, allow_redirects: 'never' },
        metadata: { [of]: id },
        ...(token.startsWith('tok_') ? { payment_method_data: card } : { payment_method: token }),
      },
      { idempotencyKey: key },
    )
    return read(intent)
  } catch (error) {
    throw refused(error)
  }
}

/**
 * Sends a request that changes an intent, and returns the new state of the intent. If Stripe rejects the request because of
 * the intent's state, returns the intent as it is now.
 */
async function move(stripe: Stripe, id: string, request: () => Promise<Stripe.PaymentIntent>): Promise<Intent> {
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

async function find(stripe: Stripe, id: string): Promise<Intent> {
  try {
    return read(await stripe.paymentIntents.retrieve(id))
  } catch (error) {
    throw refused(error)
  }
}

async function fetchSnapshot(stripe: Stripe, id: string): Promise<PaymentSnapshot> {
  const of = { payment_intent: id, limit: 100 }
  const [intent, refunds, disputes] = await Promise.all([
    find(stripe, id),
    stripe.refunds.list(of).autoPagingToArray({ limit: MOST }),
    stripe.disputes.list(of).autoPagingToArray({ limit: MOST }),
  ])
  return { intent, refunds: refunds.map(readRefund), disputes: disputes.map(readDispute) }
}

/**
 * Metadata key under which a refund stores the idempotency key of its request. A refund made in Stripe's dashboard has none.
 */
const KEY = 'holdfast_refund'

/** Types of events about changes that may have been made at Stripe, not by us. */
const PAST_US = /^(refund\.|charge\.(refunded|refund\.|dispute\.|expired)|payment_intent\.canceled)/

function hint({ type, data }: Stripe.Event): Hint {
  const object = data.object as {
    id?: string
    object?: string
    metadata?: Record<string, string> | null
    payment_intent?: string | { id: string } | null
  }
  const { metadata, payment_intent } = object
  const named = typeof payment_intent === 'string' ? payment_intent : payment_intent?.id
  return {
    subject: metadata?.purchase ?? metadata?.booking,
    intent: object.object === 'payment_intent' ? object.id : named,
    recheck: PAST_US.test(type),
  }
}

function address(url: URL): { host: string; port: number; protocol: 'http' | 'https' } {
  const protocol = url.protocol === 'https:' ? 'https' : 'http'
  return { host: url.hostname, port: Number(url.port || (protocol === 'https' ? 443 : 80)), protocol }
}

/**
 * Returns whether Stripe has replayed a stored error for the idempotency key of the request. The first request with the key
 * has ended then, so retrying with the same key can never succeed.
 */
const isKept = (error: unknown) =>
  error instanceof Stripe.errors.StripeAPIError && error.headers?.['idempotent-replayed'] === 'true'

/**
 * Converts a final rejection by Stripe to a RefusedError. Any other error is returned unchanged, because the outcome is
 * unknown. That includes 409, where another request with this key is in flight.
 */
function refused(error: unknown): unknown {
  const { errors } = Stripe
  if (!(error instanceof errors.StripeError)) return error
  const no =
    error instanceof errors.StripeCardError ||
    error instanceof errors.StripeInvalidRequestError ||
    (error instanceof errors.StripeIdempotencyError && error.statusCode !== 409)
  const why = error instanceof errors.StripeCardError ? (error.decline_code ?? error.code) : error.code
  return no ? new RefusedError(why ?? error.message, { cause: error }) : error
}

const STATUSES: Partial<Record<Stripe.PaymentIntent.Status, Intent['status']>> = {
  requires_confirmation: 'created',
  // This status also means that a card was declined, or that none was given.
  requires_payment_method: 'declined',
  requires_action: 'declined',
  processing: 'processing',
  requires_capture: 'authorized',
  succeeded: 'captured',
  canceled: 'cancelled',
}

function read({ id, status, last_payment_error: failure }: Stripe.PaymentIntent): Intent {
  // Treat an unknown status as 'processing', so that the intent is read again later.
  return { id, status: STATUSES[status] ?? 'processing', reason: failure?.decline_code ?? failure?.code ?? null }
}

function readRefund({ id, amount, status, failure_reason, metadata }: Stripe.Refund): Refund {
  const failed = status === 'failed' || status === 'canceled'
  return {
    id,
    amount,
    status: failed ? 'failed' : status === 'succeeded' ? 'refunded' : 'pending',
    reason: failed ? (failure_reason ?? status) : null,
    key: metadata?.[KEY] ?? null,
  }
}

/**
 * Converts a dispute. A closed inquiry or a prevented dispute has moved money only if its balance transactions sum to less
 * than zero.
 */
function readDispute({ id, amount, status, reason, balance_transactions }: Stripe.Dispute): Dispute {
  const closed = status === 'warning_closed' || status === 'prevented'
  const moved = (balance_transactions ?? []).reduce((sum, one) => sum + one.amount, 0)
  const lost = status === 'lost' || (closed && moved < 0)
  return { id, amount, status: lost ? 'lost' : closed || status === 'won' ? 'won' : 'open', reason }
}
