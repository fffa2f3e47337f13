/**
 * Resources and their ledger. Invariant: every change of a total writes its ledger entry in the same transaction.
 * Definitions change by version (If-Match, without a lease); stock changes under the resource's lease and fencing token.
 */

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { type SQL, sql } from 'drizzle-orm'
import type { FastifyInstance, FastifyReply } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, type Transaction, transaction } from '../../shared/db/client.ts'
import { constraintOf, sqlState } from '../../shared/db/errors.ts'
import { isCurrency, sameCurrency } from '../../shared/domain/currency.ts'
import { isAccount, REF_PATTERN } from '../../shared/domain/resource.ts'
import type { Locks } from '../../shared/locks/api.ts'
import { fieldProblem, Problem, reusedKey } from '../../shared/problem.ts'
import { idempotencyKey, idempotencyScope, ifMatch } from '../http/headers.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { CURRENCY_PATTERN, Nullable, PLAIN_TEXT, Ref, ResourceParams, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'

/** Largest stock and price: with MAX_UNITS, the amount of every cart that can be sold stays an exact number. */
const MAX_TOTAL = 1_000_000_000_000
const MAX_PRICE = 1_000_000_000_000

const Price = Type.Object(
  {
    amount: Type.Integer({ minimum: 0, maximum: MAX_PRICE, description: 'In minor units: 99900 is 999.00' }),
    currency: Type.String({
      pattern: CURRENCY_PATTERN,
      description: 'ISO 4217, with a minor unit. Fixed once the ledger has an entry',
    }),
  },
  { additionalProperties: false },
)
const Name = Type.String({ minLength: 1, maxLength: 200, format: PLAIN_TEXT })
const Units = Type.Object(
  {
    name: Name,
    kind: Type.Literal('units'),
    total: Type.Integer({ minimum: 0, maximum: MAX_TOTAL }),
    price: Price,
    max_per_customer: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: MAX_TOTAL,
        description: 'Most units that one customer may have, held ones included',
      }),
    ),
  },
  { additionalProperties: false },
)
const Calendar = Type.Object(
  { name: Name, kind: Type.Literal('calendar'), price: Type.Optional(Price) },
  { additionalProperties: false },
)
const Definition = Type.Unsafe<Type.Static<typeof Units> | Type.Static<typeof Calendar>>({
  type: 'object',
  discriminator: { propertyName: 'kind' },
  required: ['kind'],
  oneOf: [Units, Calendar],
  examples: [
    { name: 'Noise-cancelling headphones', kind: 'units', total: 50, price: { amount: 19900, currency: 'USD' } },
  ],
})

export const ResourceSchema = Type.Object(
  {
    resource: Ref(['product:1']),
    type: Type.String(),
    id: Type.String(),
    name: Type.String(),
    kind: Type.Enum(['units', 'calendar']),
    total: Type.Integer(),
    available: Type.Integer(),
    held: Type.Integer(),
    sold: Type.Integer(),
    price: Type.Object({ amount: Type.Integer(), currency: Type.String() }),
    max_per_customer: Nullable(Type.Integer({ description: 'null: no limit' })),
    version: Type.Integer({ description: 'Also the ETag' }),
    created_at: Time,
    updated_at: Time,
  },
  {
    $id: 'Resource',
    examples: [
      {
        resource: 'product:1',
        type: 'product',
        id: '1',
        name: 'iPhone 15',
        kind: 'units',
        total: 10,
        available: 7,
        held: 1,
        sold: 2,
        price: { amount: 99_900, currency: 'USD' },
        max_per_customer: null,
        version: 1,
        created_at: '2026-11-21T10:00:00.000Z',
        updated_at: '2026-11-21T10:00:00.000Z',
      },
    ],
  },
)
const MovementSchema = Type.Object({
  id: Type.Integer(),
  resource: Type.String(),
  purchase: Nullable(Type.String()),
  booking: Nullable(Type.String()),
  delta: Type.Integer(),
  reason: Type.String(),
  fencing_token: Nullable(Type.Integer()),
  created_at: Time,
})

