/**
 * The payment provider's events. Invariant: an event is a hint to check, never trusted data. It may arrive twice, late or out
 * of order, so the job that it starts reads the state from the provider. Only a signed event starts a job. If the event may be
 * about a change made outside Holdfast, the API records the check before it responds, because the provider does not send the
 * event again.
 */
import { and, eq, notInArray, sql } from 'drizzle-orm'
import Type from 'typebox'
import { charges } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import type { Gateway, Hint } from '../../shared/payments/gateway.ts'
import { fieldProblem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { problemResponses } from '../http/responses.ts'
import { UUID } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'

export interface StripeWebhookOptions {
  gateway: Pick<Gateway, 'webhook'>
  db: Pick<Database, 'transaction'>
  /** queues payment jobs for the charges of these purchases and bookings */
  enqueueCharges(ids: Iterable<string>): void
}

/**
 * Makes the check of an intent's charge due: refunds and disputes name their intent, but not always the purchase or booking.
 */
const recheckSql = prepare(
  build
    .update(charges)
    .set({ recheck_at: sql`clock_timestamp()` })
    .where(
      and(
        eq(charges.kind, 'charge'),
        eq(charges.provider_id, value('intent')),
        notInArray(charges.status, ['declined', 'unavailable']),
      ),
    )
    .returning({ id: sql<string>`coalesce(${charges.purchase_id}, ${charges.booking_id})`.as('id') }),
)

export async function stripeWebhookRoutes(
  app: TypedApp,
  { gateway, db, enqueueCharges }: StripeWebhookOptions,
): Promise<void> {
  // Only in this plugin: the signature covers the raw bytes, so the body must not be parsed before the signature is checked.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body))

  // The OpenAPI document omits this route: all examples in the document work, but only the provider can sign a request.
  // docs/payments.md describes it.
  const schema = {
    hide: true,
    response: { 200: Type.Object({ received: Type.Literal(true) }), ...problemResponses(400, 413, 503) },
  }
  app.post('/api/webhooks/stripe', { schema }, async (request) => {
    const [signature] = [request.headers['stripe-signature']].flat()
    if (signature === undefined) throw fieldProblem('Stripe-Signature', 'is missing')
    let hint: Hint
    try {
      hint = gateway.webhook(typeof request.body === 'string' ? request.body : '', signature)
    } catch {
      throw fieldProblem('Stripe-Signature', 'does not match the body', 400, 'bad_signature')
    }
    const { subject, intent, recheck } = hint
    if (recheck && intent !== undefined) {
      enqueueCharges((await db.transaction((tx) => recheckSql(tx, { intent }))).map(({ id }) => id))
    }
    if (subject !== undefined && UUID.test(subject)) enqueueCharges([subject])
    return { received: true as const }
  })
}
