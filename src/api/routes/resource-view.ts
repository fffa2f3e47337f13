/**
 * Resources as clients see them. Invariant: units of overdue holds count as available, whether or not a worker has already
 * expired those holds.
 */
import { type SQL, sql } from 'drizzle-orm'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import type { resources } from '../../shared/db/schema.ts'
import { prepare, value } from '../../shared/db/statements.ts'
import { Problem } from '../../shared/problem.ts'
import { Nullable, Ref, Time } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'

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
type Resource = Type.Static<typeof ResourceSchema>
export const ResourceRef = Type.Unsafe<Resource>(Type.Ref('Resource'))

type ResourceRow = Omit<typeof resources.$inferSelect, 'limit_set_at' | 'fencing_token'> & {
  /** units of overdue holds */
  overdue: number
}

/**
 * Builds the statement that reads resources (alias `r`) by a WHERE clause with its ORDER BY and LIMIT. Written as raw SQL: for
 * each resource that has held units, it unnests the items of its holds, which are JSON.
 */
export const selectResources = (where: SQL) =>
  prepare<ResourceRow>(sql`
  SELECT r.id, r.kind, r.name, r.total, r.available, r.held, r.price, r.currency, r.max_per_customer, r.version, r.created_at,
         r.updated_at, coalesce(o.units, 0)::bigint AS overdue
  FROM resources r LEFT JOIN LATERAL (
    SELECT sum(u.units) AS units FROM purchases p CROSS JOIN LATERAL (
      SELECT (l ->> 'units')::bigint AS units FROM jsonb_array_elements(p.items) l WHERE l ->> 'resource' = r.id
      UNION ALL SELECT p.amount WHERE p.payment ->> 'account' = r.id
    ) u
    WHERE p.status = 'held' AND p.expires_at <= clock_timestamp()
      AND (p.items @> jsonb_build_array(jsonb_build_object('resource', r.id)) OR p.payment ->> 'account' = r.id)
  ) o ON r.held > 0 ${where}`)

/** Reads one resource by `id`. */
export const resourceById = selectResources(sql`WHERE r.id = ${value('id')}`)

export function resourceView(row: ResourceRow): Resource {
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

export const sendResource = (reply: FastifyReply, row: ResourceRow, status = 200) =>
  reply.code(status).header('etag', `"${row.version}"`).send(resourceView(row))

export const resourceNotFound = (id: string) => new Problem(404, 'not_found', `There is no resource ${id}.`)
