/**
 * The Fastify instance, without its process: buildApp(deps) registers plugins and routes by hand, in this order. Invariant:
 * every error is answered as a problem, and an error of the client is never a 5xx.
 */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import { Ajv, type ErrorObject } from 'ajv'
import type { DataValidationCxt } from 'ajv/dist/types/index.js'
import addFormats from 'ajv-formats'
import Fastify, { type FastifyBaseLogger, type FastifyError, type FastifyInstance, LogController } from 'fastify'
import { UnavailableError } from '../shared/breaker.ts'
import { type Health, healthRoutes } from '../shared/health.ts'
import { LeaseLostError, LockBusyError } from '../shared/locks/api.ts'
import type { Log } from '../shared/log.ts'
import { knowPaths } from '../shared/methods.ts'
import { type FieldError, fieldProblem, Problem, ProblemSchema, problemBody, sendProblem } from '../shared/problem.ts'
import { type ConnectionDrain, createConnectionDrain } from '../shared/shutdown.ts'
import { type DashboardDeps, dashboardRoutes } from './dashboard/routes.ts'
import { lockBusy } from './http/lock-problems.ts'
import { IDENTIFIER, isIdentifier, isPlainText, NFC, PLAIN_TEXT, WORDS } from './http/schemas.ts'
import { type LabDeps, labRoutes } from './lab/routes.ts'
import { requireAdminPassword } from './plugins/auth.ts'
import { type ProtectDeps, protect } from './plugins/security.ts'
import { declared, refuseUnknown } from './plugins/strict-fields.ts'
import { availabilityRoutes } from './routes/availability.ts'
import { type BookingRoutesDeps, BookingSchema, bookingRoutes } from './routes/bookings.ts'
import { type BullBoardDeps, bullBoardRoutes } from './routes/bull-board.ts'
import { type EventRoutesDeps, eventRoutes } from './routes/events.ts'
import { type LeaseRoutesDeps, leaseRoutes } from './routes/leases.ts'
import { type LockRoutesDeps, lockRoutes } from './routes/locks.ts'
import { type PurchaseRoutesDeps, PurchaseSchema, purchaseRoutes } from './routes/purchases.ts'
import { type ResourceRoutesDeps, ResourceSchema, resourceRoutes } from './routes/resources.ts'
import { type WebhookRoutesDeps, webhookRoutes } from './routes/stripe-webhook.ts'
import { type WebhookEndpointDeps, webhookEndpointRoutes } from './routes/webhook-endpoints.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** refuses new work and waits for open requests at shutdown */
    door: ConnectionDrain
  }
}

/** Bytes of a body: a purchase of 100 items with the longest references takes a tenth of it. */
const BODY_LIMIT = 256 * 1024

/** Longer than any URL that Node accepts, so that the schema refuses an id that is too long, with a message. */
const ROUTER = { ignoreTrailingSlash: true, maxParamLength: 16_384 }

export interface AppDeps
  extends PurchaseRoutesDeps,
    BookingRoutesDeps,
    ResourceRoutesDeps,
    WebhookRoutesDeps,
    EventRoutesDeps,
    WebhookEndpointDeps,
    LeaseRoutesDeps,
    LockRoutesDeps,
    DashboardDeps,
    BullBoardDeps,
    LabDeps,
    ProtectDeps {
  config: ProtectDeps['config']
  health: Health
  log: Log
  /** registered before the routes; absent: requests are not traced */
  trace?(app: FastifyInstance): Promise<void>
}

