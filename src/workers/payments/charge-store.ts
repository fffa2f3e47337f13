/**
 * The rows of the charge saga. Invariant: every write is conditional on the status that it starts from, so of two jobs that
 * take the same step, or take it late, one writes and the other changes zero rows.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../shared/db/client.ts'
import type { ChargeStatus } from '../../shared/db/schema.ts'

/** A refund that we owe. */
export interface OwnRefund {
  id: string
  status: ChargeStatus
  amount: number
  /** number of the current or last attempt */
  attempts: number
  /** it may be requested or checked now */
  due: boolean
}

/** The charge of a purchase or booking, with what its next step depends on. */
export interface ChargeState {
  /** of the purchase or booking */
  id: string
  of: 'purchase' | 'booking'
  queue: string
  token: string
  charge_id: string
  status: ChargeStatus
  /** '' until there is an intent */
  provider_id: string
  amount: number
  currency: string
  /** our refund, if there is one */
  refund: OwnRefund | null
  /** when the check at the provider was due; null: it is not due yet */
  recheck_at: string | null
  /** the units or dates are still held, by the database clock */
  open: boolean
}

/** The charge row belongs to the purchase or booking with this id. */
const belongsTo = (row: string, id: string) =>
  sql`(${sql.raw(row)}.purchase_id = ${id} OR ${sql.raw(row)}.booking_id = ${id})`

const ownRefundJson = (row: string) =>
  sql.raw(`json_build_object('id', ${row}.id, 'status', ${row}.status, 'amount', ${row}.amount, 'attempts', ${row}.attempts,
    'due', ${row}.recheck_at IS NULL OR ${row}.recheck_at <= clock_timestamp())`)

export async function loadCharge(client: Client, id: string): Promise<ChargeState | undefined> {
  const [row] = await query<ChargeState>(
    client,
    sql`SELECT p.id, CASE WHEN p.booking_id IS NULL THEN 'purchase' ELSE 'booking' END AS of, p.queue,
               coalesce(p.token, '') AS token, c.id AS charge_id, c.status, coalesce(c.provider_id, '') AS provider_id,
               c.amount, c.currency, p.open,
               CASE WHEN c.recheck_at <= clock_timestamp() THEN c.recheck_at::text END AS recheck_at,
               (SELECT ${ownRefundJson('r')} FROM charges r WHERE r.kind = 'refund' AND NOT r.at_provider AND ${belongsTo('r', id)}) AS refund
        FROM payable p JOIN charges c ON c.kind = 'charge' AND ${belongsTo('c', id)}
        WHERE p.id = ${id}`,
  )
  return row
}

/** Before a confirm is sent: succeeds only while the units or dates are held. */
export async function markConfirming(
  client: Client,
  { id, charge_id }: ChargeState,
  provider_id: string,
): Promise<boolean> {
  const rows = await query(
    client,
    sql`UPDATE charges c SET status = 'confirming', provider_id = ${provider_id}, attempts = attempts + 1
        FROM payable p
        WHERE c.id = ${charge_id} AND c.status = 'pending' AND p.id = ${id} AND p.open
        RETURNING c.id`,
  )
  return rows.length > 0
}

/**
 * Writes the outcome of the charge and the command for the queue in one statement: neither exists without the other. The
 * idempotency key of the command is the charge's id, so it is inserted once, however many jobs learn the outcome.
 */
export async function recordOutcome(
  client: Client,
  { charge_id, queue }: Pick<ChargeState, 'charge_id' | 'queue'>,
  from: 'pending' | 'confirming',
  to: 'authorized' | 'declined' | 'unavailable',
  reason: string | null,
): Promise<boolean> {
  const action = to === 'authorized' ? 'paid' : 'unpaid'
  const rows = await query(
    client,
    sql`WITH c AS (
          UPDATE charges SET status = ${to}, reason = ${reason},
                 settled_at = CASE WHEN ${to} = 'authorized' THEN NULL ELSE clock_timestamp() END,
                 -- The intent has ended: a later event of it, such as that of our cancel, needs no check.
                 recheck_at = CASE WHEN ${to} = 'authorized' THEN recheck_at END
          -- An intent that is being cancelled is not sold any more, even if it is authorized after all.
          WHERE id = ${charge_id} AND (status = ${from} OR ${from} = 'confirming' AND ${to} <> 'authorized' AND status = 'cancelling')
          RETURNING purchase_id, booking_id
        ), inserted AS (
          INSERT INTO commands (queue, purchase_id, booking_id, action, idempotency_key, idempotency_scope)
          SELECT ${queue}, c.purchase_id, c.booking_id, ${action}, ${charge_id}, 'charge' FROM c
          ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
        )
        SELECT 1 FROM c`,
  )
  return rows.length > 0
}

/** Before its intent is cancelled. False when the outcome has been written, or another job has begun to cancel it. */
export async function markCancelling(client: Client, charge_id: string): Promise<boolean> {
  const rows = await query(
    client,
    sql`UPDATE charges SET status = 'cancelling' WHERE id = ${charge_id} AND status = 'confirming' RETURNING id`,
  )
  return rows.length > 0
}

/** Writes the outcome of the capture. A charge with a refund does not become `authorization_lost`: the refund ends it. */
export async function recordCapture(
  client: Client,
  { charge_id, id }: Pick<ChargeState, 'charge_id' | 'id'>,
  status: 'captured' | 'authorization_lost',
  reason: string | null,
): Promise<boolean> {
  const rows = await query(
    client,
    sql`UPDATE charges SET status = ${status}, reason = ${reason}, settled_at = clock_timestamp(),
               recheck_at = coalesce(recheck_at, clock_timestamp() + interval '1 hour')
        WHERE id = ${charge_id} AND status = 'capturing'
          AND (${status} = 'captured' OR NOT EXISTS (
            SELECT 1 FROM charges r WHERE r.kind = 'refund' AND ${belongsTo('r', id)}))
        RETURNING id`,
  )
  return rows.length > 0
}

/** The reservation was cancelled, or nothing was ever taken: there is nothing to refund, and charge and refund end. */
export async function recordRelease(client: Client, id: string): Promise<boolean> {
  const rows = await query(
    client,
    sql`WITH c AS (
          UPDATE charges t SET status = 'released', settled_at = clock_timestamp()
          WHERE ${belongsTo('t', id)} AND kind = 'charge' AND status IN ('confirming', 'cancelling', 'authorized', 'capturing')
        )
        UPDATE charges t SET status = 'released', settled_at = clock_timestamp()
        WHERE ${belongsTo('t', id)} AND kind = 'refund' AND NOT at_provider AND status IN ('pending', 'failed') RETURNING id`,
  )
  return rows.length > 0
}

/** Nothing more can be done now: the sweeper adds a job later. Always false: there is no further step now. */
export async function scheduleRecheck(client: Client, id: string): Promise<false> {
  await query(
    client,
    sql`UPDATE charges t SET next_attempt_at = clock_timestamp() + interval '3 seconds'
        WHERE ${belongsTo('t', id)} AND status IN ('pending', 'confirming', 'cancelling', 'capturing', 'failed')`,
  )
  return false
}
