/**
 * The delivery streams of the webhooks: for each endpoint and resource, how far its events were delivered. Invariants: a
 * stream advances only from the number that its sender read and under the sender's token; the outbox is pruned only from
 * its beginning.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../shared/db/client.ts'
import { type Event, parseEventId } from '../../shared/outbox.ts'
import type { Attempt } from './http-sender.ts'

/** Outbox rows that one statement adds to the streams of an endpoint. */
const ROWS = 2_000
/** Streams that one poll schedules. */
const STREAMS = 1_000
/** Rows that one statement deletes. */
const PRUNED_ROWS = 5_000

export interface DeliveryStream {
  endpoint: string
  resource: string
}

export interface ClaimedStream extends DeliveryStream {
  url: string
  events: string[] | null
  secret: string
  previous_secret: string | null
  delivered_sequence: number
  outbox_id: number
  attempts: number
}

/** True when there is an enabled endpoint. */
export async function hasEndpoints(client: Client): Promise<boolean> {
  return (await query(client, sql`SELECT 1 FROM webhook_endpoints WHERE disabled_reason IS NULL LIMIT 1`)).length > 0
}

/** Extends the streams up to this row of the outbox, which is final. */
export async function advanceStreams(client: Client, final: number): Promise<void> {
  await query(
    client,
    sql`
    WITH e AS MATERIALIZED (
      SELECT id, resource_id, outbox_position, least(${final}::bigint, outbox_position + ${ROWS}::bigint) AS upto
      FROM webhook_endpoints WHERE disabled_reason IS NULL AND outbox_position < ${final} FOR UPDATE
    ), l AS (
      INSERT INTO webhook_streams (endpoint_id, resource_id, outbox_id, delivered_sequence, last_sequence)
      SELECT e.id, o.resource_id, min(o.id), min(o.last_sequence - cardinality(o.statuses)), max(o.last_sequence)
      FROM e JOIN outbox o ON o.id > e.outbox_position AND o.id <= e.upto
      WHERE e.resource_id IS NULL OR o.resource_id = e.resource_id
      GROUP BY 1, 2
      ON CONFLICT (endpoint_id, resource_id) DO UPDATE SET last_sequence = greatest(webhook_streams.last_sequence, excluded.last_sequence)
    )
    UPDATE webhook_endpoints w SET outbox_position = e.upto FROM e WHERE w.id = e.id`,
  )
}

/** Streams with undelivered events whose next attempt is due. */
export async function dueStreams(client: Client): Promise<DeliveryStream[]> {
  return await query<DeliveryStream>(
    client,
    sql`SELECT l.endpoint_id AS endpoint, l.resource_id AS resource FROM webhook_streams l JOIN webhook_endpoints e ON e.id = l.endpoint_id
        WHERE l.delivered_sequence < l.last_sequence AND l.next_attempt_at <= clock_timestamp() AND e.disabled_reason IS NULL
        ORDER BY l.next_attempt_at LIMIT ${STREAMS}`,
  )
}

/** Writes this sender's token to the stream; undefined when there is nothing to send or a newer sender. */
export async function claimStream(client: Client, { endpoint, resource }: DeliveryStream, token: number) {
  const [row] = await query<ClaimedStream>(
    client,
    sql`UPDATE webhook_streams l SET fencing_token = ${token}
        FROM webhook_endpoints e
        WHERE l.endpoint_id = ${endpoint} AND l.resource_id = ${resource} AND e.id = l.endpoint_id AND l.fencing_token <= ${token}
          AND l.delivered_sequence < l.last_sequence AND l.next_attempt_at <= clock_timestamp() AND e.disabled_reason IS NULL
        RETURNING l.endpoint_id AS endpoint, l.resource_id AS resource, e.url, e.events, e.secret,
                  CASE WHEN e.previous_secret_expires_at > clock_timestamp() THEN e.previous_secret END AS previous_secret,
                  l.delivered_sequence, l.outbox_id, l.attempts`,
  )
  return row
}

const own = (stream: ClaimedStream, token: number) =>
  sql`endpoint_id = ${stream.endpoint} AND resource_id = ${stream.resource} AND fencing_token = ${token} AND delivered_sequence = ${stream.delivered_sequence}`

