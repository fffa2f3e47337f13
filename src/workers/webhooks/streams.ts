/**
 * The delivery streams of the webhooks: for each endpoint and resource, the last event that was delivered. Invariants:
 * a sender may advance a stream only if delivered_sequence and fencing_token are still what it read; the outbox is
 * pruned only from its beginning.
 */
import { and, asc, eq, gt, inArray, isNull, lt, lte, max, min, or, type SQLWrapper, sql } from 'drizzle-orm'
import type { Client } from '../../shared/db/client.ts'
import { outbox, outboxRetention, webhookDeliveries, webhookEndpoints, webhookStreams } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'
import { type Event, parseEventId, subjectOf } from '../../shared/outbox.ts'
import type { Attempt } from './http-sender.ts'

/** Most outbox rows that one statement adds to the streams of an endpoint. */
const ROWS = 2_000
/** Most streams that one poll schedules. */
const STREAMS = 1_000
/** Most rows that one statement deletes. */
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

const now = sql`clock_timestamp()`
const enabled = isNull(webhookEndpoints.disabled_reason)
const enabledSql = prepare(build.select({ id: webhookEndpoints.id }).from(webhookEndpoints).where(enabled).limit(1))

/** Returns true if there is an enabled endpoint. */
export const hasEndpoints = async (client: Client): Promise<boolean> => (await enabledSql(client)).length > 0

function advanceStatement() {
  const final = sql`${value('final')}::bigint`
  const position = webhookEndpoints.outbox_position
  const behind = build.$with('behind').as(
    build
      .select({
        id: webhookEndpoints.id,
        resource_id: webhookEndpoints.resource_id,
        outbox_position: position,
        upto: sql<number>`least(${final}, ${position} + ${ROWS}::bigint)`.as('upto'),
      })
      .from(webhookEndpoints)
      .where(and(enabled, lt(position, final)))
      .for('update'),
  )
  const added = build
    .select({
      endpoint_id: behind.id,
      resource_id: outbox.resource_id,
      outbox_id: min(outbox.id),
      delivered_sequence: sql`min(${outbox.last_sequence} - cardinality(${outbox.statuses}))`,
      last_sequence: max(outbox.last_sequence),
    })
    .from(behind)
    .innerJoin(outbox, and(gt(outbox.id, behind.outbox_position), lte(outbox.id, behind.upto)))
    .where(or(isNull(behind.resource_id), eq(outbox.resource_id, behind.resource_id)))
    .groupBy(behind.id, outbox.resource_id)
  const extended = build.$with('extended', {}).as(
    sql`${insertFrom(webhookStreams, added)} ON CONFLICT (endpoint_id, resource_id)
      DO UPDATE SET last_sequence = greatest(${webhookStreams.last_sequence}, excluded.last_sequence)`,
  )
  return prepare(
    build
      .with(behind, extended)
      .update(webhookEndpoints)
      .set({ outbox_position: sql`${behind.upto}` })
      .from(behind)
      .where(eq(webhookEndpoints.id, behind.id)),
  )
}
const advanceSql = advanceStatement()

/** Extends the streams up to the outbox row with the id `final`. That row and all rows before it must be final. */
export async function advanceStreams(client: Client, final: number): Promise<void> {
  await advanceSql(client, { final })
}

const isDue = and(
  lt(webhookStreams.delivered_sequence, webhookStreams.last_sequence),
  lte(webhookStreams.next_attempt_at, now),
  enabled,
)
const stream = {
  endpoint: sql<string>`${webhookStreams.endpoint_id}`.as('endpoint'),
  resource: sql<string>`${webhookStreams.resource_id}`.as('resource'),
}
const dueSql = prepare(
  build
    .select(stream)
    .from(webhookStreams)
    .innerJoin(webhookEndpoints, eq(webhookEndpoints.id, webhookStreams.endpoint_id))
    .where(isDue)
    .orderBy(webhookStreams.next_attempt_at)
    .limit(STREAMS),
)

/** Returns streams with undelivered events whose next attempt is due. */
export const dueStreams = (client: Client): Promise<DeliveryStream[]> => dueSql(client)

