/**
 * The payment provider's events. Invariant: an event is a hint to check, never trusted data: it may arrive twice, late or
 * out of order, so the job that it starts reads the state from the provider. Only a signed event starts a job. A change made
 * at the provider is recorded before the response, because the event is not sent again.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, transaction } from '../../shared/db/client.ts'
import type { Gateway, Hint } from '../../shared/payments/gateway.ts'
import { fieldProblem } from '../../shared/problem.ts'
import { problemResponses } from '../http/responses.ts'
import { UUID } from '../http/schemas.ts'

export interface StripeWebhookOptions {
  gateway: Pick<Gateway, 'webhook'>
  client: Client
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
  /** queues payment jobs for the charges of these purchases and bookings */
  enqueueCharges(ids: Iterable<string>): void
}

export async function stripeWebhookRoutes(
  scope: FastifyInstance,
  { gateway, client, viaBreaker, enqueueCharges }: StripeWebhookOptions,
): Promise<void> {
  /** Has the charges of this intent checked: refunds and disputes name their intent, not always the purchase or booking. */
  async function recheckIntent(intent: string): Promise<void> {
    const write = sql`
      UPDATE charges SET recheck_at = clock_timestamp() WHERE kind = 'charge' AND provider_id = ${intent}
        AND status NOT IN ('declined', 'unavailable')
      RETURNING coalesce(purchase_id, booking_id) AS id`
    const rows = await viaBreaker((signal) => transaction(client, signal, (tx) => query<{ id: string }>(tx, write)))
    enqueueCharges(rows.map((row) => row.id))
  }

  // In this plugin alone: the signature covers the raw bytes, so the body must not be parsed before it is checked.
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body))
  const app = scope.withTypeProvider<TypeBoxTypeProvider>()
  app.post(
    '/api/webhooks/stripe',
    {
      // Not in the document, whose examples all work: only the provider can sign. docs/payments.md describes it.
      schema: {
        hide: true,
        response: { 200: Type.Object({ received: Type.Literal(true) }), ...problemResponses(400, 413, 503) },
      },
    },
    async (request) => {
      const [signature] = [request.headers['stripe-signature']].flat()
      if (signature === undefined) throw fieldProblem('Stripe-Signature', 'is missing')
      let hint: Hint
      try {
        hint = gateway.webhook(typeof request.body === 'string' ? request.body : '', signature)
      } catch {
        throw fieldProblem('Stripe-Signature', 'does not match the body', 400, 'bad_signature')
      }
      const { subject, intent, recheck: look } = hint
      if (look && intent !== undefined) await recheckIntent(intent)
      if (subject !== undefined && UUID.test(subject)) enqueueCharges([subject])
      return { received: true as const }
    },
  )
}
