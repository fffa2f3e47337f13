/**
 * `GET /api/events`: what changed, as it happens. Invariant: a client that comes back with the id that it has seen last
 * gets every event after it, once and in order, or is told that they are no longer kept; never a part in silence.
 */

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { REF_PATTERN } from '../../shared/domain/resource.ts'
import {
  comparePositions,
  EVENT_TYPES,
  endOfRow,
  formatEventId,
  ID_PATTERN,
  outboxBounds,
  type Position,
  parseEventId,
} from '../../shared/outbox.ts'
import { badField, Problem } from '../../shared/problem.ts'
import { problemResponses } from '../http/responses.ts'
import { createStreams, frame, HELLO } from '../http/sse.ts'
import type { Tail } from '../outbox-tail.ts'

/** Milliseconds without an event after which a sign of life is sent: less than what proxies call idle. */
const ALIVE_MS = 15_000
/** Streams of one process at once. */
const STREAMS = 1_000

const EventType = Type.Unsafe<string>({ type: 'string', enum: EVENT_TYPES })

export interface EventRoutesDeps {
  client: Client
  tail: Tail
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

const gone = () =>
  new Problem(
    410,
    'events_gone',
    'The events after this one are no longer kept. Read the present state, and begin anew.',
  )

export function eventRoutes(instance: FastifyInstance, { client, tail, guarded }: EventRoutesDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const streams = createStreams(instance, STREAMS)

  /** Where a client that names this event goes on. @throws Problem when that is not known, or not any more */
  async function resume(id: string, field: string): Promise<Position> {
    if (!new RegExp(ID_PATTERN).test(id)) throw badField(field, 'must be the id of an event, as in 17-3, or 0-0')
    const position = parseEventId(id)
    const { dropped, newest } = await guarded(() => outboxBounds(client))
    if (position.id > newest) throw badField(field, 'is later than every event')
    // 0-0 is the beginning, whatever it is by now.
    if (position.id > 0 && comparePositions(position, endOfRow(dropped)) < 0) throw gone()
    return position
  }

  async function* tell(
    from: Position | undefined,
    { resource, type, limit }: { resource?: string; type?: string; limit?: number },
    signal: AbortSignal,
  ): AsyncGenerator<string> {
    const listener = tail.listen(from, resource)
    let left = limit ?? Number.POSITIVE_INFINITY
    try {
      let seen = listener.position()
      while (seen === undefined && !signal.aborted) {
        await listener.more(ALIVE_MS, signal)
        seen = listener.position()
      }
      // The place is told before the first event, so that who is cut off until then misses none either.
      if (seen) yield HELLO + frame({ id: formatEventId(seen) })
      while (!signal.aborted && left > 0) {
        const since = listener.position()
        const events = (await listener.next()).filter((one) => type === undefined || one.type === type).slice(0, left)
        left -= events.length
        const text = events.map((one) => frame({ id: one.id, event: one.type, data: JSON.stringify(one) }))
        if (events.length > 0) yield text.join('')
        else if (listener.position() === since) {
          await listener.more(ALIVE_MS, signal)
          if (listener.position() === since) yield frame({ id: formatEventId(listener.position() ?? { id: 0, n: 0 }) })
        }
      }
    } finally {
      listener.close()
    }
  }

  app.get(
    '/api/events',
    {
      // It tells of everybody's customers.
      config: { admin: true },
      schema: {
        operationId: 'streamEvents',
        tags: ['events'],
        summary: 'Every change of purchases, bookings and stock, as it happens',
        description:
          'Server-sent events (`text/event-stream`), without end unless `limit` says so. `id` goes into Last-Event-ID ' +
          'to resume without a gap, which an EventSource does by itself. `data` is `{id, change, type, resource, ' +
          'sequence, timestamp, data}`, the same as a webhook gets; `sequence` counts the events of a resource, without ' +
          'gaps. A purchase of several resources is an event of each of them; all of these have the same `change`.',
        querystring: Type.Object(
          {
            resource: Type.Optional(
              Type.String({ pattern: REF_PATTERN, maxLength: 161, description: 'Only of this resource' }),
            ),
            type: Type.Optional(EventType),
            after: Type.Optional(
              Type.String({ maxLength: 40, description: 'As Last-Event-ID, which comes first', examples: ['0-0'] }),
            ),
            limit: Type.Optional(
              Type.Integer({ minimum: 1, maximum: 10_000, description: 'Ends after so many', examples: [1] }),
            ),
          },
          { additionalProperties: false },
        ),
        headers: Type.Object({ 'last-event-id': Type.Optional(Type.String()) }),
        response: {
          200: {
            description: 'Events, as they come',
            content: { 'text/event-stream': { schema: Type.String() } },
          },
          ...problemResponses(400, 403, gone()),
        },
      },
    },
    async (request, reply) => {
      streams.assertCapacity()
      const [header] = [request.headers['last-event-id']].flat()
      const { after } = request.query
      const from = header ? await resume(header, 'Last-Event-ID') : after ? await resume(after, 'after') : undefined
      // Without a place: from now on. Whether Postgres can be asked is told before the stream begins.
      if (from === undefined) await guarded(() => client`SELECT 1`)
      return streams.open(reply, (gone) => tell(from, request.query, gone)) as never
    },
  )
}
