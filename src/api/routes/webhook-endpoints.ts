/**
 * Webhook endpoints, their secrets, delivery attempts and replays. Invariant: the API returns a secret once, when it is
 * created. The workers send the webhooks, not the API.
 */

import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import Type from 'typebox'
import { REF_PATTERN } from '../../shared/domain/resource.ts'
import { EVENT_TYPES } from '../../shared/outbox.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { WEBHOOK_SAMPLES } from '../http/samples.ts'
import { IdParams, Nullable, Time } from '../http/schemas.ts'
import { iso, isoOrNull } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  createSql,
  deleteSql,
  deliveriesOfResourceSql,
  deliveriesSql,
  ENDPOINTS,
  type EndpointRow,
  enableSql,
  eventSql,
  findSql,
  listSql,
  replaySql,
  rotateSql,
} from './webhook-endpoint-rows.ts'

/** Length of a secret, in bytes. */
const SECRET_BYTES = 32
/** Seconds for which workers also sign with the previous secret: the default, and the maximum. */
const OVERLAP_S = 86_400
const MAX_OVERLAP_S = 604_800

const EventType = Type.Unsafe<string>({ type: 'string', enum: EVENT_TYPES })
const RefFilter = Type.String({ pattern: REF_PATTERN, maxLength: 161 })

const Definition = Type.Object(
  {
    url: Type.String({ minLength: 1, maxLength: 2_000, description: 'https, without user, password or fragment' }),
    events: Type.Optional(
      Type.Array(EventType, { minItems: 1, maxItems: 50, uniqueItems: true, description: 'Event types; absent: all' }),
    ),
    resource: Type.Optional(Type.String({ ...RefFilter, description: 'Only events of this resource; absent: all' })),
  },
  {
    additionalProperties: false,
    examples: [{ url: 'https://shop.example/holdfast', events: ['purchase.confirmed'], resource: 'sample:1' }],
  },
)

const Endpoint = {
  id: Type.String({ format: 'uuid' }),
  url: Type.String(),
  events: Type.Union([Type.Array(Type.String()), Type.Null()]),
  resource: Nullable(Type.String()),
  disabled: Nullable(Type.String({ description: 'Why deliveries have stopped; null: enabled' })),
  old_secret_until: Nullable(
    Type.String({
      format: 'date-time',
      description: 'Until this time deliveries are also signed with the previous secret',
    }),
  ),
  behind: Type.Integer({ description: 'Events not delivered yet' }),
  failing_since: Nullable(
    Type.String({ format: 'date-time', description: 'First failure of the event that has failed for longest' }),
  ),
  created_at: Time,
}
export const EndpointSchema = Type.Object(Endpoint, { $id: 'WebhookEndpoint' })
const WithSecret = Type.Object({
  ...Endpoint,
  secret: Type.String({ description: 'Returned only here; `whsec_` and base64, as in Standard Webhooks' }),
})

const Delivery = Type.Object({
  id: Type.Integer(),
  event: Type.String({ description: 'Id of the event, sent as the header webhook-id' }),
  type: Type.String(),
  resource: Type.String(),
  sequence: Type.Integer(),
  attempt: Type.Integer(),
  status: Nullable(Type.Integer({ description: 'HTTP status of the response; null: no response' })),
  error: Nullable(Type.String()),
  duration_ms: Type.Integer(),
  created_at: Time,
})

const Replay = Type.Object(
  {
    resource: Type.Optional(RefFilter),
    sequence: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 53 - 1 })),
    delivery: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 2 ** 53 - 1,
        description: 'Replay from the event of this delivery on; send it instead of resource and sequence',
      }),
    ),
  },
  { additionalProperties: false, examples: [{ resource: 'sample:1', sequence: 1 }] },
)

const endpointView = (row: EndpointRow) => ({
  ...row,
  old_secret_until: isoOrNull(row.old_secret_until),
  failing_since: isoOrNull(row.failing_since),
  created_at: iso(row.created_at),
})

const newSecret = () => `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`
const notFound = (id: string) => new Problem(404, 'not_found', `There is no webhook endpoint ${id}.`)
const tooMany = () => new Problem(409, 'too_many_endpoints', `The limit of ${ENDPOINTS} endpoints is reached.`)
const notInLog = () => fieldProblem('sequence', 'is not a stored event of this resource', 409, 'not_kept')

/**
 * Returns the normalized URL. A worker resolves and checks host names when it connects.
 * @throws Problem naming what is wrong
 */
