/**
 * Where webhooks go: endpoints, their secrets, what was tried, and telling again. Invariant: a secret is shown once, when it
 * is made; and nothing here sends anything, that is for the workers.
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
import { badField, Problem } from '../../shared/problem.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { IdParams, Nullable, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'

/** Endpoints that there may be: each is a copy of every event. */
const ENDPOINTS = 100
/** Bytes of a secret. */
const SECRET_BYTES = 32
/** Seconds that the old secret signs too, unless it is said, and at most. */
const OVERLAP_S = 86_400
const MAX_OVERLAP_S = 604_800

/** What the examples name; the samples are disabled, so that nobody is told of anything. */
export const WEBHOOK_SAMPLES = {
  endpoint: '01935f5e-0000-7000-8000-0000000000e1',
  removable: '01935f5e-0000-7000-8000-0000000000e2',
} as const

const EventType = Type.Unsafe<string>({ type: 'string', enum: EVENT_TYPES })
const RefFilter = Type.String({ pattern: REF_PATTERN, maxLength: 161 })

const Definition = Type.Object(
  {
    url: Type.String({ minLength: 1, maxLength: 2_000, description: 'https, without user and fragment' }),
    events: Type.Optional(
      Type.Array(EventType, { minItems: 1, maxItems: 50, uniqueItems: true, description: 'Types; absent: all' }),
    ),
    resource: Type.Optional(Type.String({ ...RefFilter, description: 'Only of this resource; absent: all' })),
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
  disabled: Nullable(Type.String({ description: 'Why nothing is sent any more; null: it is' })),
  old_secret_until: Nullable(Type.String({ format: 'date-time', description: 'Until then the old secret signs too' })),
  behind: Type.Integer({ description: 'Events that it is still to be told of' }),
  failing_since: Nullable(Type.String({ format: 'date-time', description: 'Of the event that fails for longest' })),
  created_at: Time,
}
const EndpointSchema = Type.Object(Endpoint, { $id: 'WebhookEndpoint' })
const WithSecret = Type.Object({
  ...Endpoint,
  secret: Type.String({ description: 'Shown this once; `whsec_` and base64, as Standard Webhooks has it' }),
})

const Delivery = Type.Object({
  id: Type.Integer(),
  event: Type.String({ description: 'The id of the event: the header webhook-id' }),
  type: Type.String(),
  resource: Type.String(),
  sequence: Type.Integer(),
  attempt: Type.Integer(),
  status: Nullable(Type.Integer({ description: 'What was answered; null: nothing' })),
  error: Nullable(Type.String()),
  duration_ms: Type.Integer(),
  created_at: Time,
})

const Replay = Type.Object(
  {
    resource: Type.Optional(RefFilter),
    sequence: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 53 - 1 })),
    delivery: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 2 ** 53 - 1, description: 'Instead: from the event of this delivery on' }),
    ),
  },
  { additionalProperties: false, examples: [{ resource: 'sample:1', sequence: 1 }] },
)

/** As Postgres writes its times. */
type Row = Type.Static<typeof EndpointSchema>

export interface WebhookEndpointDeps {
  client: Client
  /** also to addresses that are not public, and without TLS */
  webhooks_allow_private: boolean
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

const COLUMNS = sql.raw(`w.id, w.url, w.events, w.resource, w.disabled_reason AS disabled, w.created_at,
  CASE WHEN w.previous_secret_expires_at > clock_timestamp() THEN w.previous_secret_expires_at END AS old_secret_until,
  (SELECT coalesce(sum(l.last_sequence - l.delivered_sequence), 0)::bigint FROM webhook_streams l WHERE l.endpoint = w.id) AS behind,
  (SELECT min(l.failing_since) FROM webhook_streams l WHERE l.endpoint = w.id) AS failing_since`)

const present = (row: Row) => ({
  ...row,
  old_secret_until: row.old_secret_until && iso(row.old_secret_until),
  failing_since: row.failing_since && iso(row.failing_since),
  created_at: iso(row.created_at),
})

const newSecret = () => `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`
const notFound = (id: string) => new Problem(404, 'not_found', `There is no webhook endpoint ${id}.`)
const tooMany = () => new Problem(409, 'too_many_endpoints', `There are ${ENDPOINTS} endpoints, which is the limit.`)
const notInLog = () => badField('sequence', 'is not among the events that are kept of this resource', 409, 'not_kept')

/** The URL as it will be asked. @throws Problem: names are resolved, and looked at, when they are connected to */
function readUrl(text: string, allow_private: boolean): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !['https:', 'http:'].includes(url.protocol)) throw badField('url', 'must be a URL of https')
  if (url.username || url.password || url.hash) throw badField('url', 'must have no user, password or fragment')
  if (allow_private) return url.href
  if (url.protocol !== 'https:') throw badField('url', 'must begin with https://')
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const local = host === 'localhost' || host.endsWith('.localhost')
  if (local || (isIP(host) > 0 && ipaddr.parse(host).range() !== 'unicast')) {
    throw badField('url', 'must not lead to a private address', 400, 'private_address')
  }
  return url.href
}

