/**
 * Group commit of purchases and of bookings: requests that arrive together share one INSERT. Invariants: a row is
 * acknowledged after its commit, never before; flushes of a table run one at a time under one advisory lock of the
 * database, so that seq is the order of commit too and no worker sees a row before an earlier one of its queue, whichever
 * API process inserted them.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import { type Db, openDb, query } from '../../shared/db/client.ts'
import { isDataError } from '../../shared/db/errors.ts'
import { anyOf, unnestRows } from '../../shared/db/unnest.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import type { Log } from '../../shared/log.ts'
import { Problem, stopping } from '../../shared/problem.ts'

/** The columns that every queued row has. */
export interface QueuedRowInput {
  id: string
  /** the resource in whose queue it waits */
  queue: string
  customer: string
  payment: Payment
  hold_seconds: number | null
  idempotency_key: string | null
  idempotency_scope: string
  request_hash: string | null
}

export type EnqueueResult =
  | { id: string; replayed: false; seq: number; created_at: string }
  /** the row of an earlier request with this key */
  | { id: string; replayed: true; same_body: boolean }

/** The columns that one table adds to QueuedRowInput. */
interface IntakeTable {
  name: 'purchases' | 'bookings'
  lock: number
  /** members of the input that the other table lacks, with their types */
  members: Readonly<Record<string, string>>
  /** column → expression of the members, and of `now` */
  columns: Readonly<Record<string, string>>
}

// A queue has purchases or bookings, never both: so each table has a lock and a connection of its own.
export const PURCHASES: IntakeTable = {
  name: 'purchases',
  lock: 4_077_002,
  members: { items: 'jsonb' },
  columns: { queue: 'queue', items: 'items' },
}
export const BOOKINGS: IntakeTable = {
  name: 'bookings',
  lock: 4_077_003,
  members: { kind: 'text', from_at: 'timestamptz', until_at: 'timestamptz', days: 'int', pickup: 'jsonb' },
  columns: {
    resource_id: 'queue',
    kind: 'kind',
    period: 'tstzrange(coalesce(from_at, now), until_at)',
    created_at: 'now',
    days: 'days',
    pickup: 'pickup',
  },
}

interface PendingInsert<Row> {
  row: Row
  resolve(result: EnqueueResult): void
  reject(error: unknown): void
}

/** Most requests that wait for the next INSERT: about a second's worth; more would time out, so they get 503. */
const BUFFER = 10_000
/** Rows in one INSERT. */
const ROWS_PER_FLUSH = 1_000
/** Milliseconds for one flush, so that a caller gets 503 within two seconds when the database is away. */
export const FLUSH_MS = 1_500
/** Milliseconds after which the server ends a transaction whose API process stopped. */
const IDLE_MS = 1_000
/** Milliseconds that a terminated session has to end: an fsync cannot be interrupted. */
const TERMINATE_MS = 5_000

export interface Intake<Row> {
  /** Resolves after the commit. @throws UnavailableError, or Problem 503 when the buffer is full */
  enqueue(row: Row): Promise<EnqueueResult>
  close(): Promise<void>
}

export interface IntakeDeps {
  database_url: string
  breaker: Breaker
  log: Log
  nudge(resources: Iterable<string>): void
}

