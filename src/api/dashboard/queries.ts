/**
 * The dashboard's queries. Invariant: each is bounded by an index and a limit, so its cost grows neither with past sales nor
 * with the length of a queue.
 */
import { sql } from 'drizzle-orm'
import type { Client } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import { prepare, value } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { resourceView, selectResources } from '../routes/resource-view.ts'

/** Maximum number of resources shown for each type, and maximum number of types. */
const [EACH_TYPE, TYPES] = [6, 12]
/** Maximum number of queues that are read, and of the queues (those with the oldest rows) whose rows are counted. */
const [QUEUES, COUNTED] = [500, 16]
export const COUNT_TO = 10_000

// Written as raw SQL: a skip scan is a recursive query, which drizzle cannot express. ';' is the character after ':'.
const shownSql = selectResources(sql`
  WHERE r.id IN (
    SELECT unnest(${value('busy')}::text::text[]) UNION (
    WITH RECURSIVE type AS (
      (SELECT split_part(id, ':', 1) AS name FROM resources ORDER BY id LIMIT 1)
      UNION ALL
      SELECT n.name FROM type t CROSS JOIN LATERAL (
        SELECT split_part(id, ':', 1) AS name FROM resources WHERE id >= t.name || ';' ORDER BY id LIMIT 1) n
    )
    SELECT first.id FROM (SELECT name FROM type WHERE name <> 'account' LIMIT ${TYPES}::int) t CROSS JOIN LATERAL (
      SELECT id FROM resources WHERE id >= t.name || ':' AND id < t.name || ';' ORDER BY id LIMIT ${EACH_TYPE}::int
    ) first))
  ORDER BY r.kind DESC, r.id`)

/**
 * Reads the first resources of each type, without accounts, and the busy resources. Resources that are sold by units come
 * first, because the dashboard shows their numbers.
 */
export const readResources = async (client: Client, busy: readonly string[]) =>
  (await shownSql(client, { busy: arrayText(busy) })).map(resourceView)

const count = (table: string, queue = 'queue') =>
  sql.raw(`(SELECT count(*) FROM (
    SELECT 1 FROM ${table} WHERE ${queue} = l.queue AND status = 'queued' LIMIT ${COUNT_TO + 1}) q)`)

// Written as raw SQL: the heads of the queues are recursive queries, and the rest of the statement joins them.
const queuesSql = prepare<{ resource: string; length: number; oldest_ms: number; lines: number }>(sql`
  WITH found AS (
    SELECT queue, min(created_at) AS oldest FROM (
      (SELECT queue, created_at FROM ${queueHeads('purchases')} a LIMIT ${QUEUES}::int)
      UNION ALL (SELECT queue, created_at FROM ${queueHeads('commands')} b LIMIT ${QUEUES}::int)
      UNION ALL (SELECT queue, created_at FROM ${queueHeads('bookings', 'resource_id')} c LIMIT ${QUEUES}::int)
    ) head GROUP BY queue
  ), l AS (SELECT * FROM found ORDER BY oldest LIMIT ${COUNTED}::int)
  SELECT l.queue AS resource, (SELECT count(*) FROM found) AS lines,
         ${count('purchases')} + ${count('commands')} + ${count('bookings', 'resource_id')} AS length,
         greatest(0, extract(epoch FROM clock_timestamp() - l.oldest) * 1000)::bigint AS oldest_ms
  FROM l ORDER BY l.oldest`)

export async function readQueues(client: Client) {
  const found = await queuesSql(client)
  return {
    shown: found
      // Omit a queue that workers have settled while the statement counted it: its length is 0.
      .filter(({ length }) => length > 0)
      .map(({ resource, length, oldest_ms }) => {
        return { resource, length: Math.min(length, COUNT_TO), more: length > COUNT_TO, oldest_ms }
      }),
    more: Math.max(0, (found[0]?.lines ?? 0) - COUNTED),
  }
}
