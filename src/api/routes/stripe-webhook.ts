/**
 * The payment provider's events. Invariant: an event is a hint to look, never what is believed: it may come twice, late
 * or in the wrong order, so the job that it starts asks the provider itself. Only a signed one starts anything. That
 * something may have been done at the provider is written down before the answer: the event does not come again.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, transaction } from '../../shared/db/client.ts'
import type { Gateway, Hint } from '../../shared/payments/gateway.ts'
import { badField } from '../../shared/problem.ts'
import { problemResponses } from '../http/responses.ts'
import { UUID } from '../http/schemas.ts'

export interface WebhookRoutesDeps {
  gateway: Pick<Gateway, 'webhook'>
  client: Client
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
  /** tells the payment jobs that the charges of these purchases and bookings have news */
  pay(ids: Iterable<string>): void
}

export function webhookRoutes(instance: FastifyInstance, { gateway, client, guarded, pay }: WebhookRoutesDeps): void {
  /** Has the charges of this intent looked at: refunds and disputes name their intent, and not always what was bought. */
  async function lookAt(intent: string): Promise<void> {
    const write = sql`
      UPDATE charges SET ask_at = clock_timestamp() WHERE purpose = 'charge' AND provider_id = ${intent}
        AND status NOT IN ('declined', 'unavailable')
      RETURNING coalesce(purchase, booking) AS id`
    const rows = await guarded((signal) => transaction(client, signal, (tx) => query<{ id: string }>(tx, write)))
    pay(rows.map((row) => row.id))
  }

  // Of its own: the signature is over the bytes, so here no body is parsed before it is checked.
  void instance.register(async (scope) => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body))
    const app = scope.withTypeProvider<TypeBoxTypeProvider>()
    app.post(
      '/api/webhooks/stripe',
      {
        // Not in the document, whose every example works when it is pressed: only the provider can sign. It is described
        // in docs/payments.md.
        schema: {
          hide: true,
          response: { 200: Type.Object({ received: Type.Literal(true) }), ...problemResponses(400, 413, 503) },
        },
      },
      async (request) => {
        const [signature] = [request.headers['stripe-signature']].flat()
        if (signature === undefined) throw badField('Stripe-Signature', 'is missing')
        let hint: Hint
        try {
          hint = gateway.webhook(typeof request.body === 'string' ? request.body : '', signature)
        } catch {
          throw badField('Stripe-Signature', 'is not the provider’s for this body', 400, 'bad_signature')
        }
        const { subject, intent, recheck: look } = hint
        if (look && intent !== undefined) await lookAt(intent)
        if (subject !== undefined && UUID.test(subject)) pay([subject])
        return { received: true as const }
      },
    )
  })
}