export function createIntake<Row extends QueuedRowInput>(
  table: IntakeTable,
  { database_url, breaker, log, nudge }: IntakeDeps,
): Intake<Row> {
  const { name } = table
  const connect = () => {
    // A unique name, by which the session is found and terminated after a timeout.
    const session = `holdfast-intake ${randomUUID()}`
    return { session, ...openDb(database_url, { max: 1, name: session, idle_in_transaction_ms: IDLE_MS }) }
  }
  let db = connect()
  let buffer: PendingInsert<Row>[] = []
  let flushing: Promise<void> | undefined
  let closed = false

  async function flush(): Promise<void> {
    while (buffer.length > 0) {
      const batch = buffer.splice(0, ROWS_PER_FLUSH)
      try {
        await insert(batch)
      } catch (error) {
        // Requests behind this flush have waited as long: reject them now, instead of after one timeout each.
        const behind = buffer
        buffer = []
        for (const waiting of [...batch, ...behind]) waiting.reject(error)
        log.warn({ error, [name]: batch.length + behind.length }, 'intake failed')
      }
    }
    flushing = undefined
  }

  async function insert(batch: PendingInsert<Row>[]): Promise<void> {
    try {
      const results = await breaker.run(() => insertBatch(db, table, batch))
      batch.forEach((waiting, i) => {
        const result = results[i]
        if (result) waiting.resolve(result)
        else waiting.reject(new Error('an INSERT returned fewer rows than it was given'))
      })
      nudge(new Set(batch.flatMap(({ row }, i) => (results[i]?.replayed === false ? [row.queue] : []))))
    } catch (error) {
      if (isDataError(error)) {
        const [only] = batch
        if (batch.length === 1 && only) {
          log.error({ error, row: only.row }, 'Postgres refused a row that passed validation')
          only.reject(new Problem(400, 'invalid_request', 'The database cannot store this request.'))
        } else {
          for (const waiting of batch) await insert([waiting])
        }
        return
      }
      // With an open breaker nothing was sent.
      if (error instanceof UnavailableError && error.attempted && !closed) {
        const old = db
        db = connect()
        // Its result is no longer awaited.
        void old.client.end({ timeout: 0 }).catch(() => {})
        void cancelUnacknowledged(
          batch.filter(({ row }) => row.idempotency_key === null).map(({ row }) => row.id),
          old.session,
        )
      }
      throw error
    }
  }

  /**
   * A flush whose response was lost may have committed, or may hang at its lock, its fsync or in the network, and its callers
   * got 503. Its session is terminated first, so that it cannot commit later. Then its rows are cancelled, usually before a
   * worker sees them: they were not nudged, so the sweeper finds them after a second. Rows with an idempotency key stay: a
   * retry after the 503 finds them.
   */
  async function cancelUnacknowledged(ids: string[], session: string): Promise<void> {
    const rescue = openDb(database_url, {
      max: 1,
      name: 'holdfast-withdraw',
      idle_in_transaction_ms: IDLE_MS,
      statement_ms: 2 * TERMINATE_MS,
    })
    for (let attempt = 0; attempt < 300 && !closed; attempt++) {
      try {
        const [still] = await query<{ n: number }>(
          rescue.client,
          sql`SELECT count(*) FILTER (WHERE NOT pg_terminate_backend(pid, ${TERMINATE_MS}::bigint)) AS n
              FROM pg_stat_activity WHERE application_name = ${session}`,
        )
        if (still?.n !== 0) continue
        const found = await query<{ id: string }>(
          rescue.client,
          sql`UPDATE ${sql.raw(name)} SET status = 'cancelled', reason = 'not_acknowledged', settled_at = clock_timestamp()
              WHERE id ${anyOf(ids, 'uuid')} AND status = 'queued'
              RETURNING id`,
        )
        if (found.length > 0) {
          log.warn({ [name]: found.length }, 'unacknowledged rows cancelled')
          log.debug({ [name]: found.map((row) => row.id) }, 'unacknowledged rows cancelled, with their ids')
        }
        break
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
    await rescue.close().catch(() => {})
  }

  return {
    enqueue(row) {
      if (closed) return Promise.reject(stopping())
      if (buffer.length >= BUFFER) {
        return Promise.reject(
          new Problem(503, 'overloaded', `Too many ${name} are waiting to be written.`, { retry_after: 1 }),
        )
      }
      return new Promise((resolve, reject) => {
        buffer.push({ row, resolve, reject })
        // Requests that the event loop has already received join this flush.
        flushing ??= new Promise((go) => setImmediate(go)).then(flush)
      })
    },
    async close() {
      closed = true
      await flushing
      await db.close()
    },
  }
}

/** Members of every row, with their types; n is its position in the batch. */
const MEMBERS = {
  n: 'int',
  id: 'uuid',
  queue: 'text',
  customer: 'text',
  payment: 'jsonb',
  hold_seconds: 'int',
  idempotency_key: 'text',
  idempotency_scope: 'text',
  request_hash: 'text',
}

/**
 * One statement, which is a transaction of its own: the lock, and the INSERT in order of arrival. A process that stops in
 * the middle of it does not keep the lock. Then reads the rows of earlier requests with the same keys.
 */
async function insertBatch(
  db: Db,
  table: IntakeTable,
  batch: readonly PendingInsert<QueuedRowInput>[],
): Promise<EnqueueResult[]> {
  const rows = batch.map(({ row }, n) => ({ n, ...row }))
  const into = sql.raw(table.name)
  const columns = sql.raw(Object.keys(table.columns).join(', '))
  const values = sql.raw(Object.values(table.columns).join(', '))
  // The cross join with `locked` draws no number before the lock is held. Rows are inserted in order of their keys, so that two processes
  // with the same keys cannot deadlock.
  const inserted = await query<{ id: string; seq: number; created_at: string }>(
    db.client,
    sql`
    WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(${table.lock}::bigint)), d AS MATERIALIZED (
      SELECT t.*, nextval('queue_seq') AS seq, clock_timestamp() AS now FROM locked CROSS JOIN (
        SELECT * FROM ${unnestRows('d', rows, { ...MEMBERS, ...table.members })}
        ORDER BY n) t
    )
    INSERT INTO ${into} (id, seq, ${columns}, customer, payment, hold_seconds,
                         idempotency_key, idempotency_scope, request_hash)
    SELECT id, seq, ${values}, customer, payment, hold_seconds, idempotency_key, idempotency_scope, request_hash
    FROM d ORDER BY idempotency_key, idempotency_scope, n
    /* guard:idempotency */ ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING /* end:idempotency */
    RETURNING id, seq, created_at`,
  )
  const insertedById = new Map(inserted.map((row) => [row.id, row]))
  const keyed = rows.filter((row) => !insertedById.has(row.id))
  const earlier = new Map<string, { id: string; request_hash: string | null }>()
  if (keyed.length > 0) {
    const wanted = keyed.map(({ idempotency_key: key, idempotency_scope: scope }) => ({ key, scope }))
    const found = await query<{ id: string; key: string; scope: string; request_hash: string | null }>(
      db.client,
      sql`SELECT DISTINCT p.id, k.key, k.scope, p.request_hash
          FROM ${unnestRows('k', wanted, { key: 'text', scope: 'text' })}
          JOIN ${into} p ON p.idempotency_key = k.key AND p.idempotency_scope = k.scope`,
    )
    for (const row of found) earlier.set(JSON.stringify([row.key, row.scope]), row)
  }
  return rows.map((row): EnqueueResult => {
    const created = insertedById.get(row.id)
    if (created) return { id: created.id, replayed: false, seq: created.seq, created_at: created.created_at }
    const first = earlier.get(JSON.stringify([row.idempotency_key, row.idempotency_scope]))
    if (!first) throw new Error(`no row with idempotency key ${row.idempotency_key}`)
    return { id: first.id, replayed: true, same_body: first.request_hash === row.request_hash }
  })
}