export async function buildApp(deps: AppDeps): Promise<FastifyInstance> {
  const { health, log } = deps
  const app = Fastify({
    loggerInstance: log as FastifyBaseLogger,
    // One log line per batch says more than two per request; a request is logged at debug.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT,
    // Limits the arrival of a request. Handlers have their own limits (breakers, leases, Prefer: wait): a timer and an
    // AbortController for each request would cost more than the rest of a purchase's validation.
    requestTimeout: 30_000,
    routerOptions: ROUTER,
    frameworkErrors: (error, request, reply) => sendProblem(toProblem(error), request, reply),
    clientErrorHandler: refuseConnection,
    forceCloseConnections: 'idle',
    // Requests that arrive during shutdown are served as usual: Fastify's own 503 is not a problem of the contract.
    return503OnClosing: false,
    // HEAD is answered wherever GET is; the OpenAPI document omits it.
    exposeHeadRoutes: true,
  })
  app.decorate('door', createConnectionDrain(app))
  await deps.trace?.(app)
  validators(app)
  errors(app, log)
  const paths = knowPaths(app, ROUTER)
  await protect(app, deps)
  paths.refuseUnknown()
  bodies(app)
  for (const schema of [ProblemSchema, ResourceSchema, PurchaseSchema, BookingSchema]) app.addSchema(schema)
  await document(app)
  refuseUnknown(app)
  healthRoutes(app, health)
  resourceRoutes(app, deps)
  purchaseRoutes(app, deps)
  bookingRoutes(app, deps)
  availabilityRoutes(app, deps)
  webhookRoutes(app, deps)
  eventRoutes(app, deps)
  webhookEndpointRoutes(app, deps)
  leaseRoutes(app, deps)
  lockRoutes(app, deps)
  labRoutes(app, deps)
  await dashboardRoutes(app, deps)
  bullBoardRoutes(app, deps, requireAdminPassword(deps.config))
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())
  await app.ready()
  return app
}

/** Values in a body are not coerced: "2" is not a number there. Parameters are text, so "2" is coerced to 2. */
function validators(app: FastifyInstance): void {
  const options = { allErrors: false, discriminator: true, useDefaults: true, strict: false }
  const body = new Ajv({ ...options, coerceTypes: false })
  const text = new Ajv({ ...options, coerceTypes: true })
  for (const ajv of [body, text]) {
    addFormats.default(ajv).addFormat(PLAIN_TEXT, isPlainText).addFormat(IDENTIFIER, isIdentifier)
    ajv.addKeyword({ keyword: NFC, type: 'string', modifying: true, validate: normalize, errors: false })
  }
  app.setValidatorCompiler(({ schema, httpPart }) => (httpPart === 'body' ? body : text).compile(schema as object))
}

function normalize(_schema: boolean, text: string, _parent?: object, context?: DataValidationCxt): boolean {
  const { parentData, parentDataProperty } = context ?? {}
  if (parentData && parentDataProperty !== undefined) parentData[parentDataProperty] = text.normalize('NFC')
  return true
}

/** `/lines/0/units` as `lines[0].units`. */
const fieldOf = ({ instancePath, params, keyword }: ErrorObject, context: string): string => {
  const path = instancePath
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  if (keyword === 'required') path.push(params.missingProperty)
  if (keyword === 'additionalProperties') path.push(params.additionalProperty)
  if (keyword === 'discriminator') path.push(params.tag)
  const field = path.reduce((all, part) => (/^\d+$/.test(part) ? `${all}[${part}]` : all ? `${all}.${part}` : part), '')
  return field || context
}

function fieldErrors(error: FastifyError): FieldError[] {
  const found = (error.validation as unknown as ErrorObject[])
    .filter(({ keyword }) => keyword !== 'if')
    .map((one) => {
      const field = fieldOf(one, error.validationContext ?? 'body')
      if (one.keyword === 'additionalProperties') return { field, detail: 'is not a known field' }
      if (one.keyword === 'format' && one.params.format === PLAIN_TEXT) {
        return { field, detail: 'must not contain NUL or half of a surrogate pair' }
      }
      if (one.keyword === 'format' && one.params.format === IDENTIFIER) {
        return { field, detail: 'must not contain control or invisible characters, nor begin or end with white space' }
      }
      const words = WORDS[one.params.pattern ?? one.params.format]
      if (words) return { field, detail: `must be ${words}` }
      if (one.keyword === 'pattern') return { field, detail: 'does not have the required format' }
      // The only use of `not`: test/api/field-messages.test.ts checks it.
      if (one.keyword === 'not') return { field, detail: 'must not be 0' }
      if (one.keyword === 'const') return { field, detail: `must be ${one.params.allowedValue}` }
      if (one.keyword === 'required') return { field, detail: 'is missing' }
      if (one.keyword === 'discriminator') return { field, detail: 'is not one of the known kinds' }
      if (one.keyword === 'enum') return { field, detail: `must be one of ${one.params.allowedValues.join(', ')}` }
      return { field, detail: one.message ?? 'is not valid' }
    })
  return [...new Map(found.map((one) => [one.field, one])).values()]
}

