/**
 * Webhook endpoints, their secrets, delivery attempts and replays. Invariant: a secret is returned once, when it is created;
 * the API sends no webhook, the workers do.
 */

import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { type SQL, sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import ipaddr from 'ipaddr.js'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { REF_PATTERN } from '../../shared/domain/resource.ts'
import { EVENT_TYPES } from '../../shared/outbox.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { IdParams, Nullable, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'

/** Most endpoints: each one multiplies the deliveries of every event. */
const ENDPOINTS = 100
/** Bytes of a secret. */
const SECRET_BYTES = 32
/** Seconds for which the previous secret signs too: by default, and at most. */
const OVERLAP_S = 86_400
const MAX_OVERLAP_S = 604_800

/** Ids of the sample data; the sample endpoints are disabled, so that nothing is sent. */
export const WEBHOOK_SAMPLES = {
  endpoint: '01935f5e-0000-7000-8000-0000000000e1',
  removable: '01935f5e-0000-7000-8000-0000000000e2',
} as const

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
    Type.String({ format: 'date-time', description: 'Until then deliveries are signed with the previous secret too' }),
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
        description: 'Instead of resource and sequence: from the event of this delivery on',
      }),
    ),
  },
  { additionalProperties: false, examples: [{ resource: 'sample:1', sequence: 1 }] },
)

/** Times in the text form of Postgres. */
type Row = Type.Static<typeof EndpointSchema>

