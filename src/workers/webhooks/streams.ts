/**
 * The lines of the webhooks: of each endpoint and resource, how far it was told. Invariants: a line moves from the number
 * that its sender saw, under the sender's token, or not at all; the outbox is forgotten from its beginning only.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../shared/db/client.ts'
import { type Event, parseEventId } from '../../shared/outbox.ts'
import type { Attempt } from './http-sender.ts'

/** Outbox rows that an endpoint's lines learn of at once. */
const ROWS = 2_000
/** Lines that are told of at once. */
const STREAMS = 1_000
/** Rows that are forgotten at once. */
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

/** True when anybody is to be told of anything. */
export async function hasEndpoints(client: Client): Promise<boolean> {
  return (await query(client, sql`SELECT 1 FROM webhook_endpoints WHERE disabled_reason IS NULL LIMIT 1`)).length > 0
}

/** Tells the lines what there is up to this row of the outbox, which is final. */
export async function advanceStreams(client: Client, final: number): Promise<void> {
  await query(
    client,
    sql`
    WITH e AS MATERIALIZED (
      SELECT id, resource, outbox_position, least(${final}::bigint, outbox_position + ${ROWS}::bigint) AS upto
      FROM webhook_endpoints WHERE disabled_reason IS NULL AND outbox_position < ${final} FOR UPDATE
    ), l AS (
      INSERT INTO webhook_streams (endpoint, resource, outbox_id, delivered_sequence, last_sequence)
      SELECT e.id, o.resource, min(o.id), min(o.last_sequence - cardinality(o.statuses)), max(o.last_sequence)
      FROM e JOIN outbox o ON o.id > e.outbox_position AND o.id <= e.upto
      WHERE e.resource IS NULL OR o.resource = e.resource
      GROUP BY 1, 2
      ON CONFLICT (endpoint, resource) DO UPDATE SET last_sequence = greatest(webhook_streams.last_sequence, excluded.last_sequence)
    )
    UPDATE webhook_endpoints w SET outbox_position = e.upto FROM e WHERE w.id = e.id`,
  )
}

/** Lines that have something to be told now. */
export async function dueStreams(client: Client): Promise<DeliveryStream[]> {
  return await query<DeliveryStream>(
    client,
    sql`SELECT l.endpoint, l.resource FROM webhook_streams l JOIN webhook_endpoints e ON e.id = l.endpoint
        WHERE l.delivered_sequence < l.last_sequence AND l.next_attempt_at <= clock_timestamp() AND e.disabled_reason IS NULL
        ORDER BY l.next_attempt_at LIMIT ${STREAMS}`,
  )
}

/** Puts this sender's token on the line; undefined when there is nothing to send, or a newer sender. */
export async function claimStream(client: Client, { endpoint, resource }: DeliveryStream, token: number) {
  const [row] = await query<ClaimedStream>(
    client,
    sql`UPDATE webhook_streams l SET fencing_token = ${token}
        FROM webhook_endpoints e
        WHERE l.endpoint = ${endpoint} AND l.resource = ${resource} AND e.id = l.endpoint AND l.fencing_token <= ${token}
          AND l.delivered_sequence < l.last_sequence AND l.next_attempt_at <= clock_timestamp() AND e.disabled_reason IS NULL
        RETURNING l.endpoint, l.resource, e.url, e.events, e.secret,
                  CASE WHEN e.previous_secret_expires_at > clock_timestamp() THEN e.previous_secret END AS previous_secret,
                  l.delivered_sequence, l.outbox_id, l.attempts`,
  )
  return row
}

const own = (line: ClaimedStream, token: number) =>
  sql`endpoint = ${line.endpoint} AND resource = ${line.resource} AND fencing_token = ${token} AND delivered_sequence = ${line.delivered_sequence}`

/** The columns of an attempt of this event. */
const insertAttempt = (line: ClaimedStream, event: Event, attempt: Attempt) => sql`
  INSERT INTO webhook_deliveries (endpoint, event, type, resource, sequence, attempt, status, error, duration_ms)
  SELECT ${line.endpoint}::uuid, ${event.id}, ${event.type}, ${line.resource}, ${event.sequence}::bigint,
         ${line.attempts + 1}::int, ${attempt.status ?? null}::int, ${attempt.error ?? null}, ${attempt.duration_ms}::int
  FROM moved RETURNING 1`

/** The event was taken. False: the line is no longer this sender's, or was moved by a replay. */
export async function recordDelivered(
  client: Client,
  line: ClaimedStream,
  token: number,
  event: Event,
  attempt: Attempt,
) {
  const rows = await query(
    client,
    sql`WITH moved AS (
          UPDATE webhook_streams SET delivered_sequence = ${event.sequence}, outbox_id = ${parseEventId(event.id).id}, attempts = 0,
                 failing_since = NULL
          WHERE ${own(line, token)} RETURNING 1)
        ${insertAttempt(line, event, attempt)}`,
  )
  return rows.length > 0
}

/** Nobody is to be told of what lies before this number. */
export async function skipTo(
  client: Client,
  line: ClaimedStream,
  token: number,
  delivered_sequence: number,
  outbox_id: number,
) {
  const rows = await query(
    client,
    sql`UPDATE webhook_streams SET delivered_sequence = ${delivered_sequence}, outbox_id = ${outbox_id} WHERE ${own(line, token)} RETURNING 1`,
  )
  return rows.length > 0
}

/** The event was not taken: again after a pause. Returns since how many ms it fails; undefined: no longer ours. */
export async function recordFailure(
  client: Client,
  line: ClaimedStream,
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
          WHERE ${own(line, token)} RETURNING failing_since), log AS (${insertAttempt(line, event, attempt)})
        SELECT (extract(epoch FROM clock_timestamp() - failing_since) * 1000)::float8 AS for_ms FROM moved, log`,
  )
  return row?.for_ms
}

/** Not now: it was not even tried. */
export async function defer(client: Client, line: ClaimedStream, token: number, pause_ms: number): Promise<void> {
  await query(
    client,
    sql`UPDATE webhook_streams SET next_attempt_at = clock_timestamp() + ${pause_ms} * interval '1 ms' WHERE ${own(line, token)}`,
  )
}

export async function disable(client: Client, endpoint: string, why: string): Promise<void> {
  await query(
    client,
    sql`UPDATE webhook_endpoints SET disabled_reason = ${why} WHERE id = ${endpoint} AND disabled_reason IS NULL`,
  )
}

/** Forgets what is older than so many days: a part of it, from the beginning. True: there is more. */
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
    sql`DELETE FROM webhook_deliveries WHERE (endpoint, id) IN (
          SELECT endpoint, id FROM webhook_deliveries WHERE ${old} ORDER BY created_at LIMIT ${PRUNED_ROWS}) RETURNING 1`,
  )
  return row?.n === PRUNED_ROWS || log.length === PRUNED_ROWS
}
