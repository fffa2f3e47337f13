/**
 * One driver, two riders: the unsafe variant. Invariant: a lab driver is a row of the lab's own table; the safe variant of
 * this race is `POST /api/bookings` itself.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { problemResponses, response } from '../http/responses.ts'
import { Nullable, PLAIN_TEXT } from '../http/schemas.ts'
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

export interface DriverDeps {
  client: Client
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
  pause_ms: number
}

const Id = idParam('driver_id')
const Rides = Type.Integer({ description: 'Riders that got this driver since the reset' })

export function driverRoutes(instance: FastifyInstance, { client, viaBreaker, pause_ms }: DriverDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()

  app.post(
    '/demo/drivers/:driver_id/request-no-lock',
    {
      config: KEYED,
      schema: {
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
      },
    },
    async ({ params: { driver_id }, body: { rider_id } }, reply) => {
      const started_ms = performance.now()
      const [driver] = await viaBreaker(() =>
        query<{ rider: string | null }>(client, sql`SELECT rider FROM lab_drivers WHERE id = ${driver_id}`),
      )
      if (driver?.rider) return reply.code(400).send(refused('Driver not available'))
      // Every request that arrives now reads a free driver.
      await sleep(pause_ms)
      const [row] = await viaBreaker(() =>
        query<{ rides: number }>(
          client,
          sql`INSERT INTO lab_drivers AS d (id, rider, rides) VALUES (${driver_id}, ${rider_id}, 1)
              ON CONFLICT (id) DO UPDATE SET rider = excluded.rider, rides = d.rides + 1 RETURNING rides`,
        ),
      )
      const message = 'Driver requested (NO LOCK)'
      return { success: true, message, duration: since(started_ms), driver_id, rider_id, rides: row?.rides ?? 0 }
    },
  )

  app.post(
    '/demo/drivers/:driver_id/reset',
    {
      config: KEYED,
      schema: {
        operationId: 'labResetDriver',
        tags: TAGS,
        summary: 'Reset the driver to free',
        params: Id,
        response: {
          200: response(
            Type.Object({ driver_id: Type.String(), rider_id: Nullable(Type.String()), rides: Rides }),
            'Reset',
          ),
          ...problemResponses(400, 413, 415),
        },
      },
    },
    async ({ params: { driver_id } }) => {
      await viaBreaker(() => query(client, sql`DELETE FROM lab_drivers WHERE id = ${driver_id}`))
      return { driver_id, rider_id: null, rides: 0 }
    },
  )
}
