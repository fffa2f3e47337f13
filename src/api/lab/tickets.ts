/** Tickets, in the tutorial's shapes. Invariant: as with the inventory, one pair of routes with one shape. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { problemResponses, response } from '../http/responses.ts'
import {
  bodyMayBeLeftOut,
  busy,
  Duration,
  idParam,
  KEYED,
  Left,
  MAX_START,
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

const START = 1

const counterOf = (id: string): Counter => {
  return { ref: `lab-event:${id}`, name: `Lab event ${id}`, start: START, write: 'relative' }
}
const Id = idParam('event_id')
const Event = Type.Object({
  id: Type.String(),
  name: Type.String(),
  total_tickets: Type.Integer(),
  available_tickets: Left,
  booked: Type.Integer(),
})

export function ticketRoutes(instance: FastifyInstance, counters: Counters): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()

  async function tell(id: string) {
    const counter = counterOf(id)
    const { start, left } = await counters.read(counter)
    return { id, name: counter.name, total_tickets: start, available_tickets: left, booked: start - left }
  }

  for (const side of SIDES) {
    app.post(
      `/book-${side.word}-lock/:event_id`,
      {
        config: KEYED,
        preValidation: bodyMayBeLeftOut,
        schema: {
          operationId: named('labBook', side),
          tags: TAGS,
          summary: `Tickets, ${side.summary}`,
          params: Id,
          body: Type.Object(
            { user_name: Type.Optional(Type.String({ maxLength: 200 })) },
            { additionalProperties: false, examples: [{ user_name: 'ada' }] },
          ),
          response: {
            200: response(
              Type.Object({
                success: Success,
                message: Message,
                booking_id: Type.String(),
                duration: Duration,
                remaining_stock: Left,
                event: Event,
              }),
              'Booked',
            ),
            ...refusals(Refused, refused('No tickets available'), 413, 415, notInTime),
          },
        },
      },
      async ({ params: { event_id } }, reply) => {
        const started_ms = performance.now()
        const taken = await side.take(counters, counterOf(event_id), 1)
        if (!taken.taken) return reply.code(400).send(refused(whyNot(taken, 'No tickets available')))
        return {
          success: true,
          message: `Booking successful (${side.told})`,
          booking_id: taken.id,
          duration: since(started_ms),
          remaining_stock: taken.left,
          event: await tell(event_id),
        }
      },
    )
  }

  app.get(
    '/events/:event_id',
    {
      config: KEYED,
      schema: {
        operationId: 'labGetEvent',
        tags: TAGS,
        summary: 'What the side that was used last has left',
        description: 'An event that was never reset has one ticket.',
        params: Id,
        response: { 200: response(Event, 'The event'), ...problemResponses(400) },
      },
    },
    async ({ params: { event_id } }) => tell(event_id),
  )

  app.post(
    '/reset/:event_id',
    {
      config: KEYED,
      preValidation: bodyMayBeLeftOut,
      schema: {
        operationId: 'labResetEvent',
        tags: TAGS,
        summary: 'Both sides have this many tickets',
        params: Id,
        body: Type.Object(
          { total_tickets: Type.Integer({ minimum: 0, maximum: MAX_START, default: START }) },
          { additionalProperties: false, examples: [{ total_tickets: START }] },
        ),
        response: {
          200: response(Type.Object({ message: Message, event: Event }), 'Reset'),
          ...problemResponses(400, busy, 413, 415),
        },
      },
    },
    async ({ params: { event_id }, body: { total_tickets } }) => {
      await counters.reset(counterOf(event_id), total_tickets)
      return { message: 'Event reset successfully', event: await tell(event_id) }
    },
  )
}
