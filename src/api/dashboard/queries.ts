/**
 * The dashboard's queries. Invariant: each is bounded by an index and a limit, so its cost grows neither with past sales nor
 * with the length of a queue.
 */
import { sql } from 'drizzle-orm'
import type { Client } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import { prepare, value } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { COUNT_TO, entryCount } from '../queue/queue-entries.ts'
import { resourceView, selectResources } from '../routes/resource-view.ts'

/** Maximum number of resources shown for each type, and maximum number of types. */
const [EACH_TYPE, TYPES] = [6, 12]
/** Maximum number of queues that are read, and of the queues (those with the oldest rows) whose rows are counted. */
const [QUEUES, COUNTED] = [500, 16]

/**
 * A query `type` with the name of each type of resources, for WITH RECURSIVE: an index skip scan, whose cost does not grow with
 * the number of resources. ';' is the character after ':'.
 */
export const resourceTypes = sql`
  type AS (
    (SELECT split_part(id, ':', 1) AS name FROM resources ORDER BY id LIMIT 1)
    UNION ALL
    SELECT n.name FROM type t CROSS JOIN LATERAL (
      SELECT split_part(id, ':', 1) AS name FROM resources WHERE id >= t.name || ';' ORDER BY id LIMIT 1) n
  )`
// Written as raw SQL: a skip scan is a recursive query, which drizzle cannot express.
const shownSql = selectResources(sql`
  WHERE r.id IN (
    SELECT unnest(${value('busy')}::text::text[]) UNION (
    WITH RECURSIVE ${resourceTypes}
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
         ${entryCount(sql.raw('l.queue'))} AS length,
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

// Written as raw SQL: the predicate must be that of the index charges_due, and the count stops at a limit.
const chargesSql = prepare<{ waiting: number; oldest_ms: number }>(sql`
  SELECT count(*) AS waiting,
         coalesce(greatest(0, extract(epoch FROM clock_timestamp() - min(created_at)) * 1000), 0)::bigint AS oldest_ms
  FROM (
    SELECT created_at, status FROM charges
    WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider
    ORDER BY next_attempt_at LIMIT ${COUNT_TO + 1}::int
  ) c WHERE status <> 'authorized'`)

/** Counts charges and refunds that wait for the provider. An authorized charge waits for its queue. */
export async function readCharges(client: Client) {
  const [{ waiting, oldest_ms } = { waiting: 0, oldest_ms: 0 }] = await chargesSql(client)
  return { waiting: Math.min(waiting, COUNT_TO), more: waiting > COUNT_TO, oldest_ms }
}

/** Most delivery streams that are read for the number of undelivered events. */
const STREAMS = 2_000
// Written as raw SQL: the limit is on the index of the streams that have undelivered events, before they are added up.
const endpointsSql = prepare<{
  id: string
  url: string
  behind: number
  failing_since: string | null
  more: boolean
}>(sql`
  SELECT e.id, e.url, b.behind, b.failing_since, b.streams >= ${STREAMS}::int AS more FROM (
    SELECT endpoint_id, sum(events)::bigint AS behind, min(failing_since) AS failing_since, count(*) AS streams FROM (
      SELECT endpoint_id, last_sequence - delivered_sequence AS events, failing_since FROM webhook_streams
      WHERE delivered_sequence < last_sequence ORDER BY next_attempt_at LIMIT ${STREAMS}::int
    ) s GROUP BY endpoint_id
  ) b JOIN webhook_endpoints e ON e.id = b.endpoint_id WHERE e.disabled_reason IS NULL
  ORDER BY b.behind DESC LIMIT 20`)

/** Returns the enabled endpoints with the most undelivered events. */
export const readEndpoints = (client: Client) => endpointsSql(client)
