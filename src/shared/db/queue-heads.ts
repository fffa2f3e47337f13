/** The first row of each queue. Invariant: the query costs one index probe for each queue, however long the queues are. */
import { sql } from 'drizzle-orm'

/**
 * Builds SQL that selects the first row of every queue of a table: an index skip scan, as cheap with a million rows in a
 * queue as with one.
 */
export const queueHeads = (table: string, queue = 'queue') => sql.raw(queueHeadsText(table, queue))

/** Returns the same SQL as text, for statements that are written as text. */
export const queueHeadsText = (table: string, queue = 'queue') =>
  `
  (WITH RECURSIVE head AS (
    (SELECT ${queue} AS queue, created_at FROM ${table} WHERE status = 'queued' ORDER BY ${queue}, seq LIMIT 1)
    UNION ALL
    SELECT n.queue, n.created_at FROM head h CROSS JOIN LATERAL (
      SELECT t.${queue} AS queue, t.created_at FROM ${table} t
      WHERE t.status = 'queued' AND t.${queue} > h.queue ORDER BY t.${queue}, t.seq LIMIT 1) n
  ) SELECT queue, created_at FROM head)`
