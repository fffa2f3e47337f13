/**
 * A request is understood whole or refused. Invariant: on a route that changes something, a field of the body or a query
 * parameter that the route does not know is a 400: `refund {"units": 1}` must not refund everything.
 */
import type { FastifyInstance, FastifySchema } from 'fastify'

const WRITES = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

/** The body of a command that takes none: absent, empty or `{}`. */
const NO_BODY = { type: ['object', 'null'], properties: {}, additionalProperties: false }
const NO_QUERY = { type: 'object', properties: {}, additionalProperties: false }

/** To be called before the routes: each that declares no body, or no query, accepts none. */
export function refuseUnknown(app: FastifyInstance): void {
  app.addHook('onRoute', (route) => {
    // Not in the document: the provider's raw bytes, and the board, which reads its requests itself.
    if (route.schema?.hide || ![route.method].flat().some((method) => WRITES.has(method))) return
    route.schema = { body: NO_BODY, querystring: NO_QUERY, ...route.schema }
  })
}

/** As the document shows it: without the body and the query that are only there to be refused. */
export function declared({ body, querystring, ...schema }: FastifySchema): FastifySchema {
  return {
    ...schema,
    ...(body !== undefined && body !== NO_BODY && { body }),
    ...(querystring !== undefined && querystring !== NO_QUERY && { querystring }),
  }
}