interface Row {
  id: string
  kind: 'units' | 'calendar'
  name: string
  total: number
  available: number
  held: number
  overdue: number
  price: number
  currency: string
  max_per_customer: number | null
  version: number
  created_at: string
  updated_at: string
}

/** Units of overdue holds count as available, whether or not the sweeper has written them. */
const SELECT = sql.raw(`
  SELECT r.id, r.kind, r.name, r.total, r.available, r.held, r.price, r.currency, r.max_per_customer, r.version, r.created_at,
         r.updated_at, coalesce(o.units, 0)::bigint AS overdue
  FROM resources r LEFT JOIN LATERAL (
    SELECT sum(u.units) AS units FROM purchases p CROSS JOIN LATERAL (
      SELECT (l ->> 'units')::bigint AS units FROM jsonb_array_elements(p.items) l WHERE l ->> 'resource' = r.id
      UNION ALL SELECT p.amount WHERE p.payment ->> 'account' = r.id
    ) u
    WHERE p.status = 'held' AND p.expires_at <= clock_timestamp()
      AND (p.items @> jsonb_build_array(jsonb_build_object('resource', r.id)) OR p.payment ->> 'account' = r.id)
  ) o ON r.held > 0`)

function toResponse(row: Row): Type.Static<typeof ResourceSchema> {
  const [type = '', id = ''] = row.id.split(/:(.*)/s)
  const held = row.held - row.overdue
  const available = row.available + row.overdue
  return {
    resource: row.id,
    type,
    id,
    name: row.name,
    kind: row.kind,
    total: row.total,
    available,
    held,
    sold: row.total - available - held,
    price: { amount: row.price, currency: row.currency },
    max_per_customer: row.max_per_customer,
    version: row.version,
    created_at: iso(row.created_at),
    updated_at: iso(row.updated_at),
  }
}

/** Resources (alias `r`) by a WHERE clause with its ORDER BY and LIMIT. */
export const readResources = async (client: Client | Transaction, where: SQL) =>
  (await query<Row>(client, sql`${SELECT} ${where}`)).map(toResponse)

async function readResource(client: Client | Transaction, ref: string) {
  const [resource] = await readResources(client, sql`WHERE r.id = ${ref}`)
  return resource
}