const ofStream = and(
  eq(webhookStreams.endpoint_id, value('endpoint')),
  eq(webhookStreams.resource_id, value('resource')),
)
const claimSql = prepare(
  build
    .update(webhookStreams)
    .set({ fencing_token: sql`${value('token')}` })
    .from(webhookEndpoints)
    .where(
      and(
        ofStream,
        eq(webhookEndpoints.id, webhookStreams.endpoint_id),
        lte(webhookStreams.fencing_token, value('token')),
        isDue,
      ),
    )
    .returning({
      ...stream,
      url: webhookEndpoints.url,
      events: webhookEndpoints.events,
      secret: webhookEndpoints.secret,
      previous_secret: sql<
        string | null
      >`CASE WHEN ${webhookEndpoints.previous_secret_expires_at} > clock_timestamp() THEN ${webhookEndpoints.previous_secret} END`.as(
        'previous_secret',
      ),
      delivered_sequence: webhookStreams.delivered_sequence,
      outbox_id: webhookStreams.outbox_id,
      attempts: webhookStreams.attempts,
    }),
)

/**
 * Writes this sender's token to the stream and returns the stream. Returns undefined if nothing is due or a newer
 * sender has claimed the stream.
 */
export async function claimStream(
  client: Client,
  { endpoint, resource }: DeliveryStream,
  token: number,
): Promise<ClaimedStream | undefined> {
  const [row] = await claimSql(client, { endpoint, resource, token })
  return row
}

/** Condition: matches the stream only if this sender still owns it and no other process has moved it. */
const own = and(
  ofStream,
  eq(webhookStreams.fencing_token, value('token')),
  eq(webhookStreams.delivered_sequence, value('delivered_sequence')),
)
const ownValues = ({ endpoint, resource, delivered_sequence }: ClaimedStream, token: number) => ({
  endpoint,
  resource,
  delivered_sequence,
  token,
})

/** Inserts an attempt into the log of deliveries, if the UPDATE changed the stream's row. */
const loggedAttempt = (moved: SQLWrapper) =>
  insertFrom(
    webhookDeliveries,
    build
      .select({
        endpoint_id: sql`${value('endpoint')}::uuid`,
        event: sql`${value('event')}::text`,
        type: sql`${value('type')}::text`,
        subject_id: sql`${value('subject_id')}::uuid`,
        resource_id: sql`${value('resource')}::text`,
        sequence: sql`${value('sequence')}::bigint`,
        attempt: sql`${value('attempt')}::int`,
        status: sql`${value('status')}::int`,
        error: sql`${value('error')}::text`,
        duration_ms: sql`${value('duration_ms')}::int`,
      })
      .from(sql`${moved}`),
  )
const attemptValues = ({ attempts }: ClaimedStream, event: Event, attempt: Attempt) => ({
  event: event.id,
  type: event.type,
  subject_id: subjectOf(event),
  sequence: event.sequence,
  attempt: attempts + 1,
  status: attempt.status ?? null,
  error: attempt.error ?? null,
  duration_ms: attempt.duration_ms,
})

const deliveredStream = build.$with('moved').as(
  build
    .update(webhookStreams)
    .set({
      delivered_sequence: sql`${value('sequence')}`,
      outbox_id: sql`${value('outbox_id')}`,
      attempts: 0,
      failing_since: null,
    })
    .where(own)
    .returning({ endpoint_id: webhookStreams.endpoint_id }),
)
const loggedDelivery = build.$with('logged', {}).as(loggedAttempt(deliveredStream))
const deliveredSql = prepare(
  build
    .with(deliveredStream, loggedDelivery)
    .select({ endpoint_id: deliveredStream.endpoint_id })
    .from(deliveredStream),
)

/**
 * Records that the endpoint accepted the event. Returns false if another sender has the stream or a replay has moved
 * it.
 */
export async function recordDelivered(
  client: Client,
  claimed: ClaimedStream,
  token: number,
  event: Event,
  attempt: Attempt,
): Promise<boolean> {
  const outbox_id = parseEventId(event.id).id
  const values = { ...ownValues(claimed, token), ...attemptValues(claimed, event, attempt), outbox_id }
  return (await deliveredSql(client, values)).length > 0
}

const skipSql = prepare(
  build
    .update(webhookStreams)
    .set({ delivered_sequence: sql`${value('to')}`, outbox_id: sql`${value('outbox_id')}` })
    .where(own)
    .returning({ endpoint_id: webhookStreams.endpoint_id }),
)

/**
 * Skips events to which the endpoint has not subscribed, up to the number `to`. Returns false if another sender has the
 * stream or a replay has moved it.
 */
