/**
 * Refuses unknown fields. Invariant: on a route that changes something, an unknown field of the body or an unknown query
 * parameter is a 400: `refund {"units": 1}` must not refund everything.
 */
import type { FastifyInstance, FastifySchema } from 'fastify'

const WRITES = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

/** Schema for the body of a command without fields: the body is absent, empty or `{}`. */
const NO_BODY = { type: ['object', 'null'], properties: {}, additionalProperties: false }
const NO_QUERY = { type: 'object', properties: {}, additionalProperties: false }

/** Makes routes that declare no body, or no query, refuse one. Call it before the routes are registered. */
export function refuseUnknown(app: FastifyInstance): void {
  app.addHook('onRoute', (route) => {
    // Routes that the OpenAPI document omits (`hide`) are exempt: the payment provider's webhook has a raw body, and Bull Board reads its
    // requests itself.
    if (route.schema?.hide || ![route.method].flat().some((method) => WRITES.has(method))) return
    route.schema = { body: NO_BODY, querystring: NO_QUERY, ...route.schema }
  })
}

/** Returns the schema for the OpenAPI document, without the NO_BODY and NO_QUERY that refuseUnknown adds. */
export function declared({ body, querystring, ...schema }: FastifySchema): FastifySchema {
  return {
    ...schema,
    ...(body !== undefined && body !== NO_BODY && { body }),
    ...(querystring !== undefined && querystring !== NO_QUERY && { querystring }),
  }
}