/** The only place that maps errors to problems. */
function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof UnavailableError) {
    return new Problem(503, 'unavailable', `${error.dependency} does not answer. Nothing was lost; try again.`, {
      retry_after: 1,
    })
  }
  if (error instanceof LockBusyError) return lockBusy(error)
  if (error instanceof LeaseLostError) {
    return new Problem(503, 'lease_lost', 'The lease was lost during the request; nothing was written.', {
      retry_after: 1,
    })
  }
  const { validation, code, statusCode = 500, message } = error as FastifyError
  if (validation) {
    const errors = fieldErrors(error as FastifyError)
    const detail = errors.map((one) => `${one.field} ${one.detail}`).join('; ')
    return new Problem(400, 'invalid_request', detail, { errors })
  }
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new Problem(413, 'body_too_large', `The body is larger than ${BODY_LIMIT} bytes.`, {
      errors: [{ field: 'body', detail: `is larger than ${BODY_LIMIT} bytes` }],
    })
  }
  if (code === 'FST_ERR_BAD_URL') return fieldProblem('path', 'is not a valid percent-encoding')
  if (statusCode >= 400 && statusCode < 500) {
    const field = statusCode === 415 ? 'Content-Type' : 'body'
    const named = statusCode === 400 || statusCode === 415 ? { errors: [{ field, detail: message }] } : {}
    return new Problem(statusCode, CODES[statusCode] ?? 'bad_request', message, named)
  }
  return new Problem(500, 'internal_error', 'Internal server error. The error has been logged.')
}

const CODES: Record<number, string> = { 400: 'invalid_request', 404: 'not_found', 415: 'unsupported_media_type' }

/** Answers a request that Node could not parse: there is no route and no reply, only the socket. */
function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  const [status, code, detail] = UNREADABLE[error.code ?? ''] ?? [400, 'invalid_request', 'Malformed HTTP request.']
  const body = JSON.stringify(problemBody(new Problem(status, code, detail), '/'))
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  if (socket.writable) socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
  socket.destroy(error)
}
const UNREADABLE: Record<string, [number, string, string]> = {
  HPE_HEADER_OVERFLOW: [431, 'headers_too_large', 'The headers are larger than 16 KiB.'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'request_timeout', 'The request took too long to arrive.'],
}

function errors(app: FastifyInstance, log: Log): void {
  app.setErrorHandler((error, request, reply) => {
    const problem = toProblem(error)
    // The route without its query: a query may name a customer.
    const { url = request.url } = request.routeOptions
    if (problem.status === 500) log.error({ error, method: request.method, url }, 'request failed')
    else log.debug({ error, method: request.method, url }, 'request refused')
    return sendProblem(problem, request, reply)
  })
}

/** An empty body counts as absent, even if curl labels it JSON: commands take none. A compressed body is refused. */
function bodies(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers, method }, reply) => {
    const { 'content-encoding': encoding = 'identity' } = headers
    if (encoding.toLowerCase() === 'identity' || method === 'GET' || method === 'HEAD') return
    reply.header('accept-encoding', 'identity')
    const detail = `is ${encoding}: send the body without compression`
    throw fieldProblem('Content-Encoding', detail, 415, 'unsupported_media_type')
  })
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser(['application/json', 'text/plain'])
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined)
    else void parse(request, body as string, done)
  })
}

/** A body that may be null is documented as optional. */
function optional(body: { content: { 'application/json': { schema: { type?: string | string[] } } } }): object {
  const json = body.content['application/json']
  if (!Array.isArray(json.schema.type)) return body
  return { required: false, content: { 'application/json': { ...json, schema: { ...json.schema, type: 'object' } } } }
}

/**
 * Ajv's `discriminator` selects one of several inline schemas; OpenAPI's may only select named ones, so the document keeps
 * `oneOf` alone. `if`, `then` and `else` become `oneOf` too.
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

async function document(app: FastifyInstance): Promise<void> {
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
      // The empty entry: an API without configured keys is open.
      security: [{ bearer: [] }, { key: [] }, {}],
    },
    transform: ({ schema, url }) => ({ schema: declared(schema ?? {}), url }),
    transformObject: (document) => withoutDiscriminators('openapiObject' in document ? document.openapiObject : {}),
    refResolver: { buildLocalReference: (json, _base, _fragment, i) => String(json.$id ?? `def-${i}`) },
  })
  await app.register(swaggerUi, { routePrefix: '/docs', uiConfig: { tryItOutEnabled: true, docExpansion: 'list' } })
}