export interface WebhookEndpointOptions {
  client: Client
  /** allows private addresses, and URLs without TLS */
  allow_private: boolean
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

const COLUMNS = sql.raw(`w.id, w.url, w.events, w.resource_id AS resource, w.disabled_reason AS disabled, w.created_at,
  CASE WHEN w.previous_secret_expires_at > clock_timestamp() THEN w.previous_secret_expires_at END AS old_secret_until,
  (SELECT coalesce(sum(l.last_sequence - l.delivered_sequence), 0)::bigint FROM webhook_streams l WHERE l.endpoint_id = w.id) AS behind,
  (SELECT min(l.failing_since) FROM webhook_streams l WHERE l.endpoint_id = w.id) AS failing_since`)

const toResponse = (row: Row) => ({
  ...row,
  old_secret_until: row.old_secret_until && iso(row.old_secret_until),
  failing_since: row.failing_since && iso(row.failing_since),
  created_at: iso(row.created_at),
})

const newSecret = () => `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`
const notFound = (id: string) => new Problem(404, 'not_found', `There is no webhook endpoint ${id}.`)
const tooMany = () => new Problem(409, 'too_many_endpoints', `The limit of ${ENDPOINTS} endpoints is reached.`)
const notInLog = () => fieldProblem('sequence', 'is not a stored event of this resource', 409, 'not_kept')

/** The URL, normalized. Names are resolved and checked when the worker connects. @throws Problem naming what is wrong */
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

export async function webhookEndpointRoutes(instance: FastifyInstance, deps: WebhookEndpointOptions): Promise<void> {
  const { client, allow_private, viaBreaker } = deps
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const Ref = Type.Unsafe<Type.Static<typeof EndpointSchema>>(Type.Ref('WebhookEndpoint'))
  const common = { tags: ['webhooks'] }
  // Webhooks contain the customers of every caller.
  const admin = { admin: true }
  const ids = (id: string = WEBHOOK_SAMPLES.endpoint) => IdParams(id)
  const execute = <T>(statement: SQL) => viaBreaker(() => query<T>(client, statement))

  async function find(id: string) {
    const [row] = await execute<Row>(sql`SELECT ${COLUMNS} FROM webhook_endpoints w WHERE w.id = ${id}`)
    if (!row) throw notFound(id)
    return toResponse(row)
  }

  async function eventOf(id: string, delivery: number, { resource, sequence }: Type.Static<typeof Replay>) {
    if (resource !== undefined) throw fieldProblem('resource', 'must be absent beside delivery')
    if (sequence !== undefined) throw fieldProblem('sequence', 'must be absent beside delivery')
    const [row] = await execute<{ resource: string; sequence: number }>(
      sql`SELECT resource_id AS resource, sequence FROM webhook_deliveries WHERE endpoint_id = ${id} AND id = ${delivery}`,
    )
    if (!row) throw fieldProblem('delivery', 'is not a delivery of this endpoint')
    return row
  }

  app.post(
    '/api/webhook-endpoints',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'createWebhookEndpoint',
        summary: 'Create a webhook endpoint',
        description:
          'It receives events from now on, signed as in Standard Webhooks, at least once, in order of `sequence` per resource.',
        body: Definition,
        response: {
          201: response(WithSecret, 'Created', 'location'),
          ...problemResponses(400, 403, tooMany(), 413, 415),
        },
      },
    },
    async (request, reply) => {
      const { events = null, resource = null } = request.body
      const url = readUrl(request.body.url, allow_private)
      const secret = newSecret()
      const [row] = await execute<Row>(
        sql`INSERT INTO webhook_endpoints AS w (url, events, resource_id, secret, outbox_position)
            SELECT ${url}, ${events === null ? null : JSON.stringify(events)}::jsonb, ${resource}, ${secret},
                   (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_id_seq)
            WHERE (SELECT count(*) FROM webhook_endpoints) < ${ENDPOINTS}
            RETURNING ${COLUMNS}`,
      )
      if (!row) throw tooMany()
      reply.header('location', `/api/webhook-endpoints/${row.id}`)
      return reply.code(201).send({ ...toResponse(row), secret })
    },
  )

  app.get(
    '/api/webhook-endpoints',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'listWebhookEndpoints',
        summary: 'List all webhook endpoints, oldest first',
        response: {
          200: response(Type.Object({ data: Type.Array(Ref) }), 'All endpoints'),
          ...problemResponses(400, 403),
        },
      },
    },
    async () => {
      const rows = await execute<Row>(sql`SELECT ${COLUMNS} FROM webhook_endpoints w ORDER BY w.created_at, w.id`)
      return { data: rows.map(toResponse) }
    },
  )

  app.get(
    '/api/webhook-endpoints/:id',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'getWebhookEndpoint',
        summary: 'Get a webhook endpoint',
        params: ids(),
        response: { 200: response(Ref, 'The endpoint'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => await find(request.params.id),
  )

  app.delete(
    '/api/webhook-endpoints/:id',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'deleteWebhookEndpoint',
        summary: 'Delete a webhook endpoint',
        params: ids(WEBHOOK_SAMPLES.removable),
        response: { 200: response(Ref, 'The deleted endpoint'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const [row] = await execute<Row>(sql`DELETE FROM webhook_endpoints w WHERE w.id = ${id} RETURNING ${COLUMNS}`)
      if (!row) throw notFound(id)
      return toResponse(row)
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/rotate',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'rotateWebhookSecret',
        summary: 'Rotate the secret of an endpoint',
        params: ids(),
        querystring: Type.Object(
          {
            overlap_s: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: MAX_OVERLAP_S,
                default: OVERLAP_S,
                description: 'Seconds for which the previous secret signs too; 0 when it has leaked',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: response(WithSecret, 'The endpoint with its new secret'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const { overlap_s = OVERLAP_S } = request.query
      const secret = newSecret()
      const [row] = await execute<Row>(
        sql`UPDATE webhook_endpoints w
            SET secret = ${secret}, previous_secret = secret,
                previous_secret_expires_at = clock_timestamp() + ${overlap_s} * interval '1 second'
            WHERE w.id = ${id} RETURNING ${COLUMNS}`,
      )
      if (!row) throw notFound(id)
      return { ...toResponse(row), secret }
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/enable',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'enableWebhookEndpoint',
        summary: 'Re-enable an endpoint',
        description: 'Deliveries continue at once, after the last delivered event.',
        params: ids(),
        response: { 200: response(Ref, 'Enabled'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      await execute(
        sql`WITH e AS (UPDATE webhook_endpoints SET disabled_reason = NULL WHERE id = ${id} RETURNING id)
            UPDATE webhook_streams l SET attempts = 0, failing_since = NULL, next_attempt_at = clock_timestamp()
            FROM e WHERE l.endpoint_id = e.id`,
      )
      return await find(id)
    },
  )

  app.get(
    '/api/webhook-endpoints/:id/deliveries',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'listWebhookDeliveries',
        summary: 'List delivery attempts, newest first',
        params: ids(),
        querystring: pageQuery({ resource: Type.Optional(RefFilter) }),
        response: { 200: response(page(Delivery), 'One page'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const { limit = 20, cursor, resource } = request.query
      const pageCursors = cursors('deliveries', { id, resource }, /^\d{1,15}$/)
      const before = Number(pageCursors.read(cursor) ?? Number.MAX_SAFE_INTEGER)
      const only = resource === undefined ? sql`` : sql`AND resource_id = ${resource}`
      const rows = await execute<Type.Static<typeof Delivery>>(
        sql`SELECT id, event, type, resource_id AS resource, sequence, attempt, status, error, duration_ms, created_at
            FROM webhook_deliveries WHERE endpoint_id = ${id} AND id < ${before} ${only} ORDER BY id DESC LIMIT ${limit + 1}`,
      )
      if (rows.length === 0) await find(id)
      const data = rows.slice(0, limit).map((row) => ({ ...row, created_at: iso(row.created_at) }))
      return { data, next_cursor: rows.length > limit ? pageCursors.write(String(data.at(-1)?.id)) : null }
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/replay',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'replayWebhooks',
        summary: 'Replay the events of a resource',
        description:
          'Delivers this event and all later ones of the resource again, in order, of the types of the endpoint.',
        params: ids(),
        body: Replay,
        response: { 202: response(Ref, 'Scheduled'), ...problemResponses(400, 403, 404, notInLog(), 413, 415) },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const { body } = request
      await find(id)
      const { resource, sequence } = body.delivery === undefined ? body : await eventOf(id, body.delivery, body)
      if (resource === undefined) throw fieldProblem('resource', 'is missing')
      if (sequence === undefined) throw fieldProblem('sequence', 'is missing')
      const moved = await execute(
        sql`WITH first AS (
              SELECT id FROM outbox WHERE resource_id = ${resource} AND last_sequence >= ${sequence}
                AND last_sequence - cardinality(statuses) < ${sequence} ORDER BY id LIMIT 1
            )
            INSERT INTO webhook_streams AS l (endpoint_id, resource_id, outbox_id, delivered_sequence, last_sequence)
            SELECT w.id, ${resource}, f.id, ${sequence}::bigint - 1, h.last_sequence
            FROM webhook_endpoints w, first f, outbox_sequences h WHERE w.id = ${id} AND h.resource_id = ${resource} AND (w.resource_id IS NULL OR w.resource_id = ${resource})
            ON CONFLICT (endpoint_id, resource_id) DO UPDATE
            SET outbox_id = excluded.outbox_id, delivered_sequence = excluded.delivered_sequence,
                last_sequence = greatest(l.last_sequence, excluded.last_sequence), attempts = 0,
                failing_since = NULL, next_attempt_at = clock_timestamp()
            RETURNING 1`,
      )
      if (moved.length === 0) throw notInLog()
      return reply.code(202).send(await find(id))
    },
  )
}
