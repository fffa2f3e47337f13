/**
 * SQL statements that insert new purchases and bookings. Invariant: the order of seq is also the order of commits, because
 * the only statement that inserts queued rows into a table holds the table's advisory lock until it commits. (Workers insert
 * replacements without this lock: they are settled, so no queue has them.) Tests remove the code between the guard markers
 * (test/races, test/chaos).
 */
import { and, eq, sql } from 'drizzle-orm'
import type { PgTable } from 'drizzle-orm/pg-core'
import type { Client } from '../../shared/db/client.ts'
import { bookings, purchases } from '../../shared/db/schema.ts'
import { build, isOneOf, listOf, prepare, value } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { PROCESS_ID } from '../../shared/fleet-reports.ts'

/** The columns that every queued row has. */
export interface QueuedRowInput {
  id: string
  /** the resource in whose queue the row waits */
  queue: string
  customer: string
  payment: Payment
  hold_seconds: number | null
  idempotency_key: string | null
  idempotency_scope: string
  request_hash: string | null
}

/** A row that was inserted. */
export interface Enqueued {
  id: string
  replayed: false
  seq: number
  created_at: string
}
/** The row of an earlier request with this key. */
export interface Replayed {
  id: string
  replayed: true
  same_body: boolean
}
export type EnqueueResult = Enqueued | Replayed

/** Members of a row that no worker has settled yet: the same for purchases and bookings. */
export const UNSETTLED = {
  status: 'queued' as const,
  reason: null,
  amount: null,
  currency: null,
  expires_at: null,
  replaces_id: null,
  replaced_by: null,
  fencing_token: null,
  settled_at: null,
  overdue: false,
  charging: false,
  charge_state: null,
}

/** The columns that one table adds to QueuedRowInput. */
interface IntakeTable {
  table: typeof purchases | typeof bookings
  /** advisory lock key that serialises inserts into this table */
  lock: number
  /** members of the input that the other table lacks, with their types */
  members: ListColumns
  /** column name → SQL expression, which may use the members and `now` */
  columns: Readonly<Record<string, string>>
}
type ListColumns = Parameters<typeof listOf>[1]
type ColumnsOf<Table extends PgTable> = Partial<Record<keyof Table['$inferInsert'], string>>

// A queue has purchases or bookings, never both, so each table can have a separate lock and a separate connection.
const PURCHASES: IntakeTable = {
  table: purchases,
  lock: 4_077_002,
  members: { items: purchases.items },
  columns: { queue: 'queue', items: 'items' } satisfies ColumnsOf<typeof purchases>,
}
const BOOKINGS: IntakeTable = {
  table: bookings,
  lock: 4_077_003,
  members: {
    kind: bookings.kind,
    from_at: 'timestamptz',
    until_at: 'timestamptz',
    days: bookings.days,
    pickup: bookings.pickup,
  },
  columns: {
    resource_id: 'queue',
    kind: 'kind',
    period: 'tstzrange(coalesce(from_at, now), until_at)',
    created_at: 'now',
    days: 'days',
    pickup: 'pickup',
  } satisfies ColumnsOf<typeof bookings>,
}

/** Members of every row, with the types of the columns that they are inserted into; `n` is the position of the row in the batch. */
const MEMBERS = {
  n: 'int',
  id: purchases.id,
  queue: purchases.queue,
  customer: purchases.customer,
  payment: purchases.payment,
  hold_seconds: purchases.hold_seconds,
  idempotency_key: purchases.idempotency_key,
  idempotency_scope: purchases.idempotency_scope,
  request_hash: purchases.request_hash,
} as const

/**
 * Builds one statement that takes the lock, numbers the rows in order of arrival, and inserts them. The statement is a whole
 * transaction, so a process that stops in the middle of it does not keep the lock. Written as raw SQL because drizzle cannot
 * express an advisory lock in a CTE and the order of the parts matters.
 */
