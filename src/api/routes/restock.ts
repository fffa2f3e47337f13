/**
 * Restocking a resource, and reading its ledger. Invariant: the total changes under the resource's lease and fencing token, and
 * the same transaction writes the ledger entry.
 */
import { and, desc, eq, lt, lte, sql } from 'drizzle-orm'
import Type from 'typebox'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { sqlState } from '../../shared/db/errors.ts'
import { ledgerEntries, resources } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'
import type { Locks } from '../../shared/locks/api.ts'
import { fieldProblem, Problem, reusedKey } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { idempotencyKey, idempotencyScope } from '../http/headers.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, response } from '../http/responses.ts'
import { MAX_TOTAL, Nullable, PLAIN_TEXT, ResourceParams, refOf, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { ResourceRef, resourceById, resourceNotFound, sendResource } from './resource-view.ts'

const TAGS = ['resources']
/** Milliseconds a restock waits for the resource's lease: a worker releases a queue's lease after a quarter of a second. */
const RESTOCK_WAIT_MS = 5_000

export const MovementSchema = Type.Object({
  id: Type.Integer(),
  resource: Type.String(),
  purchase: Nullable(Type.String()),
  booking: Nullable(Type.String()),
  delta: Type.Integer(),
  reason: Type.String(),
  fencing_token: Nullable(Type.Integer()),
  created_at: Time,
})

const tooMany = () => fieldProblem('delta', 'would remove more units than are available', 409, 'insufficient_available')

export interface StockOptions {
  db: Database
  locks: Locks
  /** counts a write of a superseded lock holder that Postgres refused */
  onStaleWrite(): void
}

export async function stockRoutes(app: TypedApp, options: StockOptions): Promise<void> {
  restockRoute(app, options)
  movementsRoute(app, options.db)
}

const Restock = {
  operationId: 'restockResource',
  tags: TAGS,
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
    200: response(ResourceRef, 'The resource with its new stock', 'etag', 'idempotent-replayed'),
    ...problemResponses(400, 404, tooMany(), 413, 415, 422),
  },
}

function restockRoute(app: TypedApp, { db, locks, onStaleWrite }: StockOptions): void {
  app.post('/api/resources/:type/:id/restock', { schema: Restock }, async (request, reply) => {
    const id = refOf(request.params)
    const key = idempotencyKey(request)
    const scope = idempotencyScope(request, `restock ${id}`)
    const [found] = await db.query(tokenSql, { id })
    if (!found) throw resourceNotFound(id)
    if (found.kind !== 'units') throw fieldProblem('delta', `does not apply: ${id} is a calendar`, 409, 'wrong_kind')
    const options = { wait_ms: RESTOCK_WAIT_MS, above: found.fencing_token }
    await using lease = await onLockServer(() => locks.acquire(id, options))
    const entry = { id, ...request.body, token: lease.token, key, scope }
    const { replayed, resource } = await db
      .transaction(async (tx) => {
        const replayed = !(await restock(tx, entry, onStaleWrite))
        const [resource] = await resourceById(tx, { id })
        return { replayed, resource }
      })
      .catch((error) => {
        if (sqlState(error) !== '23514') throw error
        throw tooMany()
      })
    if (!resource) throw resourceNotFound(id)
    if (replayed) reply.header('idempotent-replayed', 'true')
    return sendResource(reply, resource)
  })
}

/** Reads the kind of a resource, and its fencing token: the token of a new lease must be higher. */
export const tokenSql = prepare(
  build
    .select({ kind: resources.kind, fencing_token: resources.fencing_token })
    .from(resources)
    .where(eq(resources.id, value('id'))),
)

interface LedgerEntry {
  /** id of the resource */
  id: string
  delta: number
  reason: string
  token: number
  key: string | null
  scope: string
}

