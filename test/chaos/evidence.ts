/**
 * Collects the evidence after the load: the answers that clients got, the rows of the database, and the payments at the
 * provider.
 */
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
  /** resource → its units at the start, for resources that the load neither restocks nor refunds */
  readonly lines: ReadonlyMap<string, number>
  /** purchase or booking → payments taken, minor units kept and reservations left at the provider */
  readonly provider: ReadonlyMap<string, { taken: number; kept: number; open: number }>
  /** findings of `npm run verify` */
  readonly invariants: readonly Finding[]
  /** processes that ended by themselves */
  readonly fallen: readonly string[]
  /** number of faults that were carried out */
  readonly faults: number
  /** rows that stayed queued for longer than LINGER_S after the load, with their queue; and the number of looks */
  readonly lingering: { readonly looks: number; readonly rows: readonly string[] }
}

/** Most seconds that a row may stay queued once the fleet is idle. */
const LINGER_S = 10

/** Returns the time of the database clock. */
export async function readClock(client: Client): Promise<string> {
  const [row] = await query<{ now: string }>(client, sql`SELECT clock_timestamp()::text AS now`)
  return row?.now ?? ''
}

/** Returns the rows that are still queued LINGER_S after their creation and after the time `since`. */
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

/**
 * Returns counts of the purchases, bookings, commands and charges that have not ended, such as `3 purchases queued`.
 */
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

/** Returns how many rows were settled in each second after `since_ms` (milliseconds since 1970). */
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
