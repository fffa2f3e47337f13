/**
 * The payment provider's events. Invariant: an event is a hint to look, never what is believed: it may come twice, late
 * or in the wrong order, so the job that it starts asks the provider itself. Only a signed one starts anything.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Gateway } from '../shared/payments/gateway.ts'
import { badField } from '../shared/problem.ts'
import { problems, UUID } from './http.ts'

export interface WebhookRoutesDeps {
  gateway: Pick<Gateway, 'webhook'>
  /** tells the payment jobs that the charges of these purchases and bookings have news */
  pay(ids: Iterable<string>): void
}

export function webhookRoutes(instance: FastifyInstance, { gateway, pay }: WebhookRoutesDeps): void {
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
        schema: { hide: true, response: { 200: Type.Object({ received: Type.Literal(true) }), ...problems(400, 413) } },
      },
      async (request) => {
        const [signature] = [request.headers['stripe-signature']].flat()
        if (signature === undefined) throw badField('Stripe-Signature', 'is missing')
        let subject: string | undefined
        try {
          subject = gateway.webhook(typeof request.body === 'string' ? request.body : '', signature).subject
        } catch {
          throw badField('Stripe-Signature', 'is not the provider’s for this body', 400, 'bad_signature')
        }
        if (subject !== undefined && UUID.test(subject)) pay([subject])
        return { received: true as const }
      },
    )
  })
}