/** Inserts an attempt of this event into the log of deliveries. */
const insertAttempt = (stream: ClaimedStream, event: Event, attempt: Attempt) => sql`
  INSERT INTO webhook_deliveries (endpoint_id, event, type, resource_id, sequence, attempt, status, error, duration_ms)
  SELECT ${stream.endpoint}::uuid, ${event.id}, ${event.type}, ${stream.resource}, ${event.sequence}::bigint,
         ${stream.attempts + 1}::int, ${attempt.status ?? null}::int, ${attempt.error ?? null}, ${attempt.duration_ms}::int
  FROM moved RETURNING 1`

/** The endpoint accepted the event. False: another sender has the stream, or a replay has moved it. */
export async function recordDelivered(
  client: Client,
  stream: ClaimedStream,
  token: number,
  event: Event,
  attempt: Attempt,
) {
  const rows = await query(
    client,
    sql`WITH moved AS (
          UPDATE webhook_streams SET delivered_sequence = ${event.sequence}, outbox_id = ${parseEventId(event.id).id}, attempts = 0,
                 failing_since = NULL
          WHERE ${own(stream, token)} RETURNING 1)
        ${insertAttempt(stream, event, attempt)}`,
  )
  return rows.length > 0
}

/** Skips events that the endpoint has not subscribed to, up to this number. */
export async function skipTo(
  client: Client,
  stream: ClaimedStream,
  token: number,
  delivered_sequence: number,
  outbox_id: number,
) {
  const rows = await query(
    client,
    sql`UPDATE webhook_streams SET delivered_sequence = ${delivered_sequence}, outbox_id = ${outbox_id} WHERE ${own(stream, token)} RETURNING 1`,
  )
  return rows.length > 0
}

/** The endpoint did not accept the event: retry after a pause. Returns for how many ms it has failed; undefined: no longer ours. */
export async function recordFailure(
  client: Client,
  stream: ClaimedStream,
  token: number,
  event: Event,
  attempt: Attempt,
  pause_ms: number,
): Promise<number | undefined> {
  const [row] = await query<{ for_ms: number }>(
    client,
    sql`WITH moved AS (
          UPDATE webhook_streams SET attempts = attempts + 1, failing_since = coalesce(failing_since, clock_timestamp()),
                 next_attempt_at = clock_timestamp() + ${pause_ms} * interval '1 ms'
          WHERE ${own(stream, token)} RETURNING failing_since), log AS (${insertAttempt(stream, event, attempt)})
        SELECT (extract(epoch FROM clock_timestamp() - failing_since) * 1000)::float8 AS for_ms FROM moved, log`,
  )
  return row?.for_ms
}

/** Postpones the next attempt: no request was made. */
export async function defer(client: Client, stream: ClaimedStream, token: number, pause_ms: number): Promise<void> {
  await query(
    client,
    sql`UPDATE webhook_streams SET next_attempt_at = clock_timestamp() + ${pause_ms} * interval '1 ms' WHERE ${own(stream, token)}`,
  )
}

export async function disable(client: Client, endpoint: string, why: string): Promise<void> {
  await query(
    client,
    sql`UPDATE webhook_endpoints SET disabled_reason = ${why} WHERE id = ${endpoint} AND disabled_reason IS NULL`,
  )
}

/** Deletes events older than this number of days: a part of them, from the beginning. True: there are more. */
export async function prune(client: Client, days: number): Promise<boolean> {
  const old = sql`created_at < clock_timestamp() - ${days} * interval '1 day'`
  const [row] = await query<{ n: number }>(
    client,
    sql`WITH gone AS (
          DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT ${PRUNED_ROWS}) AND ${old} RETURNING id
        ), kept AS (
          UPDATE outbox_retention SET pruned_through_id = greatest(pruned_through_id, (SELECT max(id) FROM gone)) WHERE EXISTS (SELECT FROM gone)
        )
        SELECT count(*) AS n FROM gone`,
  )
  const log = await query(
    client,
    sql`DELETE FROM webhook_deliveries WHERE (endpoint_id, id) IN (
          SELECT endpoint_id, id FROM webhook_deliveries WHERE ${old} ORDER BY created_at LIMIT ${PRUNED_ROWS}) RETURNING 1`,
  )
  return row?.n === PRUNED_ROWS || log.length === PRUNED_ROWS
}