function readUrl(text: string, allow_private: boolean): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !['https:', 'http:'].includes(url.protocol))
    throw fieldProblem('url', 'must be an https URL')
  if (url.username || url.password || url.hash) throw fieldProblem('url', 'must have no user, password or fragment')
  if (allow_private) return url.href
  if (url.protocol !== 'https:') throw fieldProblem('url', 'must begin with https://')
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const local = host === 'localhost' || host.endsWith('.localhost')
  if (local || (isIP(host) > 0 && ipaddr.parse(host).range() !== 'unicast')) {
    throw fieldProblem('url', 'must not point to a private address', 400, 'private_address')
  }
  return url.href
}

export interface WebhookEndpointOptions {
  db: Pick<Database, 'query'>
  /** allows private addresses, and URLs without TLS */
  allow_private: boolean
}

export async function webhookEndpointRoutes(
  app: TypedApp,
  { db, allow_private }: WebhookEndpointOptions,
): Promise<void> {
  createRoute(app, db, allow_private)
  readRoutes(app, db)
  changeRoutes(app, db)
  deliveryRoutes(app, db)
  replayRoute(app, db)
}

const TAGS = ['webhooks']
// Only admins may use these routes, because webhooks contain the customers of every caller.
const config = { admin: true }
const params = IdParams(WEBHOOK_SAMPLES.endpoint)
const EndpointRef = Type.Unsafe<Type.Static<typeof EndpointSchema>>(Type.Ref('WebhookEndpoint'))

async function find(db: WebhookEndpointOptions['db'], id: string) {
  const [row] = await db.query(findSql, { id })
  if (!row) throw notFound(id)
  return endpointView(row)
}

function createRoute(app: TypedApp, db: WebhookEndpointOptions['db'], allow_private: boolean): void {
  const schema = {
    tags: TAGS,
    operationId: 'createWebhookEndpoint',
    summary: 'Create a webhook endpoint',
    description:
      'The endpoint receives events from now on, signed as in Standard Webhooks, at least once, in order of `sequence` per resource.',
    body: Definition,
    response: {
      201: response(WithSecret, 'Created', 'location'),
      ...problemResponses(400, 403, tooMany(), 413, 415),
    },
  }
  app.post('/api/webhook-endpoints', { config, schema }, async (request, reply) => {
    const { events = null, resource = null } = request.body
    const url = readUrl(request.body.url, allow_private)
    const secret = newSecret()
    const [row] = await db.query(createSql, { url, events: events && JSON.stringify(events), resource, secret })
    if (!row) throw tooMany()
    const endpoint = {
      ...row,
      url,
      events,
      resource,
      disabled: null,
      old_secret_until: null,
      behind: 0,
      failing_since: null,
    }
    reply.header('location', `/api/webhook-endpoints/${row.id}`)
    return reply.code(201).send({ ...endpointView(endpoint), secret })
  })
}

function readRoutes(app: TypedApp, db: WebhookEndpointOptions['db']): void {
  const list = {
    tags: TAGS,
    operationId: 'listWebhookEndpoints',
    summary: 'List all webhook endpoints, oldest first',
    response: {
      200: response(Type.Object({ data: Type.Array(EndpointRef) }), 'All endpoints'),
      ...problemResponses(400, 403),
    },
  }
  app.get('/api/webhook-endpoints', { config, schema: list }, async () => ({
    data: (await db.query(listSql)).map(endpointView),
  }))

  const get = {
    tags: TAGS,
    operationId: 'getWebhookEndpoint',
    summary: 'Get a webhook endpoint',
    params,
    response: { 200: response(EndpointRef, 'The endpoint'), ...problemResponses(400, 403, 404) },
  }
  app.get('/api/webhook-endpoints/:id', { config, schema: get }, async (request) => await find(db, request.params.id))
}

