/**
 * Refuses unknown fields. Invariant: on a route that changes something, an unknown field of the body or query parameter is a
 * 400: `refund {"units": 1}` must not refund everything.
 */
import type { FastifyInstance, FastifySchema } from 'fastify'

const WRITES = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

/** The body of a command that takes none: absent, empty or `{}`. */
const NO_BODY = { type: ['object', 'null'], properties: {}, additionalProperties: false }
const NO_QUERY = { type: 'object', properties: {}, additionalProperties: false }

/** Call it before the routes: a route that declares no body, or no query, then accepts none. */
export function refuseUnknown(app: FastifyInstance): void {
  app.addHook('onRoute', (route) => {
    // Hidden routes are exempt: the provider's webhook has a raw body, and Bull Board reads its requests itself.
    if (route.schema?.hide || ![route.method].flat().some((method) => WRITES.has(method))) return
    route.schema = { body: NO_BODY, querystring: NO_QUERY, ...route.schema }
  })
}

/** The schema for the document: without the NO_BODY and NO_QUERY that refuseUnknown adds. */
export function declared({ body, querystring, ...schema }: FastifySchema): FastifySchema {
  return {
    ...schema,
    ...(body !== undefined && body !== NO_BODY && { body }),
    ...(querystring !== undefined && querystring !== NO_QUERY && { querystring }),
  }
}
