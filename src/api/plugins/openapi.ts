/**
 * Builds openapi.json from the schemas of the routes. Invariant: the document shows a request body or query only where the
 * route declares one, not the empty ones that refuseUnknown adds.
 */
import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { declared } from './strict-fields.ts'

/** Marks a body as optional if its schema allows null. */
function optional(body: { content: { 'application/json': { schema: { type?: string | string[] } } } }): object {
  const json = body.content['application/json']
  if (!Array.isArray(json.schema.type)) return body
  return { required: false, content: { 'application/json': { ...json, schema: { ...json.schema, type: 'object' } } } }
}

/**
 * Converts a schema to the form that OpenAPI allows. Ajv's `discriminator` selects one of several inline schemas; OpenAPI's
 * `discriminator` may only select named schemas, so the document keeps only `oneOf`. `if`, `then` and `else` become `oneOf` too.
 */
const withoutDiscriminators = (openapi: object): object =>
  JSON.parse(
    JSON.stringify(openapi, (key, value) => {
      if (key === 'discriminator') return undefined
      if (key === 'requestBody') return optional(value)
      if (!value?.if || !value.then || !value.else) return value
      const { if: _, then: one, else: other, ...rest } = value
      return { ...rest, oneOf: [other, one] }
    }),
  )

export async function documentRoutes(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Holdfast',
        version: '0.1.0',
        description:
          'Sell and book scarce things exactly once. HEAD is answered wherever GET is; a method that a path does not ' +
          'support is answered with 405 and Allow. Neither is listed as an operation. Send bodies without compression: ' +
          'a Content-Encoding is refused with 415.',
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/' }],
      tags: [
        { name: 'resources', description: 'Resources for sale, their stock and their ledger' },
        { name: 'purchases', description: 'Purchases of units: queued by resource, settled under a lease' },
        {
          name: 'bookings',
          description: 'Bookings of time in a calendar: stays and rides, settled in the same queues',
        },
        { name: 'events', description: 'A stream of changes as they happen' },
        { name: 'webhooks', description: 'Endpoints that receive changes as signed webhooks, in order' },
        { name: 'leases', description: 'Locks for services in any language, kept by heartbeats' },
        { name: 'locks', description: 'Lock holders and waiters, statistics, forced release' },
        { name: 'operating', description: 'Health and metrics' },
        {
          name: 'lab',
          description:
            'Race conditions with and without protection, as tutorials show them. UNSAFE ON PURPOSE: the routes without a ' +
            'lock lose updates, on tables of their own. Disabled with LAB=0 and in production.',
        },
      ],
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer' },
          key: { type: 'apiKey', in: 'header', name: 'X-Api-Key' },
        },
      },
      // The empty entry means that no key is needed: an API without configured keys is open.
      security: [{ bearer: [] }, { key: [] }, {}],
    },
    transform: ({ schema, url }) => ({ schema: declared(schema ?? {}), url }),
    transformObject: (document) => withoutDiscriminators('openapiObject' in document ? document.openapiObject : {}),
    refResolver: { buildLocalReference: (json, _base, _fragment, i) => String(json.$id ?? `def-${i}`) },
  })
}