export async function skipTo(
  client: Client,
  claimed: ClaimedStream,
  token: number,
  to: number,
  outbox_id: number,
): Promise<boolean> {
  return (await skipSql(client, { ...ownValues(claimed, token), to, outbox_id })).length > 0
}

const pause = sql`clock_timestamp() + ${value('pause_ms')}::float8 * interval '1 ms'`
const failedStream = build.$with('moved').as(
  build
    .update(webhookStreams)
    .set({
      attempts: sql`${webhookStreams.attempts} + 1`,
      failing_since: sql`coalesce(${webhookStreams.failing_since}, clock_timestamp())`,
      next_attempt_at: pause,
    })
    .where(own)
    .returning({ failing_since: webhookStreams.failing_since }),
)
const loggedFailure = build.$with('logged', {}).as(loggedAttempt(failedStream))
const failedSql = prepare(
  build
    .with(failedStream, loggedFailure)
    .select({
      for_ms: sql<number>`date_part('epoch', clock_timestamp() - ${failedStream.failing_since}) * 1000`.as('for_ms'),
    })
    .from(failedStream),
)

/**
 * Records that the endpoint did not accept the event, and schedules a retry after the pause. Returns for how many
 * milliseconds the endpoint has been failing, or undefined if another sender has the stream or a replay has moved it.
 */
export async function recordFailure(
  client: Client,
  claimed: ClaimedStream,
  token: number,
  event: Event,
  attempt: Attempt,
  pause_ms: number,
): Promise<number | undefined> {
  const values = { ...ownValues(claimed, token), ...attemptValues(claimed, event, attempt), pause_ms }
  const [row] = await failedSql(client, values)
  return row?.for_ms
}

const deferSql = prepare(build.update(webhookStreams).set({ next_attempt_at: pause }).where(own))

/** Postpones the next attempt without counting one, because no request was sent. */
export async function defer(client: Client, claimed: ClaimedStream, token: number, pause_ms: number): Promise<void> {
  await deferSql(client, { ...ownValues(claimed, token), pause_ms })
}

const disableSql = prepare(
  build
    .update(webhookEndpoints)
    .set({ disabled_reason: sql`${value('reason')}` })
    .where(and(eq(webhookEndpoints.id, value('endpoint')), enabled)),
)

export async function disable(client: Client, endpoint: string, reason: string): Promise<void> {
  await disableSql(client, { endpoint, reason })
}

const oldest = sql`clock_timestamp() - ${value('days')}::int * interval '1 day'`

function pruneEventsStatement() {
  const first = build.select({ id: outbox.id }).from(outbox).orderBy(asc(outbox.id)).limit(PRUNED_ROWS)
  const gone = build.$with('gone').as(
    build
      .delete(outbox)
      .where(and(inArray(outbox.id, first), lt(outbox.created_at, oldest)))
      .returning({ id: outbox.id }),
  )
  const kept = build.$with('kept').as(
    build
      .update(outboxRetention)
      .set({
        pruned_through_id: sql`greatest(${outboxRetention.pruned_through_id}, (SELECT max(${gone.id}) FROM ${gone}))`,
      })
      .where(sql`EXISTS (SELECT FROM ${gone})`)
      .returning({ one: outboxRetention.one }),
  )
  return prepare(
    build
      .with(gone, kept)
      .select({ n: sql<number>`count(*)`.as('n') })
      .from(gone),
  )
}
const pruneEventsSql = pruneEventsStatement()

const oldDeliveries = build
  .select({ endpoint_id: webhookDeliveries.endpoint_id, id: webhookDeliveries.id })
  .from(webhookDeliveries)
  .where(lt(webhookDeliveries.created_at, oldest))
  .orderBy(webhookDeliveries.created_at)
  .limit(PRUNED_ROWS)
const pruneDeliveriesSql = prepare(
  build
    .delete(webhookDeliveries)
    .where(sql`(${webhookDeliveries.endpoint_id}, ${webhookDeliveries.id}) IN ${oldDeliveries}`)
    .returning({ id: webhookDeliveries.id }),
)

/**
 * Deletes one batch of the oldest events and one of the oldest delivery logs, if they are older than `days`. Returns
 * true if more may remain.
 */
export async function prune(client: Client, days: number): Promise<boolean> {
  const [events] = await pruneEventsSql(client, { days })
  const deliveries = await pruneDeliveriesSql(client, { days })
  return events?.n === PRUNED_ROWS || deliveries.length === PRUNED_ROWS
}
