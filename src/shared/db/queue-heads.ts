/** Who stands at the head of each line. Invariant: asking costs one index probe a line, however long the lines are. */
import { sql } from 'drizzle-orm'

/** Every line of the table once, by its head: an index skip scan, as cheap with a million rows in one line as with one. */
export const queueHeads = (table: string, queue = 'queue') => sql.raw(queueHeadsText(table, queue))

/** The same as text, for a statement that is one. */
export const queueHeadsText = (table: string, queue = 'queue') =>
  `
  (WITH RECURSIVE head AS (
    (SELECT ${queue} AS queue, created_at FROM ${table} WHERE status = 'queued' ORDER BY ${queue}, seq LIMIT 1)
    UNION ALL
    SELECT n.queue, n.created_at FROM head h CROSS JOIN LATERAL (
      SELECT t.${queue} AS queue, t.created_at FROM ${table} t
      WHERE t.status = 'queued' AND t.${queue} > h.queue ORDER BY t.${queue}, t.seq LIMIT 1) n
  ) SELECT queue, created_at FROM head)`
