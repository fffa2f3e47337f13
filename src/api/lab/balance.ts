/**
 * A balance, in the tutorial's shapes. Invariant: the unsafe variant loses updates, so payments succeed without being
 * deducted.
 */
import Type from 'typebox'
import { problemResponses, response } from '../http/responses.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  busy,
  Duration,
  KEYED,
  Message,
  notInTime,
  operationId,
  Refused,
  refusals,
  refusalText,
  refused,
  Success,
  since,
  TAGS,
  VARIANTS,
} from './response-shapes.ts'
import type { DemoCounter, DemoCounters } from './scarce-counter.ts'

/** Amount of one payment. */
const PAYMENT = 100
const BALANCE: DemoCounter = { ref: 'lab-account:1', name: 'Lab balance', start: 1_000, write: 'absolute' }

export function balanceRoutes(app: TypedApp, counters: DemoCounters): void {
  for (const variant of VARIANTS) {
    app.post(
      `/demo/race-condition/${variant.word}-lock`,
      {
        config: KEYED,
        schema: {
          operationId: operationId('labPay', variant),
          tags: TAGS,
          summary: `Balance, ${variant.summary}`,
          description: `Pays ${PAYMENT} from the balance. Takes no body.`,
          response: {
            200: response(
              Type.Object({
                success: Success,
                message: Message,
                duration: Duration,
                amount: Type.Integer({ examples: [PAYMENT] }),
                newBalance: Type.Integer(),
              }),
              'Paid',
            ),
            ...refusals(Refused, refused('Insufficient funds'), 413, 415, notInTime),
          },
        },
      },
      async (_request, reply) => {
        const started_ms = performance.now()
        const result = await variant.buy(counters, BALANCE, PAYMENT)
        if (!result.bought) return reply.code(400).send(refused(refusalText(result, 'Insufficient funds')))
        const message = `Payment successful (${variant.label})`
        return { success: true, message, duration: since(started_ms), amount: PAYMENT, newBalance: result.left }
      },
    )
  }

  const Balance = Type.Object({ balance: Type.Integer({ examples: [BALANCE.start] }) })
  app.get(
    '/demo/balance',
    {
      config: KEYED,
      schema: {
        operationId: 'labGetBalance',
        tags: TAGS,
        summary: 'Get what is left in the variant that was used last',
        response: { 200: response(Balance, 'The balance'), ...problemResponses() },
      },
    },
    async () => ({ balance: (await counters.read(BALANCE)).left }),
  )

  app.post(
    '/demo/balance/reset',
    {
      config: KEYED,
      schema: {
        operationId: 'labResetBalance',
        tags: TAGS,
        summary: `Reset both variants to ${BALANCE.start}`,
        response: { 200: response(Balance, 'Reset'), ...problemResponses(400, busy, 413, 415) },
      },
    },
    async () => {
      await counters.reset(BALANCE, BALANCE.start)
      return { balance: BALANCE.start }
    },
  )
}
