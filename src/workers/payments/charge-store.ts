/**
 * Reads and writes the rows of the charge saga. Invariant: every write is conditional on the status from which the step
 * starts. If two jobs take the same step, or one takes it late, one job writes and the other changes zero rows.
 */
import { and, eq, inArray, not, notExists, or, type SQLWrapper, sql } from 'drizzle-orm'
import { alias, type PgColumn } from 'drizzle-orm/pg-core'
import type { Client } from '../../shared/db/client.ts'
import { charges, commands, payable } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'
import type { ChargeStatus } from '../../shared/domain/charge.ts'

/** A refund that we owe. */
export interface OwnRefund {
  id: string
  status: ChargeStatus
  amount: number
  /** number of the current or last attempt */
  attempts: number
  /** the job may request or check the refund now */
  due: boolean
}

/** The charge of a purchase or booking, with everything on which its next step depends. */
export interface ChargeState {
  /** id of the purchase or booking */
  id: string
  of: 'purchase' | 'booking'
  queue: string
  token: string
  charge_id: string
  status: ChargeStatus
  /** id of the intent at the provider; '' until there is one */
  provider_id: string
  amount: number
  currency: string
  /** our refund, if there is one */
  refund: OwnRefund | null
  /** time at which the check at the provider became due; null: it is not due yet */
  recheck_at: string | null
  /** true if the units or dates are still held, by the database clock */
  open: boolean
}

/** Condition: the row belongs to the purchase or booking with this id. */
export const belongsTo = (row: { purchase_id: PgColumn; booking_id: PgColumn }, id: SQLWrapper) =>
  or(eq(row.purchase_id, id), eq(row.booking_id, id))

const now = sql`clock_timestamp()`
const id = value('id')
const changed = { id: charges.id }

function loadStatement() {
  const r = alias(charges, 'r')
  const ownRefund = build
    .select({
      refund:
        sql`json_build_object('id', ${r.id}, 'status', ${r.status}, 'amount', ${r.amount}, 'attempts', ${r.attempts},
        'due', ${r.recheck_at} IS NULL OR ${r.recheck_at} <= clock_timestamp())`.as('refund'),
    })
    .from(r)
    .where(and(eq(r.kind, 'refund'), not(r.at_provider), belongsTo(r, id)))
  return prepare(
    build
      .select({
        id: payable.id,
        of: sql<'purchase' | 'booking'>`CASE WHEN ${payable.booking_id} IS NULL THEN 'purchase' ELSE 'booking' END`.as(
          'of',
        ),
        queue: payable.queue,
        token: sql<string>`coalesce(${payable.token}, '')`.as('token'),
        charge_id: sql<string>`${charges.id}`.as('charge_id'),
        status: charges.status,
        provider_id: sql<string>`coalesce(${charges.provider_id}, '')`.as('provider_id'),
        amount: charges.amount,
        currency: charges.currency,
        open: payable.open,
        recheck_at: sql<
          string | null
        >`CASE WHEN ${charges.recheck_at} <= clock_timestamp() THEN ${charges.recheck_at}::text END`.as('recheck_at'),
        refund: sql<OwnRefund | null>`${ownRefund}`.as('refund'),
      })
      .from(payable)
      .innerJoin(charges, and(eq(charges.kind, 'charge'), belongsTo(charges, id)))
      .where(eq(payable.id, id)),
  )
}
const loadSql = loadStatement()

export async function loadCharge(client: Client, of: string): Promise<ChargeState | undefined> {
  const [row] = await loadSql(client, { id: of })
  return row
}

const markConfirmingSql = prepare(
  build
    .update(charges)
    .set({ status: 'confirming', provider_id: sql`${value('provider_id')}`, attempts: sql`${charges.attempts} + 1` })
    .from(payable)
    .where(and(eq(charges.id, value('charge_id')), eq(charges.status, 'pending'), eq(payable.id, id), payable.open))
    .returning(changed),
)

/**
 * Records that a confirm is about to be sent. Returns false if the units or dates are no longer held or another job was
 * faster.
 */
export async function markConfirming(client: Client, charge: ChargeState, provider_id: string): Promise<boolean> {
  const { id, charge_id } = charge
  return (await markConfirmingSql(client, { id, charge_id, provider_id })).length > 0
}

