/**
 * Resources and their ledger. Invariant: every change of a total writes its ledger entry in the same transaction.
 * Definitions change by version (If-Match, without a lease); stock changes in restock.ts.
 */
import { and, eq, lt, sql } from 'drizzle-orm'
import Type from 'typebox'
import type { Transaction } from '../../shared/db/client.ts'
import { constraintOf } from '../../shared/db/errors.ts'
import { customerHoldings, ledgerEntries, purchases, resources } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'
import { isCurrency, sameCurrency } from '../../shared/domain/currency.ts'
import { isAccount, REF_PATTERN } from '../../shared/domain/resource.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { ifMatch } from '../http/headers.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { CURRENCY_PATTERN, MAX_TOTAL, PLAIN_TEXT, ResourceParams, refOf } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  ResourceRef,
  resourceById,
  resourceNotFound,
  resourceView,
  selectResources,
  sendResource,
} from './resource-view.ts'

const TAGS = ['resources']
const MAX_PRICE = 1_000_000_000_000

const Price = Type.Object(
  {
    amount: Type.Integer({ minimum: 0, maximum: MAX_PRICE, description: 'In minor units: 99900 is 999.00' }),
    currency: Type.String({
      pattern: CURRENCY_PATTERN,
      description: 'A currency of ISO 4217 with a minor unit. It cannot change once the ledger has an entry',
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
        description: 'Maximum number of units that one customer may have, held units included',
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

const tooSmall = (least: number) =>
  fieldProblem('total', `cannot be below the ${least} units sold and held`, 409, 'total_too_small')
const currencyFixed = (ref: string) =>
  fieldProblem(
    'price.currency',
    `of ${ref} is fixed: its ledger has an entry, or a purchase or booking in it is open`,
    409,
    'currency_fixed',
  )
const accountAsCalendar = () =>
  fieldProblem('kind', 'of an account must be units: its units are money', 422, 'wrong_kind')

export interface ResourceOptions {
  db: Database
}

export async function resourceRoutes(app: TypedApp, { db }: ResourceOptions): Promise<void> {
  putRoute(app, db)
  getRoute(app, db)
  listRoute(app, db)
}

const Put = {
  operationId: 'putResource',
  tags: TAGS,
  summary: 'Create or replace a resource',
  description: 'Creating needs no If-Match. Replacing requires the ETag of the replaced version in If-Match.',
  params: Type.Object({
    type: ResourceParams.properties.type,
    id: Type.String({ ...ResourceParams.properties.id, examples: ['headphones'] }),
  }),
  headers: Type.Object({ 'if-match': Type.Optional(Type.String()) }),
  body: Definition,
  response: {
    200: response(ResourceRef, 'Replaced', 'etag'),
    201: response(ResourceRef, 'Created', 'etag', 'location'),
    ...problemResponses(400, tooSmall(2), 412, 413, 415, accountAsCalendar(), 428),
  },
}

function putRoute(app: TypedApp, db: Database): void {
  app.put('/api/resources/:type/:id', { schema: Put }, async (request, reply) => {
    const id = refOf(request.params)
    const match = ifMatch(request)
    const { kind } = request.body
    if (isAccount(id) && kind === 'calendar') throw accountAsCalendar()
    const { created, resource } = await db
      .transaction(async (tx) => {
        const [old] = await lockSql(tx, { id })
        const definition = definitionOf(id, request.body, old)
        if (old) await replace(tx, definition, old, match)
        else await create(tx, definition, match)
        const delta = definition.total - (old?.total ?? 0)
        if (delta !== 0) await ledgerSql(tx, { id, delta, reason: old ? 'replaced' : 'created' })
        const [resource] = await resourceById(tx, { id })
        return { created: !old, resource }
      })
      .catch((error) => {
        throw constraintOf(error) === 'resources_currency_fixed' ? currencyFixed(id) : error
      })
    if (!resource) throw resourceNotFound(id)
    if (created) reply.header('location', `/api/resources/${request.params.type}/${request.params.id}`)
    return sendResource(reply, resource, created ? 201 : 200)
  })
}

const { id } = resources
const lockSql = prepare(
  build
    .select({
      kind: resources.kind,
      version: resources.version,
      total: resources.total,
      available: resources.available,
      currency: resources.currency,
      max_per_customer: resources.max_per_customer,
    })
    .from(resources)
    .where(eq(id, value('id')))
    .for('no key update'),
)
type OldDefinition = Awaited<ReturnType<typeof lockSql>>[number]

const limit = sql`${value('limit')}::bigint`
const insertSql = prepare(
  build
    .insert(resources)
    .values({
      id: value('id'),
      kind: sql`${value('kind')}`,
      name: value('name'),
      total: value('total'),
      available: value('total'),
      price: value('amount'),
      currency: value('currency'),
      max_per_customer: limit,
      limit_set_at: sql`CASE WHEN ${limit} IS NOT NULL THEN now() END`,
    })
    .onConflictDoNothing()
    .returning({ id }),
)
const updateSql = prepare(
  build
    .update(resources)
    .set({
      name: sql`${value('name')}`,
      total: sql`${value('total')}`,
      available: sql`${value('available')}`,
      price: sql`${value('amount')}`,
      currency: sql`${value('currency')}`,
      version: sql`${resources.version} + 1`,
      updated_at: sql`now()`,
      max_per_customer: limit,
      limit_set_at: sql`CASE WHEN ${limit} = ${resources.max_per_customer} THEN ${resources.limit_set_at}
        WHEN ${limit} > 0 THEN clock_timestamp() END`,
    })
    .where(and(eq(id, value('id')), eq(resources.version, value('version')))),
)
const ledgerSql = prepare(
  build.insert(ledgerEntries).values({ resource_id: value('id'), delta: value('delta'), reason: value('reason') }),
)

interface NewDefinition {
  id: string
  kind: 'units' | 'calendar'
  name: string
  total: number
  /** the price, in minor units */
  amount: number
  currency: string
  /** maximum number of units that one customer may have; null: no limit */
  limit: number | null
}

/** Converts the body to the columns of a resource. @throws Problem 400 for a currency that a price cannot have */
function definitionOf(id: string, body: Type.Static<typeof Definition>, old: OldDefinition | undefined): NewDefinition {
  const { amount, currency } = body.price ?? { amount: 0, currency: old?.currency ?? 'USD' }
  // A resource keeps its currency, even if ISO 4217 has withdrawn it since.
  if (!isCurrency(currency) && !(old && sameCurrency(old.currency, currency))) {
    throw fieldProblem('price.currency', 'must be a currency of ISO 4217 with a minor unit, for example USD')
  }
  const { total, limit } =
    body.kind === 'units' ? { total: body.total, limit: body.max_per_customer ?? null } : { total: 0, limit: null }
  return { id, kind: body.kind, name: body.name, total, amount, currency, limit }
}

async function create(tx: Transaction, definition: NewDefinition, match: ReturnType<typeof ifMatch>): Promise<void> {
  const { id } = definition
  if (match !== undefined) throw new Problem(412, 'stale_version', `There is no resource ${id} to replace.`)
  if ((await insertSql(tx, { ...definition })).length > 0) return
  const detail = `${id} has just been created: send its ETag in If-Match to replace it.`
  throw new Problem(428, 'if_match_required', detail)
}

async function replace(
  tx: Transaction,
  definition: NewDefinition,
  old: OldDefinition,
  match: ReturnType<typeof ifMatch>,
): Promise<void> {
  const { id, kind, total, limit } = definition
  const { version } = old
  if (match === undefined) {
    const detail = `${id} exists: send its ETag in If-Match to replace it.`
    throw new Problem(428, 'if_match_required', detail, { version })
  }
  if (match !== '*' && !match.has(version)) {
    throw new Problem(412, 'stale_version', `${id} is at version ${version}.`, { version })
  }
  if (old.kind !== kind) throw fieldProblem('kind', `of ${id} is ${old.kind} and cannot change`, 409, 'wrong_kind')
  const available = old.available + total - old.total
  if (available < 0) throw tooSmall(old.total - old.available)
  await updateSql(tx, { ...definition, available, version })
  // The row lock, which this transaction holds, blocks settlements of this resource until the units are counted.
  if (limit !== null && old.max_per_customer === null) await countCustomers(tx, id)
}

const forgetHoldingsSql = prepare(build.delete(customerHoldings).where(eq(customerHoldings.resource_id, value('id'))))
const countHoldingsSql = prepare(
  insertFrom(
    customerHoldings,
    build
      .select({
        resource_id: ledgerEntries.resource_id,
        customer: purchases.customer,
        units: sql`-sum(${ledgerEntries.delta})`.as('units'),
      })
      .from(ledgerEntries)
      .innerJoin(purchases, eq(purchases.id, ledgerEntries.purchase_id))
      .where(eq(ledgerEntries.resource_id, value('id')))
      .groupBy(ledgerEntries.resource_id, purchases.customer)
      .having(lt(sql`sum(${ledgerEntries.delta})`, sql`0`)),
  ),
)

/** Counts the units of each customer when a resource gets a limit: workers do not count them while there is no limit. */
async function countCustomers(tx: Transaction, id: string): Promise<void> {
  await forgetHoldingsSql(tx, { id })
  await countHoldingsSql(tx, { id })
}

function getRoute(app: TypedApp, db: Database): void {
  const schema = {
    operationId: 'getResource',
    tags: TAGS,
    summary: 'Get a resource with its available, held and sold units',
    params: ResourceParams,
    response: { 200: response(ResourceRef, 'The resource', 'etag'), ...problemResponses(400, 404) },
  }
  app.get('/api/resources/:type/:id', { schema }, async (request, reply) => {
    const id = refOf(request.params)
    const [resource] = await db.query(resourceById, { id })
    if (!resource) throw resourceNotFound(id)
    return sendResource(reply, resource)
  })
}

const resourcePage = selectResources(sql`WHERE r.id > ${value('after')} ORDER BY r.id LIMIT ${value('limit')}`)
const resourcePageOfType = selectResources(
  sql`WHERE r.id > ${value('after')} AND r.id < ${value('until')} ORDER BY r.id LIMIT ${value('limit')}`,
)

function listRoute(app: TypedApp, db: Database): void {
  const schema = {
    operationId: 'listResources',
    tags: TAGS,
    summary: 'List resources by reference',
    querystring: pageQuery({ type: Type.Optional(ResourceParams.properties.type) }),
    response: { 200: response(page(ResourceRef), 'One page'), ...problemResponses(400) },
  }
  app.get('/api/resources', { schema }, async (request) => {
    const { type, limit = 20, cursor } = request.query
    const pageCursors = cursors('resources', { type }, new RegExp(REF_PATTERN))
    const after = pageCursors.read(cursor) ?? (type === undefined ? '' : `${type}:`)
    // ';' is the character after ':', so this is every reference that starts with `type:`.
    const until = `${type};`
    const statement = type === undefined ? resourcePage : resourcePageOfType
    const rows = await db.query(statement, { after, until, limit: limit + 1 })
    return pageOf(rows, limit, resourceView, (row) => pageCursors.write(row.id))
  })
}
