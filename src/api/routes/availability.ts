/** Free time of a calendar. Invariant: an expired request occupies no time, whether or not the sweeper has written it. */
import { sql } from 'drizzle-orm'
import Type from 'typebox'
import { prepare, value } from '../../shared/db/statements.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { problemResponses, response } from '../http/responses.ts'
import { ResourceParams, Time } from '../http/schemas.ts'
import { iso, readRange, Timestamp } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'

/** Longest window of one request, in days. */
const WINDOW_DAYS = 366

const Availability = Type.Object({
  resource: Type.String(),
  from: Time,
  to: Time,
  free: Type.Array(Type.Object({ from: Time, to: Time }), { description: 'Half-open ranges, in order' }),
})

const noCalendar = (ref: string) => fieldProblem('id', `names ${ref}, which is sold by units`, 409, 'wrong_kind')

const schema = {
  operationId: 'getAvailability',
  tags: ['bookings'],
  summary: 'Get the free ranges of a calendar',
  description: `The window is at most ${WINDOW_DAYS} days. Requested and accepted bookings occupy their time. Past ranges are left out; a range that has begun is returned whole, because a stay may begin in the past.`,
  params: Type.Object({
    type: Type.String({ ...ResourceParams.properties.type, examples: ['property'] }),
    id: Type.String({ ...ResourceParams.properties.id, examples: ['42'] }),
  }),
  querystring: Type.Object(
    { from: Timestamp('2030-06-01'), to: Timestamp('2030-07-01') },
    { additionalProperties: false },
  ),
  response: {
    200: response(Availability, 'The free ranges'),
    ...problemResponses(400, 404, noCalendar('product:1')),
  },
}

const window = sql`tstzrange(${value('from')}::timestamptz, ${value('to')}::timestamptz)`
// Written as raw SQL: it computes ranges with multiranges and their aggregates, which drizzle cannot express.
const freeSql = prepare<{ kind: string; free: { from: string; to: string }[] }>(sql`
  SELECT r.kind, coalesce((
    SELECT json_agg(json_build_object('from', lower(f), 'to', upper(f)) ORDER BY f)
    FROM unnest(tstzmultirange(${window}) - coalesce((
      SELECT range_agg(b.period) FROM bookings b
      WHERE b.resource_id = r.id AND b.period && ${window} AND b.status IN ('requested', 'accepted')
        AND NOT (b.status = 'requested' AND coalesce(b.expires_at <= clock_timestamp(), false))
    ), '{}')) f WHERE upper(f) > clock_timestamp()), '[]') AS free
  FROM resources r WHERE r.id = ${value('id')}`)

export interface AvailabilityOptions {
  db: Pick<Database, 'query'>
}

export async function availabilityRoutes(app: TypedApp, { db }: AvailabilityOptions): Promise<void> {
  app.get('/api/resources/:type/:id/availability', { schema }, async (request) => {
    const id = `${request.params.type}:${request.params.id}`
    const { from_ms, to_ms } = readRange(request.query.from, request.query.to, WINDOW_DAYS)
    const [from, to] = [new Date(from_ms).toISOString(), new Date(to_ms).toISOString()]
    const [found] = await db.query(freeSql, { id, from, to })
    if (!found) throw new Problem(404, 'not_found', `There is no resource ${id}.`)
    if (found.kind !== 'calendar') throw noCalendar(id)
    return { resource: id, from, to, free: found.free.map((one) => ({ from: iso(one.from), to: iso(one.to) })) }
  })
}
