/**
 * SQL about the entries of one queue: its queued purchases, bookings and commands, in the order of their seq. Invariant: each
 * part reads an index up to a limit, so its cost does not grow with the length of the queue.
 */
import { type SQL, sql } from 'drizzle-orm'

/** Largest number of entries that is counted; one more means that there are more. */
export const COUNT_TO = 10_000

/** `kind` and `id` name the purchase or booking, `command` the command on it that waits. */
const TABLES = [
  { table: 'purchases', queue: 'queue', kind: `'purchase'`, id: 'id', command: 'NULL' },
  { table: 'bookings', queue: 'resource_id', kind: `'booking'`, id: 'id', command: 'NULL' },
  {
    table: 'commands',
    queue: 'queue',
    kind: `CASE WHEN purchase_id IS NULL THEN 'booking' ELSE 'purchase' END`,
    id: 'coalesce(purchase_id, booking_id)',
    command: 'action',
  },
]
const queuedIn = (column: string, queue: SQL) => sql`${sql.raw(column)} = ${queue} AND status = 'queued'`

/**
 * Returns an expression for the number of entries, counted up to COUNT_TO + 1 in each table. `seq`: counts only the entries
 * before this one.
 */
export const entryCount = (queue: SQL, seq?: SQL): SQL => {
  const before = seq ? sql` AND seq < ${seq}` : sql``
  const counts = TABLES.map(
    (one) => sql`(SELECT count(*) FROM (
      SELECT 1 FROM ${sql.raw(one.table)} WHERE ${queuedIn(one.queue, queue)}${before} LIMIT ${COUNT_TO + 1}::int) q)`,
  )
  return sql.join(counts, sql` + `)
}

/** Returns a query of the first entry of each table: kind, id, command, seq, created_at. */
export const firstEntries = (queue: SQL): SQL => {
  const heads = TABLES.map(
    ({ table, queue: column, kind, id, command }) => sql`(
      SELECT ${sql.raw(`${kind} AS kind, ${id} AS id, ${command}::text AS command, seq, created_at FROM ${table}`)}
      WHERE ${queuedIn(column, queue)} ORDER BY seq LIMIT 1)`,
  )
  return sql.join(heads, sql` UNION ALL `)
}