function outcomeStatement() {
  const [to, from, charge_id] = [sql`${value('to')}::text`, sql`${value('from')}::text`, value('charge_id')]
  const ended = build.$with('ended').as(
    build
      .update(charges)
      .set({
        status: to,
        reason: sql`${value('reason')}`,
        settled_at: sql`CASE WHEN ${to} = 'authorized' THEN NULL ELSE clock_timestamp() END`,
        // The intent has ended, so its later events, such as the one about our cancel, need no check.
        recheck_at: sql`CASE WHEN ${to} = 'authorized' THEN ${charges.recheck_at} END`,
      })
      .where(
        and(
          eq(charges.id, charge_id),
          // Once a job cancels the intent, its units are not sold, even if the card is authorized after all.
          or(
            eq(charges.status, from),
            and(eq(charges.status, 'cancelling'), sql`${from} = 'confirming' AND ${to} <> 'authorized'`),
          ),
        ),
      )
      .returning({ purchase_id: charges.purchase_id, booking_id: charges.booking_id }),
  )
  const queued = build.$with('queued', {}).as(
    sql`${insertFrom(
      commands,
      build
        .select({
          queue: sql`${value('queue')}::text`,
          purchase_id: ended.purchase_id,
          booking_id: ended.booking_id,
          action: sql`CASE WHEN ${to} = 'authorized' THEN 'paid' ELSE 'unpaid' END`,
          idempotency_key: sql`${charge_id}::text`,
          idempotency_scope: sql`'charge'`,
        })
        .from(ended),
    )} ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING`,
  )
  return prepare(build.with(ended, queued).select({ purchase_id: ended.purchase_id }).from(ended))
}
const outcomeSql = outcomeStatement()

/**
 * Writes the outcome of the charge and the command for the queue in one statement, so that neither exists without the
 * other. The command's idempotency key is the id of the charge, so the command is inserted once, however many jobs
 * learn the outcome. Returns false if another job has already written an outcome.
 */
export async function recordOutcome(
  client: Client,
  { charge_id, queue }: Pick<ChargeState, 'charge_id' | 'queue'>,
  from: 'pending' | 'confirming',
  to: 'authorized' | 'declined' | 'unavailable',
  reason: string | null,
): Promise<boolean> {
  return (await outcomeSql(client, { charge_id, queue, from, to, reason })).length > 0
}

const markCancellingSql = prepare(
  build
    .update(charges)
    .set({ status: 'cancelling' })
    .where(and(eq(charges.id, value('charge_id')), eq(charges.status, 'confirming')))
    .returning(changed),
)

/**
 * Records that the intent is about to be cancelled. Returns false if the outcome has been written or another job has
 * begun to cancel the intent.
 */
export const markCancelling = async (client: Client, charge_id: string): Promise<boolean> =>
  (await markCancellingSql(client, { charge_id })).length > 0

function captureStatement() {
  const refund = alias(charges, 'refund')
  const status = sql`${value('status')}::text`
  const refunds = build
    .select({ id: refund.id })
    .from(refund)
    .where(and(eq(refund.kind, 'refund'), belongsTo(refund, id)))
  return prepare(
    build
      .update(charges)
      .set({
        status,
        reason: sql`${value('reason')}`,
        settled_at: now,
        recheck_at: sql`coalesce(${charges.recheck_at}, clock_timestamp() + interval '1 hour')`,
      })
      .where(
        and(
          eq(charges.id, value('charge_id')),
          eq(charges.status, 'capturing'),
          or(sql`${status} = 'captured'`, notExists(refunds)),
        ),
      )
      .returning(changed),
  )
}
const captureSql = captureStatement()

/**
 * Writes the outcome of the capture. A charge with a refund does not become `authorization_lost`, because the refund
 * ends it. Returns false if nothing was written.
 */
export async function recordCapture(
  client: Client,
  { charge_id, id }: Pick<ChargeState, 'charge_id' | 'id'>,
  status: 'captured' | 'authorization_lost',
  reason: string | null,
): Promise<boolean> {
  return (await captureSql(client, { charge_id, id, status, reason })).length > 0
}

/** Statuses of charges that may have reserved money and have not taken it. */
export const RESERVED: readonly ChargeStatus[] = ['confirming', 'cancelling', 'authorized', 'capturing']
const released = { status: 'released' as const, settled_at: now }
const releasedCharge = build.$with('released').as(
  build
    .update(charges)
    .set(released)
    .where(and(belongsTo(charges, id), eq(charges.kind, 'charge'), inArray(charges.status, [...RESERVED])))
    .returning(changed),
)
const releaseSql = prepare(
  build
    .with(releasedCharge)
    .update(charges)
    .set(released)
    .where(
      and(
        belongsTo(charges, id),
        eq(charges.kind, 'refund'),
        not(charges.at_provider),
        inArray(charges.status, ['pending', 'failed']),
      ),
    )
    .returning(changed),
)

/**
 * Ends the charge and its refund as released: the reservation was cancelled or no money was ever taken, so there is
 * nothing to refund. Returns false if there was no refund to end.
 */
export const recordRelease = async (client: Client, of: string): Promise<boolean> =>
  (await releaseSql(client, { id: of })).length > 0

/**
 * Statuses that a charge job may still change. `authorized` is not one of them, because the queue worker takes the next
 * step: the sale.
 */
export const UNFINISHED: ChargeStatus[] = ['pending', 'confirming', 'cancelling', 'capturing', 'failed']
const postponeSql = prepare(
  build
    .update(charges)
    .set({ next_attempt_at: sql`clock_timestamp() + interval '3 seconds'` })
    .where(and(belongsTo(charges, id), inArray(charges.status, UNFINISHED))),
)

/** Postpones the next attempt, for which the sweeper adds a job. Returns false always: there is no further step now. */
export async function scheduleRecheck(client: Client, of: string): Promise<false> {
  await postponeSql(client, { id: of })
  return false
}
