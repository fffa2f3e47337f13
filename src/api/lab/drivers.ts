/**
 * One driver, two riders: the unsafe variant. Invariant: a lab driver is a row of the lab's own table; the safe variant of
 * this race is `POST /api/bookings` itself.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { eq, sql } from 'drizzle-orm'
import Type from 'typebox'
import { labDrivers } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import type { Database } from '../database.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Nullable, PLAIN_TEXT } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  Duration,
  idParam,
  KEYED,
  Message,
  Refused,
  refusals,
  refused,
  Success,
  since,
  TAGS,
} from './response-shapes.ts'

const Id = idParam('driver_id')
const Rides = Type.Integer({ description: 'Riders that got this driver since the reset' })

const driver = eq(labDrivers.id, value('id'))
const riderSql = prepare(build.select({ rider: labDrivers.rider }).from(labDrivers).where(driver))
const assignSql = prepare(
  build
    .insert(labDrivers)
    .values({ id: value('id'), rider: value('rider'), rides: 1 })
    .onConflictDoUpdate({
      target: labDrivers.id,
      set: { rider: sql`excluded.rider`, rides: sql`${labDrivers.rides} + 1` },
    })
    .returning({ rides: labDrivers.rides }),
)
const resetSql = prepare(build.delete(labDrivers).where(driver))

const RequestDriver = {
  operationId: 'labRequestDriverWithoutLock',
  tags: TAGS,
  summary: 'Ride, UNSAFE: reads, pauses, writes',
  description: 'The safe variant is POST /api/bookings.',
  params: Id,
  body: Type.Object(
    { rider_id: Type.String({ minLength: 1, maxLength: 200, format: PLAIN_TEXT }) },
    { additionalProperties: false, examples: [{ rider_id: 'ada' }] },
  ),
  response: {
    200: response(
      Type.Object({
        success: Success,
        message: Message,
        duration: Duration,
        driver_id: Type.String(),
        rider_id: Type.String(),
        rides: Rides,
      }),
      'Driver assigned',
    ),
    ...refusals(Refused, refused('Driver not available'), 413, 415),
  },
}

const ResetDriver = {
  operationId: 'labResetDriver',
  tags: TAGS,
  summary: 'Reset the driver to free',
  params: Id,
  response: {
    200: response(Type.Object({ driver_id: Type.String(), rider_id: Nullable(Type.String()), rides: Rides }), 'Reset'),
    ...problemResponses(400, 413, 415),
  },
}

export function driverRoutes(app: TypedApp, db: Pick<Database, 'query'>, pause_ms: number): void {
  const request = { config: KEYED, schema: RequestDriver }
  app.post('/demo/drivers/:driver_id/request-no-lock', request, async ({ params, body: { rider_id } }, reply) => {
    const { driver_id } = params
    const started_ms = performance.now()
    const [driver] = await db.query(riderSql, { id: driver_id })
    if (driver?.rider) return reply.code(400).send(refused('Driver not available'))
    // Every request that arrives during this pause also reads a free driver.
    await sleep(pause_ms)
    const [row] = await db.query(assignSql, { id: driver_id, rider: rider_id })
    const message = 'Driver requested (NO LOCK)'
    return { success: true, message, duration: since(started_ms), driver_id, rider_id, rides: row?.rides ?? 0 }
  })

  const reset = { config: KEYED, schema: ResetDriver }
  app.post('/demo/drivers/:driver_id/reset', reset, async ({ params: { driver_id } }) => {
    await db.query(resetSql, { id: driver_id })
    return { driver_id, rider_id: null, rides: 0 }
  })
}