export function webhookEndpointRoutes(instance: FastifyInstance, deps: WebhookEndpointDeps): void {
  const { client, webhooks_allow_private, guarded } = deps
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const Ref = Type.Unsafe<Type.Static<typeof EndpointSchema>>(Type.Ref('WebhookEndpoint'))
  app.addSchema(EndpointSchema)
  const common = { tags: ['webhooks'] }
  // They tell of everybody's customers, to whoever registers.
  const admin = { admin: true }
  const ids = (id: string = WEBHOOK_SAMPLES.endpoint) => IdParams(id)
  const ask = <T>(statement: SQL) => guarded(() => query<T>(client, statement))

  async function find(id: string) {
    const [row] = await ask<Row>(sql`SELECT ${COLUMNS} FROM webhook_endpoints w WHERE w.id = ${id}`)
    if (!row) throw notFound(id)
    return present(row)
  }

  async function eventOf(id: string, delivery: number, { resource, sequence }: Type.Static<typeof Replay>) {
    if (resource !== undefined) throw badField('resource', 'must be absent beside delivery')
    if (sequence !== undefined) throw badField('sequence', 'must be absent beside delivery')
    const [row] = await ask<{ resource: string; sequence: number }>(
      sql`SELECT resource, sequence FROM webhook_deliveries WHERE endpoint = ${id} AND id = ${delivery}`,
    )
    if (!row) throw badField('delivery', 'is none of this endpoint')
    return row
  }

  app.post(
    '/api/webhook-endpoints',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'createWebhookEndpoint',
        summary: 'Tell this URL of what changes from now on',
        description: 'Signed as Standard Webhooks has it, in order of each resource’s numbers, at least once.',
        body: Definition,
        response: {
          201: response(WithSecret, 'Registered', 'location'),
          ...problemResponses(400, 403, tooMany(), 413, 415),
        },
      },
    },
    async (request, reply) => {
      const { events = null, resource = null } = request.body
      const url = readUrl(request.body.url, webhooks_allow_private)
      const secret = newSecret()
      const [row] = await ask<Row>(
        sql`INSERT INTO webhook_endpoints AS w (url, events, resource, secret, outbox_position)
            SELECT ${url}, ${events === null ? null : JSON.stringify(events)}::jsonb, ${resource}, ${secret},
                   (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_id_seq)
            WHERE (SELECT count(*) FROM webhook_endpoints) < ${ENDPOINTS}
            RETURNING ${COLUMNS}`,
      )
      if (!row) throw tooMany()
      reply.header('location', `/api/webhook-endpoints/${row.id}`)
      return reply.code(201).send({ ...present(row), secret })
    },
  )

  app.get(
    '/api/webhook-endpoints',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'listWebhookEndpoints',
        summary: 'All endpoints, the newest last',
        response: {
          200: response(Type.Object({ data: Type.Array(Ref) }), 'All of them'),
          ...problemResponses(400, 403),
        },
      },
    },
    async () => {
      const rows = await ask<Row>(sql`SELECT ${COLUMNS} FROM webhook_endpoints w ORDER BY w.created_at, w.id`)
      return { data: rows.map(present) }
    },
  )

  app.get(
    '/api/webhook-endpoints/:id',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'getWebhookEndpoint',
        summary: 'An endpoint, and how far behind it is',
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
        summary: 'Tell it of nothing more, and forget it',
        params: ids(WEBHOOK_SAMPLES.removable),
        response: { 200: response(Ref, 'The endpoint as it was'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const [row] = await ask<Row>(sql`DELETE FROM webhook_endpoints w WHERE w.id = ${id} RETURNING ${COLUMNS}`)
      if (!row) throw notFound(id)
      return present(row)
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/rotate',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'rotateWebhookSecret',
        summary: 'A new secret; the old one signs too for a while',
        params: ids(),
        querystring: Type.Object(
          {
            overlap_s: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: MAX_OVERLAP_S,
                default: OVERLAP_S,
                description: 'Seconds that the old one signs too; 0 when it has leaked',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: response(WithSecret, 'With its new secret'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const { overlap_s = OVERLAP_S } = request.query
      const secret = newSecret()
      const [row] = await ask<Row>(
        sql`UPDATE webhook_endpoints w
            SET secret = ${secret}, previous_secret = secret,
                previous_secret_expires_at = clock_timestamp() + ${overlap_s} * interval '1 second'
            WHERE w.id = ${id} RETURNING ${COLUMNS}`,
      )
      if (!row) throw notFound(id)
      return { ...present(row), secret }
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/enable',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'enableWebhookEndpoint',
        summary: 'Go on where it was disabled, at once',
        params: ids(),
        response: { 200: response(Ref, 'It is told again'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      await ask(
        sql`WITH e AS (UPDATE webhook_endpoints SET disabled_reason = NULL WHERE id = ${id} RETURNING id)
            UPDATE webhook_streams l SET attempts = 0, failing_since = NULL, next_attempt_at = clock_timestamp()
            FROM e WHERE l.endpoint = e.id`,
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
        summary: 'What was tried, newest first',
        params: ids(),
        querystring: pageQuery({ resource: Type.Optional(RefFilter) }),
        response: { 200: response(page(Delivery), 'One page'), ...problemResponses(400, 403, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const { limit = 20, cursor, resource } = request.query
      const places = cursors('deliveries', { id, resource }, /^\d{1,15}$/)
      const before = Number(places.read(cursor) ?? Number.MAX_SAFE_INTEGER)
      const only = resource === undefined ? sql`` : sql`AND resource = ${resource}`
      const rows = await ask<Type.Static<typeof Delivery>>(
        sql`SELECT id, event, type, resource, sequence, attempt, status, error, duration_ms, created_at
            FROM webhook_deliveries WHERE endpoint = ${id} AND id < ${before} ${only} ORDER BY id DESC LIMIT ${limit + 1}`,
      )
      if (rows.length === 0) await find(id)
      const data = rows.slice(0, limit).map((row) => ({ ...row, created_at: iso(row.created_at) }))
      return { data, next_cursor: rows.length > limit ? places.write(String(data.at(-1)?.id)) : null }
    },
  )

  app.post(
    '/api/webhook-endpoints/:id/replay',
    {
      config: admin,
      schema: {
        ...common,
        operationId: 'replayWebhooks',
        summary: 'Tell again, from this event of a resource on',
        description: 'In order, and all that came after it, of the types that the endpoint wants.',
        params: ids(),
        body: Replay,
        response: { 202: response(Ref, 'It will be told'), ...problemResponses(400, 403, 404, notInLog(), 413, 415) },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const { body } = request
      await find(id)
      const { resource, sequence } = body.delivery === undefined ? body : await eventOf(id, body.delivery, body)
      if (resource === undefined) throw badField('resource', 'is missing')
      if (sequence === undefined) throw badField('sequence', 'is missing')
      const moved = await ask(
        sql`WITH first AS (
              SELECT id FROM outbox WHERE resource = ${resource} AND last_sequence >= ${sequence}
                AND last_sequence - cardinality(statuses) < ${sequence} ORDER BY id LIMIT 1
            )
            INSERT INTO webhook_streams AS l (endpoint, resource, outbox_id, delivered_sequence, last_sequence)
            SELECT w.id, ${resource}, f.id, ${sequence}::bigint - 1, h.last_sequence
            FROM webhook_endpoints w, first f, outbox_sequences h WHERE w.id = ${id} AND h.resource = ${resource} AND (w.resource IS NULL OR w.resource = ${resource})
            ON CONFLICT (endpoint, resource) DO UPDATE
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
