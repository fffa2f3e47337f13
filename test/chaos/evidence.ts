/** What there is to be judged when the load is over: what clients were told, what the database has, what the provider took. */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../src/shared/db/client.ts'
import type { BookingStatus } from '../../src/shared/domain/booking.ts'
import type { LineItem, PurchaseStatus } from '../../src/shared/domain/purchase.ts'
import { type Finding, verify } from '../../src/shared/invariants.ts'
import type { Entry } from './record.ts'

export interface Row {
  id: string
  kind: 'purchase' | 'booking'
  seq: number
  queue: string
  customer: string
  items: readonly LineItem[]
  amount: number | null
  method: string
  status: PurchaseStatus | BookingStatus
  reason: string | null
  replaces_id: string | null
  key: string | null
  created_ms: number
}

export interface Evidence {
  readonly entries: readonly Entry[]
  readonly rows: readonly Row[]
  readonly commands: readonly { key: string; status: string }[]
  readonly restocks: readonly { key: string; delta: number }[]
  /** resource → units that it had from the beginning, of those that nobody puts anything into or takes anything back to */
  readonly lines: ReadonlyMap<string, number>
  /** purchase or booking → what the provider has of it: payments taken, minor units kept, reservations left */
  readonly provider: ReadonlyMap<string, { taken: number; kept: number; open: number }>
  /** what `npm run verify` says */
  readonly invariants: readonly Finding[]
  /** processes that ended by themselves */
  readonly fallen: readonly string[]
  /** how many took place */
  readonly faults: number
  /** rows that were queued for longer than LINGER_S after the load had ended, with their queue; and how often it was looked */
  readonly lingering: { readonly looks: number; readonly rows: readonly string[] }
}

/** Seconds that a row may be queued once the fleet is idle. */
const LINGER_S = 10

/** The database's time. */
export async function readClock(client: Client): Promise<string> {
  const [row] = await query<{ now: string }>(client, sql`SELECT clock_timestamp()::text AS now`)
  return row?.now ?? ''
}

/** Rows that are queued, and were for LINGER_S since they came and since this time. */
export async function readLingering(client: Client, since: string): Promise<string[]> {
  const rows = await query<{ row: string }>(
    client,
    sql`SELECT id || ' in ' || queue AS row FROM (
          SELECT id, queue, created_at FROM purchases WHERE status = 'queued'
          UNION ALL SELECT id, resource_id, created_at FROM bookings WHERE status = 'queued'
          UNION ALL SELECT id, queue, created_at FROM commands WHERE status = 'queued'
        ) q WHERE greatest(created_at, ${since}::timestamptz) < clock_timestamp() - ${LINGER_S} * interval '1 s'`,
  )
  return rows.map((one) => one.row)
}

export async function readRows(
  client: Client,
): Promise<Pick<Evidence, 'rows' | 'commands' | 'restocks' | 'invariants'>> {
  const created = sql.raw('(extract(epoch from created_at) * 1000)::float8 AS created_ms')
  const rest = sql.raw(
    `seq, customer, amount, payment ->> 'method' AS method, status, reason, replaces_id, idempotency_key AS key`,
  )
  const [purchases, bookings] = await Promise.all([
    query<Row>(client, sql`SELECT id, 'purchase' AS kind, queue, items, ${rest}, ${created} FROM purchases`),
    query<Row>(
      client,
      sql`SELECT id, 'booking' AS kind, resource_id AS queue, '[]'::jsonb AS items, ${rest}, ${created} FROM bookings`,
    ),
  ])
  return {
    rows: [...purchases, ...bookings],
    commands: await query(
      client,
      sql`SELECT idempotency_key AS key, status FROM commands WHERE idempotency_key IS NOT NULL`,
    ),
    restocks: await query(
      client,
      sql`SELECT idempotency_key AS key, delta FROM ledger_entries WHERE idempotency_key IS NOT NULL`,
    ),
    invariants: await verify(client),
  }
}

/** The purchases, bookings, commands and charges that have not come to their end, as `3 purchases queued`. */
export async function unsettled(client: Client): Promise<string[]> {
  const rows = await query<{ what: string }>(
    client,
    sql`SELECT count(*) || ' ' || kind || ' ' || status AS what FROM (
          SELECT 'purchases' AS kind, status FROM purchases WHERE status IN ('queued', 'held') UNION ALL
          SELECT 'bookings', status FROM bookings WHERE status IN ('queued', 'requested') UNION ALL
          SELECT 'commands', status FROM commands WHERE status = 'queued' UNION ALL
          SELECT 'charges', status FROM charges
          WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider
        ) s GROUP BY kind, status ORDER BY 1`,
  )
  return rows.map((row) => row.what)
}

/** second since `since_ms` (since 1970) → how many rows were settled in it */
export async function settledBySecond(client: Client, since_ms: number): Promise<number[]> {
  const rows = await query<{ second: number; n: number }>(
    client,
    sql`SELECT floor(extract(epoch from settled_at) - ${since_ms}::float8 / 1000)::int AS second, count(*)::int AS n FROM (
          SELECT settled_at FROM purchases UNION ALL SELECT settled_at FROM bookings UNION ALL SELECT settled_at FROM commands
        ) s WHERE settled_at >= to_timestamp(${since_ms}::float8 / 1000) GROUP BY 1`,
  )
  const seconds = new Map(rows.map((row) => [row.second, row.n]))
  return Array.from({ length: Math.max(0, ...seconds.keys()) + 1 }, (_, second) => seconds.get(second) ?? 0)
}