function insertStatement({ table, lock, members, columns }: IntakeTable) {
  const list = listOf('d', { ...MEMBERS, ...members })
  const names = sql.raw(Object.keys(columns).join(', '))
  const values = sql.raw(Object.values(columns).join(', '))
  // The cross join makes Postgres take the lock before the first nextval(). The INSERT writes the rows in order of arrival, so
  // that the first of several rows with one key is the one that stays.
  const insert = prepare<{ id: string; seq: number; created_at: string }>(sql`
    WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(${lock}::bigint)), d AS MATERIALIZED (
      SELECT t.*, nextval('queue_seq') AS seq, clock_timestamp() AS now FROM locked CROSS JOIN (
        SELECT * FROM ${list.rows}
        ORDER BY n) t
    )
    INSERT INTO ${table} (id, seq, ${names}, customer, payment, hold_seconds,
                         idempotency_key, idempotency_scope, request_hash)
    SELECT id, seq, ${values}, customer, payment, hold_seconds, idempotency_key, idempotency_scope, request_hash
    FROM d ORDER BY n
    /* guard:idempotency */ ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING /* end:idempotency */
    RETURNING id, seq, created_at`)
  return { list, insert }
}

const keyList = listOf('k', { key: 'text', scope: 'text' })

function statementsOf(intake: IntakeTable) {
  // Safe cast: only columns that both tables have are used.
  const table = intake.table as typeof purchases
  const { key, scope } = keyList.columns
  const byKey = and(eq(table.idempotency_key, key), eq(table.idempotency_scope, scope))
  return {
    ...insertStatement(intake),
    earlier: prepare(
      build
        .selectDistinct({ id: table.id, key, scope, request_hash: table.request_hash })
        .from(keyList.rows)
        .innerJoin(table, byKey),
    ),
    cancel: prepare(
      build
        .update(table)
        .set({
          status: 'cancelled',
          reason: 'not_acknowledged',
          settled_at: sql`clock_timestamp()`,
          settled_by: sql`${value('settled_by')}::text`,
        })
        .where(and(isOneOf(table.id, 'ids'), eq(table.status, 'queued')))
        .returning({ id: table.id }),
    ),
  }
}
export type IntakeName = keyof typeof STATEMENTS
const STATEMENTS = { purchases: statementsOf(PURCHASES), bookings: statementsOf(BOOKINGS) }

/**
 * Inserts the rows, and then reads the rows that earlier requests with the same keys have inserted. Returns one result for
 * each row, in the order of `input`.
 */
export async function insertRows(
  client: Client,
  table: IntakeName,
  input: readonly QueuedRowInput[],
): Promise<EnqueueResult[]> {
  const { list, insert, earlier } = STATEMENTS[table]
  const rows = input.map((row, n) => ({ n, ...row }))
  const inserted = await insert(client, list.values(rows))
  const insertedById = new Map(inserted.map((row) => [row.id, row]))
  const keyed = rows.filter((row) => !insertedById.has(row.id))
  const earlierByKey = new Map<string, { id: string; request_hash: string | null }>()
  if (keyed.length > 0) {
    const keys = keyed.map(({ idempotency_key: key, idempotency_scope: scope }) => ({ key, scope }))
    for (const row of await earlier(client, keyList.values(keys))) {
      earlierByKey.set(JSON.stringify([row.key, row.scope]), row)
    }
  }
  return rows.map((row): EnqueueResult => {
    const created = insertedById.get(row.id)
    if (created) return { id: created.id, replayed: false, seq: created.seq, created_at: created.created_at }
    const first = earlierByKey.get(JSON.stringify([row.idempotency_key, row.idempotency_scope]))
    if (!first) throw new Error(`no row with idempotency key ${row.idempotency_key}`)
    return { id: first.id, replayed: true, same_body: first.request_hash === row.request_hash }
  })
}

/** Cancels those of the rows that are still queued, and returns their ids. */
export const cancelRows = (client: Client, table: IntakeName, ids: readonly string[]) =>
  STATEMENTS[table].cancel(client, { ids: arrayText(ids), settled_by: PROCESS_ID })

/** Milliseconds that a terminated session has to end: an fsync cannot be interrupted. */
export const TERMINATE_MS = 5_000

/**
 * Terminates a session and waits up to TERMINATE_MS for it to end, after which it cannot commit. `n` in the returned row is
 * the number of sessions that have not ended. Written as raw SQL because drizzle has no table for the sessions.
 */
export const terminateSql = prepare<{ n: number }>(
  sql`SELECT count(*) FILTER (WHERE NOT pg_terminate_backend(pid, ${TERMINATE_MS}::bigint)) AS n
      FROM pg_stat_activity WHERE application_name = ${value('session')}`,
)
