/** Tickets, in the tutorial's shapes. Invariant: as for the inventory, both variants have the same request and response. */
import Type from 'typebox'
import { problemResponses, response } from '../http/responses.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  bodyMayBeLeftOut,
  busy,
  Duration,
  idParam,
  KEYED,
  Left,
  MAX_START,
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

const START = 1

const counterOf = (id: string): DemoCounter => {
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

export function ticketRoutes(app: TypedApp, counters: DemoCounters): void {
  for (const variant of VARIANTS) bookRoute(app, counters, variant)
  readRoute(app, counters)
  resetRoute(app, counters)
}

async function eventView(counters: DemoCounters, id: string) {
  const counter = counterOf(id)
  const { start, left } = await counters.read(counter)
  return { id, name: counter.name, total_tickets: start, available_tickets: left, booked: start - left }
}

function bookRoute(app: TypedApp, counters: DemoCounters, variant: (typeof VARIANTS)[number]): void {
  const schema = {
    operationId: operationId('labBook', variant),
    tags: TAGS,
    summary: `Tickets, ${variant.summary}`,
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
  }
  const route = { config: KEYED, preValidation: bodyMayBeLeftOut, schema }
  app.post(`/book-${variant.word}-lock/:event_id`, route, async ({ params: { event_id } }, reply) => {
    const started_ms = performance.now()
    const result = await variant.buy(counters, counterOf(event_id), 1)
    if (!result.bought) return reply.code(400).send(refused(refusalText(result, 'No tickets available')))
    return {
      success: true,
      message: `Booking successful (${variant.label})`,
      booking_id: result.id,
      duration: since(started_ms),
      remaining_stock: result.left,
      event: await eventView(counters, event_id),
    }
  })
}

function readRoute(app: TypedApp, counters: DemoCounters): void {
  const schema = {
    operationId: 'labGetEvent',
    tags: TAGS,
    summary: 'Get what is left in the variant that was used last',
    description: 'Before its first reset or purchase an event has one ticket.',
    params: Id,
    response: { 200: response(Event, 'The event'), ...problemResponses(400) },
  }
  app.get('/events/:event_id', { config: KEYED, schema }, ({ params: { event_id } }) => eventView(counters, event_id))
}

function resetRoute(app: TypedApp, counters: DemoCounters): void {
  const schema = {
    operationId: 'labResetEvent',
    tags: TAGS,
    summary: 'Reset both variants to this many tickets',
    params: Id,
    body: Type.Object(
      { total_tickets: Type.Integer({ minimum: 0, maximum: MAX_START, default: START }) },
      { additionalProperties: false, examples: [{ total_tickets: START }] },
    ),
    response: {
      200: response(Type.Object({ message: Message, event: Event }), 'Reset'),
      ...problemResponses(400, busy, 413, 415),
    },
  }
  const route = { config: KEYED, preValidation: bodyMayBeLeftOut, schema }
  app.post('/reset/:event_id', route, async ({ params: { event_id }, body: { total_tickets } }) => {
    await counters.reset(counterOf(event_id), total_tickets)
    return { message: 'Event reset successfully', event: await eventView(counters, event_id) }
  })
}