function entryStatement() {
  // Take the row lock first: a batch with an older token may be committing, and its ledger entries must precede this one.
  const locked = build.$with('locked').as(
    build
      .select({ id: resources.id })
      .from(resources)
      .where(eq(resources.id, value('id')))
      .for('no key update'),
  )
  const entry = build
    .with(locked)
    .select({
      resource_id: locked.id,
      delta: sql`${value('delta')}::bigint`,
      reason: sql`${value('reason')}::text`,
      fencing_token: sql`${value('token')}::bigint`,
      idempotency_key: sql`${value('key')}::text`,
      idempotency_scope: sql`${value('scope')}::text`,
    })
    .from(locked)
  return prepare<{ id: number }>(sql`${insertFrom(ledgerEntries, entry)}
    ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id`)
}
const entrySql = entryStatement()
const earlierSql = prepare(
  build
    .select({ delta: ledgerEntries.delta, reason: ledgerEntries.reason })
    .from(ledgerEntries)
    .where(and(eq(ledgerEntries.idempotency_key, value('key')), eq(ledgerEntries.idempotency_scope, value('scope')))),
)
const delta = sql`${value('delta')}::bigint`
const addSql = prepare(
  build
    .update(resources)
    .set({
      fencing_token: sql`${value('token')}`,
      total: sql`${resources.total} + ${delta}`,
      available: sql`${resources.available} + ${delta}`,
      version: sql`${resources.version} + 1`,
      updated_at: sql`now()`,
    })
    .where(and(eq(resources.id, value('id')), lte(resources.fencing_token, value('token'))))
    .returning({ total: resources.total }),
)

/**
 * Writes the ledger entry and the stock. Returns false, and writes nothing, if an earlier request with this key has written
 * them.
 * @throws Problem 409, 422
 */
async function restock(tx: Transaction, entry: LedgerEntry, onStaleWrite: () => void): Promise<boolean> {
  const { delta, reason } = entry
  const [written] = await entrySql(tx, { ...entry })
  if (!written) {
    const [first] = await earlierSql(tx, { ...entry })
    if (first?.delta !== delta || first.reason !== reason) throw reusedKey()
    return false
  }
  if ((await addUnits(tx, entry, onStaleWrite)) > MAX_TOTAL) {
    throw fieldProblem('delta', `would make the total more than ${MAX_TOTAL}`, 409, 'total_too_large')
  }
  return true
}

/** Changes the stock under a lease; returns the new total. @throws Problem 409 when a newer lock holder has written it */
export async function addUnits(
  tx: Transaction,
  { id, delta, token }: Pick<LedgerEntry, 'id' | 'delta' | 'token'>,
  onStaleWrite: () => void,
): Promise<number> {
  const [row] = await addSql(tx, { id, delta, token })
  if (row) return row.total
  onStaleWrite()
  throw new Problem(409, 'stale_lease', `A newer lock holder has written ${id}.`, { retry_after: 1 })
}

const movementsSql = prepare(
  build
    .select({
      id: ledgerEntries.id,
      resource: sql<string>`${ledgerEntries.resource_id}`.as('resource'),
      purchase: sql<string | null>`${ledgerEntries.purchase_id}`.as('purchase'),
      booking: sql<string | null>`${ledgerEntries.booking_id}`.as('booking'),
      delta: ledgerEntries.delta,
      reason: ledgerEntries.reason,
      fencing_token: ledgerEntries.fencing_token,
      created_at: ledgerEntries.created_at,
    })
    .from(ledgerEntries)
    .where(and(eq(ledgerEntries.resource_id, value('id')), lt(ledgerEntries.id, value('before'))))
    .orderBy(desc(ledgerEntries.id))
    .limit(value('limit')),
)

const movementView = (row: Awaited<ReturnType<typeof movementsSql>>[number]) => ({
  ...row,
  created_at: iso(row.created_at),
})

/** Reads the newest entries of the ledger of a resource, newest first. */
export async function readMovements(client: Client, id: string, limit: number) {
  return (await movementsSql(client, { id, before: Number.MAX_SAFE_INTEGER, limit })).map(movementView)
}

function movementsRoute(app: TypedApp, db: Database): void {
  const schema = {
    operationId: 'listMovements',
    tags: TAGS,
    summary: 'List the ledger of a resource, newest first',
    params: ResourceParams,
    querystring: pageQuery({}),
    response: { 200: response(page(MovementSchema), 'One page'), ...problemResponses(400, 404) },
  }
  app.get('/api/resources/:type/:id/movements', { schema }, async (request) => {
    const id = refOf(request.params)
    const { limit = 20, cursor } = request.query
    const pageCursors = cursors('movements', { ref: id }, /^\d{1,15}$/)
    const before = Number(pageCursors.read(cursor) ?? Number.MAX_SAFE_INTEGER)
    const rows = await db.query(movementsSql, { id, before, limit: limit + 1 })
    if (rows.length === 0 && (await db.query(resourceById, { id })).length === 0) throw resourceNotFound(id)
    return pageOf(rows, limit, movementView, (row) => pageCursors.write(String(row.id)))
  })
}