function changeRoutes(app: TypedApp, db: WebhookEndpointOptions['db']): void {
  const remove = {
    tags: TAGS,
    operationId: 'deleteWebhookEndpoint',
    summary: 'Delete a webhook endpoint',
    params: IdParams(WEBHOOK_SAMPLES.removable),
    response: { 200: response(EndpointRef, 'The deleted endpoint'), ...problemResponses(400, 403, 404) },
  }
  app.delete('/api/webhook-endpoints/:id', { config, schema: remove }, async (request) => {
    const { id } = request.params
    const [row] = await db.query(deleteSql, { id })
    if (!row) throw notFound(id)
    return endpointView(row)
  })

  app.post('/api/webhook-endpoints/:id/rotate', { config, schema: Rotate }, async (request) => {
    const { id } = request.params
    const { overlap_s = OVERLAP_S } = request.query
    const secret = newSecret()
    const [row] = await db.query(rotateSql, { id, secret, overlap_s })
    if (!row) throw notFound(id)
    return { ...endpointView(row), secret }
  })

  const enable = {
    tags: TAGS,
    operationId: 'enableWebhookEndpoint',
    summary: 'Re-enable an endpoint',
    description: 'Deliveries continue at once, after the last delivered event.',
    params,
    response: { 200: response(EndpointRef, 'Enabled'), ...problemResponses(400, 403, 404) },
  }
  app.post('/api/webhook-endpoints/:id/enable', { config, schema: enable }, async (request) => {
    await db.query(enableSql, request.params)
    return await find(db, request.params.id)
  })
}

const Rotate = {
  tags: TAGS,
  operationId: 'rotateWebhookSecret',
  summary: 'Rotate the secret of an endpoint',
  params,
  querystring: Type.Object(
    {
      overlap_s: Type.Optional(
        Type.Integer({
          minimum: 0,
          maximum: MAX_OVERLAP_S,
          default: OVERLAP_S,
          description:
            'Seconds for which deliveries are also signed with the previous secret; choose 0 if that secret has leaked',
        }),
      ),
    },
    { additionalProperties: false },
  ),
  response: { 200: response(WithSecret, 'The endpoint with its new secret'), ...problemResponses(400, 403, 404) },
}

function deliveryRoutes(app: TypedApp, db: WebhookEndpointOptions['db']): void {
  const schema = {
    tags: TAGS,
    operationId: 'listWebhookDeliveries',
    summary: 'List delivery attempts, newest first',
    params,
    querystring: pageQuery({ resource: Type.Optional(RefFilter) }),
    response: { 200: response(page(Delivery), 'One page'), ...problemResponses(400, 403, 404) },
  }
  app.get('/api/webhook-endpoints/:id/deliveries', { config, schema }, async (request) => {
    const { id } = request.params
    const { limit = 20, cursor, resource } = request.query
    const pageCursors = cursors('deliveries', { id, resource }, /^\d{1,15}$/)
    const before = Number(pageCursors.read(cursor) ?? Number.MAX_SAFE_INTEGER)
    const statement = resource === undefined ? deliveriesSql : deliveriesOfResourceSql
    const rows = await db.query(statement, { id, before, resource, limit: limit + 1 })
    if (rows.length === 0) await find(db, id)
    const view = (row: (typeof rows)[number]) => ({ ...row, created_at: iso(row.created_at) })
    return pageOf(rows, limit, view, (row) => pageCursors.write(String(row.id)))
  })
}

function replayRoute(app: TypedApp, db: WebhookEndpointOptions['db']): void {
  async function eventOf(id: string, delivery: number, { resource, sequence }: Type.Static<typeof Replay>) {
    if (resource !== undefined) throw fieldProblem('resource', 'must be absent beside delivery')
    if (sequence !== undefined) throw fieldProblem('sequence', 'must be absent beside delivery')
    const [row] = await db.query(eventSql, { id, delivery })
    if (!row) throw fieldProblem('delivery', 'is not a delivery of this endpoint')
    return row
  }

  const schema = {
    tags: TAGS,
    operationId: 'replayWebhooks',
    summary: 'Replay the events of a resource',
    description:
      'Delivers this event and all later events of the resource again, in order; events of types that the endpoint does not receive are left out.',
    params,
    body: Replay,
    response: { 202: response(EndpointRef, 'Scheduled'), ...problemResponses(400, 403, 404, notInLog(), 413, 415) },
  }
  app.post('/api/webhook-endpoints/:id/replay', { config, schema }, async (request, reply) => {
    const { id } = request.params
    const { body } = request
    await find(db, id)
    const { resource, sequence } = body.delivery === undefined ? body : await eventOf(id, body.delivery, body)
    if (resource === undefined) throw fieldProblem('resource', 'is missing')
    if (sequence === undefined) throw fieldProblem('sequence', 'is missing')
    const replayed = await db.query(replaySql, { id, resource, sequence })
    if (replayed.length === 0) throw notInLog()
    return reply.code(202).send(await find(db, id))
  })
}
