/** A balance that is paid from, in the tutorial's shapes. Invariant: the unsafe side loses updates, so money is spent that stays. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { problemResponses, response } from '../http/responses.ts'
import {
  busy,
  Duration,
  KEYED,
  Message,
  named,
  notInTime,
  Refused,
  refusals,
  refused,
  SIDES,
  Success,
  since,
  TAGS,
  whyNot,
} from './response-shapes.ts'
import type { Counter, Counters } from './scarce-counter.ts'

/** What one call takes. */
const PAYMENT = 100
const BALANCE: Counter = { ref: 'lab-account:1', name: 'Lab balance', start: 1_000, write: 'absolute' }

export function balanceRoutes(instance: FastifyInstance, counters: Counters): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()

  for (const side of SIDES) {
    app.post(
      `/demo/race-condition/${side.word}-lock`,
      {
        config: KEYED,
        schema: {
          operationId: named('labPay', side),
          tags: TAGS,
          summary: `Balance, ${side.summary}`,
          description: `Takes ${PAYMENT}. Takes no body.`,
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
        const taken = await side.take(counters, BALANCE, PAYMENT)
        if (!taken.taken) return reply.code(400).send(refused(whyNot(taken, 'Insufficient funds')))
        const message = `Payment successful (${side.told})`
        return { success: true, message, duration: since(started_ms), amount: PAYMENT, newBalance: taken.left }
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
        summary: 'What the side that was used last has left',
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
        summary: `Both sides have ${BALANCE.start}`,
        response: { 200: response(Balance, 'Reset'), ...problemResponses(400, busy, 413, 415) },
      },
    },
    async () => {
      await counters.reset(BALANCE, BALANCE.start)
      return { balance: BALANCE.start }
    },
  )
}
