/**
 * `GET /api/events`: a stream of changes. Invariant: a client that reconnects with the last id that it received gets every
 * later event, once and in order, or an error which says that those events are no longer stored; no event is skipped silently.
 */

import Type from 'typebox'
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
import { fieldProblem, Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { problemResponses } from '../http/responses.ts'
import { createStreams, frame, HELLO } from '../http/sse.ts'
import type { TypedApp } from '../http/typed-app.ts'
import type { Tail } from '../outbox-tail.ts'

/** Milliseconds without an event after which the API sends a keep-alive: below the idle timeout of proxies. */
const ALIVE_MS = 15_000
/** Maximum number of open streams per process. */
const STREAMS = 1_000

const EventType = Type.Unsafe<string>({ type: 'string', enum: EVENT_TYPES })

export interface EventOptions {
  db: Pick<Database, 'read'>
  tail: Tail
}

const eventsGone = () =>
  new Problem(
    410,
    'events_gone',
    'The events after this one are no longer stored. Read the present state, then stream from now on.',
  )

const Stream = {
  operationId: 'streamEvents',
  tags: ['events'],
  summary: 'Stream changes of purchases, bookings and stock',
  description:
    'Server-sent events (`text/event-stream`), without end unless `limit` is given. Send the last `id` as ' +
    'Last-Event-ID to resume without a gap; an EventSource does so by itself. `data` is `{id, change, type, ' +
    'resource, sequence, timestamp, data}`, as in a webhook; `sequence` numbers the events of a resource without ' +
    'gaps. A purchase of several resources is one event for each of them, with the same `change`.',
  querystring: Type.Object(
    {
      resource: Type.Optional(
        Type.String({ pattern: REF_PATTERN, maxLength: 161, description: 'Only events of this resource' }),
      ),
      type: Type.Optional(EventType),
      after: Type.Optional(
        Type.String({ maxLength: 40, description: 'Same as Last-Event-ID, which takes precedence', examples: ['0-0'] }),
      ),
      limit: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: 10_000,
          description: 'The stream ends after this many events',
          examples: [1],
        }),
      ),
    },
    { additionalProperties: false },
  ),
  headers: Type.Object({ 'last-event-id': Type.Optional(Type.String()) }),
  response: {
    200: {
      description: 'The stream of events',
      content: { 'text/event-stream': { schema: Type.String() } },
    },
    ...problemResponses(400, 403, eventsGone()),
  },
}

export async function eventRoutes(app: TypedApp, { db, tail }: EventOptions): Promise<void> {
  const streams = createStreams(app, STREAMS)

  /** Returns the position after which a client resumes. @throws Problem when the event is unknown, or no longer stored */
  async function resume(id: string, field: string): Promise<Position> {
    if (!new RegExp(ID_PATTERN).test(id)) throw fieldProblem(field, 'must be the id of an event, as in 17-3, or 0-0')
    const position = parseEventId(id)
    const { dropped, newest } = await db.read(outboxBounds)
    if (position.id > newest) throw fieldProblem(field, 'is later than every event')
    // 0-0 means: start with the oldest stored event.
    if (position.id > 0 && comparePositions(position, endOfRow(dropped)) < 0) throw eventsGone()
    return position
  }

  // Only admins may read events, because events contain the customers of every caller.
  app.get('/api/events', { config: { admin: true }, schema: Stream }, async (request, reply) => {
    streams.assertCapacity()
    const [header] = [request.headers['last-event-id']].flat()
    const { after } = request.query
    const from = header ? await resume(header, 'Last-Event-ID') : after ? await resume(after, 'after') : undefined
    // Without a position the stream starts from now. This query makes the API answer 503 before the stream begins if Postgres is
    // away.
    if (from === undefined) await db.read((client) => client`SELECT 1`)
    return streams.open(reply, (gone) => eventFrames(tail, from, request.query, gone)) as never
  })
}

async function* eventFrames(
  tail: Tail,
  from: Position | undefined,
  { resource, type, limit }: { resource?: string; type?: string; limit?: number },
  signal: AbortSignal,
): AsyncGenerator<string> {
  const listener = tail.listen(from, resource)
  let left = limit ?? Number.POSITIVE_INFINITY
  try {
    let seen = listener.position()
    while (seen === undefined && !signal.aborted) {
      await listener.waitForMore(ALIVE_MS, signal)
      seen = listener.position()
    }
    // Send the position before the first event: a client that disconnects before the first event then misses none.
    if (seen) yield HELLO + frame({ id: formatEventId(seen) })
    while (!signal.aborted && left > 0) {
      const since = listener.position()
      const events = (await listener.next()).filter((one) => type === undefined || one.type === type).slice(0, left)
      left -= events.length
      const text = events.map((one) => frame({ id: one.id, event: one.type, data: JSON.stringify(one) }))
      if (events.length > 0) yield text.join('')
      else if (listener.position() === since) {
        await listener.waitForMore(ALIVE_MS, signal)
        if (listener.position() === since) yield frame({ id: formatEventId(listener.position() ?? { id: 0, n: 0 }) })
      }
    }
  } finally {
    listener.close()
  }
}