export interface ResourceOptions {
  client: Client
  locks: Locks
  /** counts a write of a superseded holder that was refused */
  onStaleWrite(): void
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

const send = (reply: FastifyReply, resource: Type.Static<typeof ResourceSchema>, status = 200) =>
  reply.code(status).header('etag', `"${resource.version}"`).send(resource)

const tooSmall = (least: number) =>
  fieldProblem('total', `cannot be below the ${least} units sold and held`, 409, 'total_too_small')
const tooMany = () => fieldProblem('delta', 'would remove more units than are available', 409, 'insufficient_available')
const currencyFixed = (ref: string) =>
  fieldProblem(
    'price.currency',
    `of ${ref} is fixed: its ledger has an entry, or a purchase or booking in it is open`,
    409,
    'currency_fixed',
  )
const accountAsCalendar = () =>
  fieldProblem('kind', 'of an account must be units: its units are money', 422, 'wrong_kind')
const notFound = (ref: string) => new Problem(404, 'not_found', `There is no resource ${ref}.`)

export async function resourceRoutes(instance: FastifyInstance, deps: ResourceOptions): Promise<void> {
  const { client, locks, onStaleWrite, viaBreaker } = deps
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const Resource = Type.Unsafe<Type.Static<typeof ResourceSchema>>(Type.Ref('Resource'))
  const tags = ['resources']
  const refOf = ({ type, id }: Type.Static<typeof ResourceParams>) => `${type}:${id}`

  /** One transaction behind the breaker: after its timeout the caller gets 503, and nothing is committed later. */
  const inTransaction = <T>(body: (tx: Transaction) => Promise<T>): Promise<T> =>
    viaBreaker((signal) => transaction(client, signal, body))

  app.put(
    '/api/resources/:type/:id',
    {
      schema: {
        operationId: 'putResource',
        tags,
        summary: 'Create or replace a resource',
        description: 'Creating needs no If-Match. Replacing requires the ETag of the replaced version in If-Match.',
        params: Type.Object({
          type: ResourceParams.properties.type,
          id: Type.String({ ...ResourceParams.properties.id, examples: ['headphones'] }),
        }),
        headers: Type.Object({ 'if-match': Type.Optional(Type.String()) }),
        body: Definition,
        response: {
          200: response(Resource, 'Replaced', 'etag'),
          201: response(Resource, 'Created', 'etag', 'location'),
          ...problemResponses(400, tooSmall(2), 412, 413, 415, accountAsCalendar(), 428),
        },
      },
    },
    async (request, reply) => {
      const ref = refOf(request.params)
      const match = ifMatch(request)
      const { name, kind } = request.body
      const total = request.body.kind === 'units' ? request.body.total : 0
      const limit = request.body.kind === 'units' ? (request.body.max_per_customer ?? null) : null
      if (isAccount(ref) && kind === 'calendar') throw accountAsCalendar()
      const { created, resource } = await inTransaction(async (tx) => {
        const [old] = await query<
          Pick<Row, 'kind' | 'version' | 'total' | 'available' | 'currency' | 'max_per_customer'>
        >(
          tx,
          sql`SELECT kind, version, total, available, currency, max_per_customer FROM resources
              WHERE id = ${ref} FOR NO KEY UPDATE`,
        )
        const { amount, currency } = request.body.price ?? { amount: 0, currency: old?.currency ?? 'USD' }
        // A resource keeps its currency, even if ISO 4217 has withdrawn it since.
        if (!isCurrency(currency) && !(old && sameCurrency(old.currency, currency))) {
          throw fieldProblem('price.currency', 'must be a currency of ISO 4217 with a minor unit, for example USD')
        }
        if (!old) {
          if (match !== undefined) throw new Problem(412, 'stale_version', `There is no resource ${ref} to replace.`)
          const made = await query(
            tx,
            sql`INSERT INTO resources (id, kind, name, total, available, price, currency, max_per_customer, limit_set_at)
                  VALUES (${ref}, ${kind}, ${name}, ${total}, ${total}, ${amount}, ${currency}, ${limit},
                          ${limit === null ? null : sql`now()`})
                  ON CONFLICT DO NOTHING RETURNING id`,
          )
          if (made.length === 0)
            throw new Problem(
              428,
              'if_match_required',
              `${ref} has just been created: send its ETag in If-Match to replace it.`,
            )
        } else {
          if (match === undefined) {
            throw new Problem(428, 'if_match_required', `${ref} exists: send its ETag in If-Match to replace it.`, {
              version: old.version,
            })
          }
          if (match !== '*' && !match.has(old.version)) {
            throw new Problem(412, 'stale_version', `${ref} is at version ${old.version}.`, { version: old.version })
          }
          if (old.kind !== kind)
            throw fieldProblem('kind', `of ${ref} is ${old.kind} and cannot change`, 409, 'wrong_kind')
          const available = old.available + total - old.total
          if (available < 0) {
            const least = old.total - old.available
            throw tooSmall(least)
          }
          await query(
            tx,
            sql`UPDATE resources SET name = ${name}, total = ${total}, available = ${available}, price = ${amount},
                         currency = ${currency}, version = version + 1, updated_at = now(),
                         max_per_customer = ${limit},
                         limit_set_at = CASE WHEN ${limit}::bigint = max_per_customer THEN limit_set_at
                                           WHEN ${limit}::bigint > 0 THEN clock_timestamp() END
                  WHERE id = ${ref} AND version = ${old.version}`,
          )
        }
        // The row lock blocks settlements of this resource until the units are counted.
        if (old && limit !== null && old.max_per_customer === null) await countCustomers(tx, ref)
        const delta = total - (old?.total ?? 0)
        if (delta !== 0) {
          await query(
            tx,
            sql`INSERT INTO ledger_entries (resource_id, delta, reason)
                  VALUES (${ref}, ${delta}, ${old ? 'replaced' : 'created'})`,
          )
        }
        return { created: !old, resource: await readResource(tx, ref) }
      }).catch((error) => {
        throw constraintOf(error) === 'resources_currency_fixed' ? currencyFixed(ref) : error
      })
      if (!resource) throw notFound(ref)
      if (created) reply.header('location', `/api/resources/${request.params.type}/${request.params.id}`)
      return send(reply, resource, created ? 201 : 200)
    },
  )

  app.get(
    '/api/resources/:type/:id',
    {
      schema: {
        operationId: 'getResource',
        tags,
        summary: 'Get a resource with its available, held and sold units',
        params: ResourceParams,
        response: { 200: response(Resource, 'The resource', 'etag'), ...problemResponses(400, 404) },
      },
    },
    async (request, reply) => {
      const ref = refOf(request.params)
      const resource = await viaBreaker(() => readResource(client, ref))
      if (!resource) throw notFound(ref)
      return send(reply, resource)
    },
  )

  app.get(
    '/api/resources',
    {
      schema: {
        operationId: 'listResources',
        tags,
        summary: 'List resources by reference',
        querystring: pageQuery({ type: Type.Optional(ResourceParams.properties.type) }),
        response: { 200: response(page(Resource), 'One page'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { type, limit = 20, cursor } = request.query
      const start = type === undefined ? '' : `${type}:`
      const pageCursors = cursors('resources', { type }, new RegExp(REF_PATTERN))
      const after = pageCursors.read(cursor) ?? start
      // ';' is the character after ':', so this is every reference that starts with `type:`.
      const until = type === undefined ? sql`` : sql`AND r.id < ${`${type};`}`
      const rows = await viaBreaker(() =>
        readResources(client, sql`WHERE r.id > ${after} ${until} ORDER BY r.id LIMIT ${limit + 1}`),
      )
      const data = rows.slice(0, limit)
      return { data, next_cursor: rows.length > limit ? pageCursors.write(data.at(-1)?.resource ?? '') : null }
    },
  )

  app.post(
    '/api/resources/:type/:id/restock',
    {
      schema: {
        operationId: 'restockResource',
        tags,
        summary: 'Add units, or remove unsold ones, through the ledger',
        params: ResourceParams,
        headers: Type.Object({ 'idempotency-key': Type.Optional(Type.String()) }),
        body: Type.Object(
          {
            delta: Type.Integer({ minimum: -MAX_TOTAL, maximum: MAX_TOTAL, not: { const: 0 } }),
            reason: Type.String({ minLength: 1, maxLength: 200, format: PLAIN_TEXT }),
          },
          { additionalProperties: false, examples: [{ delta: 5, reason: 'delivery' }] },
        ),
        response: {
          200: response(Resource, 'The resource with its new stock', 'etag', 'idempotent-replayed'),
          ...problemResponses(400, 404, tooMany(), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const ref = refOf(request.params)
      const { delta, reason } = request.body
      const key = idempotencyKey(request)
      const scope = idempotencyScope(request, `restock ${ref}`)
      const [found] = await viaBreaker(() =>
        query<{ kind: string; fencing_token: number }>(
          client,
          sql`SELECT kind, fencing_token FROM resources WHERE id = ${ref}`,
        ),
      )
      if (!found) throw notFound(ref)
      if (found.kind !== 'units') throw fieldProblem('delta', `does not apply: ${ref} is a calendar`, 409, 'wrong_kind')
      const options = { wait_ms: RESTOCK_WAIT_MS, above: found.fencing_token }
      await using lease = await onLockServer(() => locks.acquire(ref, options))
      const { token } = lease
      const { replayed, resource } = await inTransaction(async (tx) => {
        const [own] = await query(
          tx,
          // The row lock first: a batch with an older token may be committing, and its entries precede this one.
          sql`WITH locked AS MATERIALIZED (SELECT id FROM resources WHERE id = ${ref} FOR NO KEY UPDATE)
                INSERT INTO ledger_entries (resource_id, delta, reason, fencing_token, idempotency_key, idempotency_scope)
                SELECT id, ${delta}::bigint, ${reason}, ${token}::bigint, ${key}, ${scope} FROM locked
                ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
                RETURNING id`,
        )
        if (!own) {
          const [first] = await query<{ delta: number; reason: string }>(
            tx,
            sql`SELECT delta, reason FROM ledger_entries WHERE idempotency_key = ${key} AND idempotency_scope = ${scope}`,
          )
          if (first?.delta !== delta || first.reason !== reason) throw reusedKey()
          return { replayed: true, resource: await readResource(tx, ref) }
        }
        const [row] = await query<{ total: number }>(
          tx,
          sql`UPDATE resources SET fencing_token = ${token}, total = total + ${delta}, available = available + ${delta},
                       version = version + 1, updated_at = now()
                WHERE id = ${ref} AND fencing_token <= ${token} RETURNING total`,
        )
        if (!row) {
          onStaleWrite()
          throw new Problem(409, 'stale_lease', `A newer lock holder has written ${ref}.`, { retry_after: 1 })
        }
        if (row.total > MAX_TOTAL) {
          throw fieldProblem('delta', `would make the total more than ${MAX_TOTAL}`, 409, 'total_too_large')
        }
        return { replayed: false, resource: await readResource(tx, ref) }
      }).catch((error) => {
        if (sqlState(error) !== '23514') throw error
        throw tooMany()
      })
      if (!resource) throw notFound(ref)
      if (replayed) reply.header('idempotent-replayed', 'true')
      return send(reply, resource)
    },
  )

  app.get(
    '/api/resources/:type/:id/movements',
    {
      schema: {
        operationId: 'listMovements',
        tags,
        summary: 'List the ledger of a resource, newest first',
        params: ResourceParams,
        querystring: pageQuery({}),
        response: { 200: response(page(MovementSchema), 'One page'), ...problemResponses(400, 404) },
      },
    },
    async (request) => {
      const ref = refOf(request.params)
      const { limit = 20, cursor } = request.query
      const pageCursors = cursors('movements', { ref }, /^\d{1,15}$/)
      const before = Number(pageCursors.read(cursor) ?? Number.MAX_SAFE_INTEGER)
      const rows = await viaBreaker(() =>
        query<Type.Static<typeof MovementSchema>>(
          client,
          sql`SELECT id, resource_id AS resource, purchase_id AS purchase, booking_id AS booking, delta, reason, fencing_token, created_at FROM ledger_entries
              WHERE resource_id = ${ref} AND id < ${before} ORDER BY id DESC LIMIT ${limit + 1}`,
        ),
      )
      if (rows.length === 0 && !(await viaBreaker(() => readResource(client, ref)))) throw notFound(ref)
      const data = rows.slice(0, limit).map((row) => ({ ...row, created_at: iso(row.created_at) }))
      return { data, next_cursor: rows.length > limit ? pageCursors.write(String(data.at(-1)?.id)) : null }
    },
  )
}

/** Counts the units of each customer when a resource gets a limit: without one they are not counted. */
async function countCustomers(tx: Transaction, ref: string): Promise<void> {
  await query(tx, sql`DELETE FROM customer_holdings WHERE resource_id = ${ref}`)
  await query(
    tx,
    sql`INSERT INTO customer_holdings (resource_id, customer, units)
        SELECT ${ref}, p.customer, -sum(m.delta) FROM ledger_entries m JOIN purchases p ON p.id = m.purchase_id
        WHERE m.resource_id = ${ref} GROUP BY p.customer HAVING sum(m.delta) < 0`,
  )
}

/** Milliseconds a restock waits for the resource's lease: a worker releases a queue's lease after a quarter of a second. */
const RESTOCK_WAIT_MS = 5_000
