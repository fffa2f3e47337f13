/** SQL statements for webhook endpoints, their streams and deliveries. Invariant: no statement here returns a secret. */
import { and, count, desc, eq, lt, type SQL, sql } from 'drizzle-orm'
import { webhookDeliveries, webhookEndpoints, webhookStreams } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'

/** Maximum number of endpoints: each endpoint adds deliveries of every event. */
export const ENDPOINTS = 100

const { id } = webhookEndpoints

/** Selects an aggregate over the streams of an endpoint. */
const streams = (what: SQL) =>
  sql`${build
    .select({ what: what.as('what') })
    .from(webhookStreams)
    .where(eq(webhookStreams.endpoint_id, id))}`

const COLUMNS = {
  id,
  url: webhookEndpoints.url,
  events: webhookEndpoints.events,
  resource: sql<string | null>`${webhookEndpoints.resource_id}`.as('resource'),
  disabled: sql<string | null>`${webhookEndpoints.disabled_reason}`.as('disabled'),
  created_at: webhookEndpoints.created_at,
  old_secret_until: sql<string | null>`CASE WHEN ${webhookEndpoints.previous_secret_expires_at} > clock_timestamp()
    THEN ${webhookEndpoints.previous_secret_expires_at} END`.as('old_secret_until'),
  behind: sql<number>`${streams(
    sql`coalesce(sum(${webhookStreams.last_sequence} - ${webhookStreams.delivered_sequence}), 0)::bigint`,
  )}`.as('behind'),
  failing_since: sql<string | null>`${streams(sql`min(${webhookStreams.failing_since})`)}`.as('failing_since'),
}
const select = () => build.select(COLUMNS).from(webhookEndpoints)
export type EndpointRow = Awaited<ReturnType<typeof select>>[number]

export const findSql = prepare(select().where(eq(id, value('id'))))
export const listSql = prepare(select().orderBy(webhookEndpoints.created_at, id))
export const deleteSql = prepare(
  build
    .delete(webhookEndpoints)
    .where(eq(id, value('id')))
    .returning(COLUMNS),
)
export const rotateSql = prepare(
  build
    .update(webhookEndpoints)
    .set({
      secret: sql`${value('secret')}`,
      previous_secret: webhookEndpoints.secret,
      previous_secret_expires_at: sql`clock_timestamp() + ${value('overlap_s')}::int * interval '1 second'`,
    })
    .where(eq(id, value('id')))
    .returning(COLUMNS),
)

/** Creates an endpoint unless the maximum number exists. The endpoint receives the events after the newest outbox row. */
function createStatement() {
  const existing = build
    .select({ n: count().as('n') })
    .from(webhookEndpoints)
    .as('existing')
  const values = build
    .select({
      url: sql`${value('url')}::text`,
      events: sql`${value('events')}::jsonb`,
      resource_id: sql`${value('resource')}::text`,
      secret: sql`${value('secret')}::text`,
      outbox_position: sql`(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_id_seq)`,
    })
    .from(existing)
    .where(lt(existing.n, ENDPOINTS))
  return prepare<Pick<EndpointRow, 'id' | 'created_at'>>(
    sql`${insertFrom(webhookEndpoints, values)} RETURNING id, created_at`,
  )
}
export const createSql = createStatement()

function enableStatement() {
  const enabled = build.$with('enabled').as(
    build
      .update(webhookEndpoints)
      .set({ disabled_reason: null })
      .where(eq(id, value('id')))
      .returning({ id }),
  )
  return prepare(
    build
      .with(enabled)
      .update(webhookStreams)
      .set({ attempts: 0, failing_since: null, next_attempt_at: sql`clock_timestamp()` })
      .from(enabled)
      .where(eq(webhookStreams.endpoint_id, enabled.id)),
  )
}
export const enableSql = enableStatement()

export const eventSql = prepare(
  build
    .select({
      resource: sql<string>`${webhookDeliveries.resource_id}`.as('resource'),
      sequence: webhookDeliveries.sequence,
    })
    .from(webhookDeliveries)
    .where(and(eq(webhookDeliveries.endpoint_id, value('id')), eq(webhookDeliveries.id, value('delivery')))),
)

/** Builds the statement that reads a page of delivery attempts, newest first, for one resource or for all. */
const deliveriesOf = (only?: SQL) =>
  prepare(
    build
      .select({
        id: webhookDeliveries.id,
        event: webhookDeliveries.event,
        type: webhookDeliveries.type,
        resource: sql<string>`${webhookDeliveries.resource_id}`.as('resource'),
        sequence: webhookDeliveries.sequence,
        attempt: webhookDeliveries.attempt,
        status: webhookDeliveries.status,
        error: webhookDeliveries.error,
        duration_ms: webhookDeliveries.duration_ms,
        created_at: webhookDeliveries.created_at,
      })
      .from(webhookDeliveries)
      .where(and(eq(webhookDeliveries.endpoint_id, value('id')), lt(webhookDeliveries.id, value('before')), only))
      .orderBy(desc(webhookDeliveries.id))
      .limit(value('limit')),
  )
export const deliveriesSql = deliveriesOf()
export const deliveriesOfResourceSql = deliveriesOf(eq(webhookDeliveries.resource_id, value('resource')))

// Written as raw SQL: its ON CONFLICT compares the stored row with the new one.
export const replaySql = prepare<{ endpoint_id: string }>(sql`
  WITH first AS (
    SELECT id FROM outbox WHERE resource_id = ${value('resource')} AND last_sequence >= ${value('sequence')}
      AND last_sequence - cardinality(statuses) < ${value('sequence')} ORDER BY id LIMIT 1
  )
  INSERT INTO webhook_streams AS l (endpoint_id, resource_id, outbox_id, delivered_sequence, last_sequence)
  SELECT w.id, h.resource_id, f.id, ${value('sequence')}::bigint - 1, h.last_sequence
  FROM webhook_endpoints w, first f, outbox_sequences h
  WHERE w.id = ${value('id')} AND h.resource_id = ${value('resource')}
    AND (w.resource_id IS NULL OR w.resource_id = ${value('resource')})
  ON CONFLICT (endpoint_id, resource_id) DO UPDATE
  SET outbox_id = excluded.outbox_id, delivered_sequence = excluded.delivered_sequence,
      last_sequence = greatest(l.last_sequence, excluded.last_sequence), attempts = 0,
      failing_since = NULL, next_attempt_at = clock_timestamp()
  RETURNING endpoint_id`)
