/**
 * Records the state of a charge at the provider. Invariants: each refund at the provider has one row, identified by the
 * provider's id; the status of a row only advances, so the older of two snapshots changes nothing; our own refund
 * requests at most the captured amount minus all other refunds and lost disputes.
 */
import { and, eq, gt, inArray, lte, notExists, or, sql } from 'drizzle-orm'
import { alias, unionAll } from 'drizzle-orm/pg-core'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { bookings, charges, commands, outboxSequences, purchases } from '../../shared/db/schema.ts'
import { build, insertFrom, prepare, value } from '../../shared/db/statements.ts'
import type { ChargeStatus } from '../../shared/domain/charge.ts'
import type { Dispute, PaymentSnapshot, Refund } from '../../shared/payments/gateway.ts'
import { belongsTo, type ChargeState, type OwnRefund, RESERVED } from './charge-store.ts'

/** First and longest pause before a refused refund is requested again, in seconds. The pause doubles in between. */
const AGAIN_S = 2
const AGAIN_MAX_S = 6 * 3_600
/**
 * Days after its capture during which a charge is checked at the provider: most cardholders have 120 days for a dispute,
 * some have 540.
 */
const CHECKED_DAYS = 540

/** Returns the seconds until the next attempt, after this number of attempts. */
const backoff_s = (attempts: number) => Math.min(AGAIN_MAX_S, AGAIN_S * 2 ** Math.min(20, Math.max(0, attempts - 1)))

/**
 * Returns the idempotency key of an attempt. The provider stores its first answer to a key, so each attempt has its
 * own.
 */
export const keyOf = ({ id, attempts }: Pick<OwnRefund, 'id' | 'attempts'>) => `${id}-${attempts}`

interface Row extends Omit<OwnRefund, 'due'> {
  kind: 'refund' | 'dispute'
  at_provider: boolean
  provider_id: string | null
  reason: string | null
  due: boolean
}

/** New state of `row`. Without `row` the change inserts a row. */
interface Change {
  row?: Row
  kind: 'refund' | 'dispute'
  provider_id: string | null
  status: ChargeStatus
  amount: number
  reason: string | null
  attempts: number
  /** seconds until the next check at the provider; null: the status is final */
  recheck_s: number | null
}

export interface Recorded {
  /** our refund, if the caller must request it now; its attempt and amount are already written */
  own?: OwnRefund | undefined
  /** true if a command that undoes the sale was queued */
  undone?: boolean
  /** refunds and disputes whose status was not recorded before */
  news: Pick<Change, 'kind' | 'status' | 'provider_id' | 'amount' | 'reason'>[]
}

const now = sql`clock_timestamp()`
const id = value('id')
const inAnHour = sql`coalesce(${charges.recheck_at}, clock_timestamp() + interval '1 hour')`
const due = sql<boolean>`${charges.recheck_at} IS NULL OR ${charges.recheck_at} <= clock_timestamp()`.as('due')

/** Written as raw SQL, because the resources of a cart are elements of its JSON. */
const lockSequencesSql = prepare<{ resource_id: string }>(sql`
  SELECT ${outboxSequences.resource_id} FROM ${outboxSequences} WHERE ${outboxSequences.resource_id} IN (
    SELECT ${purchases.queue} FROM ${purchases} WHERE ${purchases.id} = ${id}
    UNION SELECT (l ->> 'resource') COLLATE "C" FROM ${purchases}, jsonb_array_elements(${purchases.items}) l
    WHERE ${purchases.id} = ${id}
    UNION SELECT ${bookings.resource_id} FROM ${bookings} WHERE ${bookings.id} = ${id})
  ORDER BY ${outboxSequences.resource_id} FOR UPDATE`)
const lockChargeSql = prepare(
  build
    .select({ amount: charges.amount, currency: charges.currency, status: charges.status })
    .from(charges)
    .where(eq(charges.id, id))
    .for('no key update'),
)
const capturedSql = prepare(
  build.update(charges).set({ status: 'captured', settled_at: now, recheck_at: inAnHour }).where(eq(charges.id, id)),
)
const findingsSql = prepare(
  build
    .select({
      id: charges.id,
      kind: sql<'refund' | 'dispute'>`${charges.kind}`.as('kind'),
      status: charges.status,
      amount: charges.amount,
      attempts: charges.attempts,
      at_provider: charges.at_provider,
      provider_id: charges.provider_id,
      reason: charges.reason,
      due,
    })
    .from(charges)
    .where(and(belongsTo(charges, id), inArray(charges.kind, ['refund', 'dispute'])))
    .orderBy(charges.n),
)

/** Records the refunds and disputes of a captured charge, and schedules its next check. */
export async function record(client: Client, charge: ChargeState, seen: PaymentSnapshot): Promise<Recorded> {
  return await client.begin(async (tx) => {
    // Lock the event sequences first, in one order, because a batch that ends a sale also locks them before the charge.
    await lockSequencesSql(tx, { id: charge.id })
    const [locked] = await lockChargeSql(tx, { id: charge.charge_id })
    if (!locked) return { news: [] }
    if (RESERVED.includes(locked.status)) await capturedSql(tx, { id: charge.charge_id })
    const rows = await findingsSql(tx, { id: charge.id })
    const own = rows.find((row) => row.kind === 'refund' && !row.at_provider)
    const mine = own ? ownOf(own, seen.refunds) : []
    const theirs = seen.refunds.filter((refund) => !mine.includes(refund))
    const left = locked.amount - sum(theirs.filter((one) => one.status !== 'failed')) - sum(lostOf(seen.disputes))
    const ours = own && ownRefundChange(own, mine, left, seen.disputes)
    const done = theirs.map((one) => changeOf(rows, 'refund', one))
    const disputes = seen.disputes.map((one) => changeOf(rows, 'dispute', one))
    const [failed, others] = [
      done.filter((one) => one?.status === 'failed'),
      done.filter((one) => one?.status !== 'failed'),
    ]
    // Write changes that free an amount before changes that use it, because the database checks the sum at each row.
    const changes = [...failed, ours, ...others, ...disputes].filter((change) => change !== undefined)
    for (const change of changes) await write(tx, charge, change)
    if (!own && left > 0) await insertOwedRefund(tx, charge, left)
    const whole = sum(theirs.filter((one) => one.status === 'refunded')) >= locked.amount
    const undone = whole && (await undoSale(tx, charge))
    await scheduleNextCheck(tx, charge, seen)
    const news = changes.filter(({ row, status }) => row?.status !== status && status !== 'pending')
    return { own: own && (await refundToRequest(tx, own.id)), undone, news }
  })
}

const sum = (all: readonly { amount: number }[]) => all.reduce((total, one) => total + one.amount, 0)
const lostOf = (disputes: readonly Dispute[]) => disputes.filter((one) => one.status === 'lost')

/**
 * Returns the refunds at the provider that our row has requested. A refund from a time when keys were not stored is
 * identified by its amount.
 */
function ownOf(own: Row, refunds: readonly Refund[]): Refund[] {
  const mine = refunds.filter((one) => one.key?.startsWith(`${own.id}-`))
  if (mine.length > 0 || own.status !== 'refunded' || own.provider_id !== null) return mine
  return refunds.filter((one) => one.key === null && one.amount === own.amount).slice(0, 1)
}

/** Returns the new state of our refund, with its next attempt. Returns undefined if nothing changes. */
function ownRefundChange(
  own: Row,
  mine: readonly Refund[],
  left: number,
  disputes: readonly Dispute[],
): Change | undefined {
  const change = { row: own, kind: 'refund' as const, provider_id: own.provider_id, reason: own.reason }
  const { amount, attempts } = own
  // Ignore a refund that is recorded as failed: an older snapshot may still show it as successful.
  const hopeful = mine.filter((one) => !(own.status === 'failed' && one.id === own.provider_id))
  const made = hopeful.find((one) => one.status === 'refunded') ?? hopeful.find((one) => one.status === 'pending')
  if (made) {
    if (own.status === 'refunded')
      return own.provider_id ? undefined : { ...change, ...own, provider_id: made.id, recheck_s: null }
    const pending = made.status === 'pending'
    const { id: provider_id, status } = made
    return {
      ...change,
      provider_id,
      status,
      amount: made.amount,
      attempts,
      reason: null,
      recheck_s: pending ? 60 : null,
    }
  }
  const failed = mine.find((one) => one.id === own.provider_id || one.key === keyOf(own))
  if (failed && (own.status === 'pending' || own.status === 'refunded')) {
    const { id: provider_id, reason } = failed
    return { ...change, provider_id, status: 'failed', amount, attempts, reason, recheck_s: backoff_s(attempts) }
  }
  if (own.status === 'refunded') return undefined
  if (left <= 0) {
    if (own.status === 'released') return undefined
    const reason = lostOf(disputes).length > 0 ? 'dispute_lost' : 'refunded_at_provider'
    return { ...change, status: 'released', amount, attempts, reason, recheck_s: null }
  }
  // Our refund has cancelled the reservation before it was captured, so there is no money to refund.
  if (own.status === 'released' && own.reason === null) return undefined
  const over = own.reason === 'charge_disputed' && !disputes.some((one) => one.status === 'open')
  if (own.status === 'failed' && !own.due && !over) {
    return left === amount
      ? undefined
      : { ...change, status: 'failed', amount: left, attempts, recheck_s: backoff_s(attempts) }
  }
  // An attempt that may be in flight keeps its key. If less money is left than it requests, the provider refuses it, so
  // start a new attempt.
  const under_way = own.status === 'pending' && attempts > 0 && left >= amount
  const next = under_way ? { amount, attempts } : { amount: left, attempts: attempts + 1, provider_id: null }
  return { ...change, ...next, status: 'pending', recheck_s: 0 }
}

/**
 * The statuses that may follow each status. A snapshot that is older than the row shows an earlier status, which may not
 * follow, so the row does not change.
 */
const AFTER: Partial<Record<ChargeStatus, readonly ChargeStatus[]>> = {
  pending: ['refunded', 'failed'],
  refunded: ['failed'],
  open: ['won', 'lost'],
  lost: ['won'],
}

function changeOf(rows: readonly Row[], kind: Row['kind'], seen: Refund | Dispute): Change | undefined {
  const row = rows.find((one) => one.kind === kind && one.provider_id === seen.id)
  if (row && !AFTER[row.status]?.includes(seen.status)) return undefined
  const { id: provider_id, status, amount, reason } = seen
  return { ...(row && { row }), kind, provider_id, status, amount, reason, attempts: 0, recheck_s: null }
}

/** SQL expression: this number of seconds from now, or null. */
const inSeconds = (name: string) => sql`clock_timestamp() + ${value(name)}::float8 * interval '1 second'`

const state = {
  status: sql`${value('status')}`,
  amount: sql`${value('amount')}`,
  reason: sql`${value('reason')}`,
  provider_id: sql`${value('provider_id')}`,
  settled_at: sql`CASE WHEN ${value('over')}::boolean THEN clock_timestamp() END`,
}
const updateSql = prepare(
  build
    .update(charges)
    .set({
      ...state,
      attempts: sql`${value('attempts')}`,
      recheck_at: inSeconds('recheck_s'),
      next_attempt_at: sql`greatest(${inSeconds('recheck_s')}, clock_timestamp() + interval '2 seconds')`,
    })
    .where(eq(charges.id, id)),
)

function insertStatement() {
  const other = alias(charges, 'other')
  const kind = sql`${value('kind')}::text`
  const last = build
    .select({ n: sql`coalesce(max(${other.n}), 1) + 1` })
    .from(other)
    .where(and(belongsTo(other, id), eq(other.kind, kind)))
  return prepare(
    insertFrom(
      charges,
      build
        .select({
          purchase_id: charges.purchase_id,
          booking_id: charges.booking_id,
          kind,
          n: sql`${last}`,
          at_provider: sql`true`,
          provider_id: sql`${value('provider_id')}::text`,
          status: sql`${value('status')}::text`,
          amount: sql`${value('amount')}::bigint`,
          currency: charges.currency,
          reason: sql`${value('reason')}::text`,
          settled_at: state.settled_at,
        })
        .from(charges)
        .where(eq(charges.id, value('charge_id'))),
    ),
  )
}
const insertSql = insertStatement()

async function write(tx: Transaction, charge: ChargeState, change: Change): Promise<void> {
  const { row, kind, provider_id, status, amount, reason, attempts, recheck_s } = change
  const over = status !== 'pending' && status !== 'open'
  const written = { status, amount, reason, provider_id, over }
  if (row) await updateSql(tx, { ...written, id: row.id, attempts, recheck_s })
  else await insertSql(tx, { ...written, id: charge.id, charge_id: charge.charge_id, kind })
}

/**
 * Selects what this charge pays or may still pay: its own purchase or booking, and the replacement that late money has
 * paid for.
 */
const bought = unionAll(
  build
    .select({
      id: purchases.id,
      queue: purchases.queue,
      of: sql<string>`'purchase'`.as('of'),
      keeps: sql<boolean>`${purchases.status} IN ('queued', 'held', 'confirmed')`.as('keeps'),
      sold: sql<boolean>`${purchases.status} = 'confirmed'`.as('sold'),
    })
    .from(purchases)
    .where(or(eq(purchases.id, id), eq(purchases.replaces_id, id))),
  build
    .select({
      id: bookings.id,
      queue: bookings.resource_id,
      of: sql<string>`'booking'`.as('of'),
      keeps: sql<boolean>`${bookings.status} IN ('queued', 'requested', 'accepted', 'completed')`.as('keeps'),
      sold: sql<boolean>`${bookings.status} = 'accepted'`.as('sold'),
    })
    .from(bookings)
    .where(or(eq(bookings.id, id), eq(bookings.replaces_id, id))),
).as('bought')

const insertOwedSql = prepare(
  sql`${insertFrom(
    charges,
    build
      .select({
        purchase_id: charges.purchase_id,
        booking_id: charges.booking_id,
        kind: sql`'refund'`,
        amount: sql`${value('left')}::bigint`,
        currency: charges.currency,
      })
      .from(charges)
      .where(
        and(
          eq(charges.id, value('charge_id')),
          notExists(build.select({ id: bought.id }).from(bought).where(sql`${bought.keeps}`)),
        ),
      ),
  )} ON CONFLICT DO NOTHING`,
)

/**
 * Inserts our refund of the amount `left`, if no purchase or booking remains that the charge pays for. This happens when a
 * refund made at the provider has undone the sale, and the bank has then sent the money of that refund back.
 */
async function insertOwedRefund(tx: Transaction, charge: ChargeState, left: number): Promise<void> {
  await insertOwedSql(tx, { id: charge.id, charge_id: charge.charge_id, left })
}

const undoSql = prepare<{ id: string }>(
  sql`${insertFrom(
    commands,
    build
      .select({
        queue: bought.queue,
        purchase_id: sql`CASE ${bought.of} WHEN 'purchase' THEN ${bought.id} END`,
        booking_id: sql`CASE ${bought.of} WHEN 'booking' THEN ${bought.id} END`,
        action: sql`CASE ${bought.of} WHEN 'purchase' THEN 'refund' ELSE 'cancel' END`,
        idempotency_key: sql`${bought.id}::text`,
        idempotency_scope: sql`'refunded at provider'`,
      })
      .from(bought)
      .where(sql`${bought.sold}`),
  )} ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id`,
)

/**
 * Queues a command that undoes the sale, after the whole amount was refunded at the provider. Returns false if no sale
 * is left to undo.
 */
const undoSale = async (tx: Transaction, charge: ChargeState): Promise<boolean> =>
  (await undoSql(tx, { id: charge.id })).length > 0

function nextCheckStatement() {
  const since = sql`coalesce(${charges.settled_at}, ${charges.created_at})`
  const longest = sql`CASE WHEN ${value('undecided')}::boolean THEN interval '6 hours' ELSE interval '30 days' END`
  return prepare(
    build
      .update(charges)
      .set({
        recheck_at: sql`CASE WHEN ${since} > clock_timestamp() - ${CHECKED_DAYS} * interval '1 day' THEN clock_timestamp()
          + least(greatest(clock_timestamp() - ${since}, interval '1 hour'), ${longest}) END`,
      })
      .where(and(eq(charges.id, id), sql`${charges.recheck_at}::text = ${value('recheck_at')}`)),
  )
}
const nextCheckSql = nextCheckStatement()

/**
 * Schedules the next check of this charge at the provider: an hour after the capture, then each time the charge's age has
 * doubled since the last check. Checks are never more than 30 days apart, or 6 hours while a refund is pending or a
 * dispute is open, and end after CHECKED_DAYS. If a webhook has changed `recheck_at` since the row was read, this changes
 * nothing, and the check stays due.
 */
export async function scheduleNextCheck(
  on: Client | Transaction,
  { charge_id, recheck_at }: ChargeState,
  seen?: PaymentSnapshot,
): Promise<void> {
  if (recheck_at === null) return
  const undecided =
    seen?.refunds.some((one) => one.status === 'pending') || seen?.disputes.some((one) => one.status === 'open')
  await nextCheckSql(on, { id: charge_id, recheck_at, undecided: undecided === true })
}

const pendingRefundSql = prepare(
  build
    .select({
      id: charges.id,
      status: charges.status,
      amount: charges.amount,
      attempts: charges.attempts,
      due: sql<boolean>`true`.as('due'),
    })
    .from(charges)
    .where(
      and(eq(charges.id, id), eq(charges.status, 'pending'), gt(charges.attempts, 0), lte(charges.recheck_at, now)),
    ),
)

/** Reads our refund if its attempt is due and its outcome is unknown. An earlier job may have requested it already. */
async function refundToRequest(tx: Transaction, of: string): Promise<OwnRefund | undefined> {
  const [row] = await pendingRefundSql(tx, { id: of })
  return row
}

/** Condition: the row is still at this attempt of our refund, and its outcome is not recorded. */
const attempt = and(eq(charges.id, id), eq(charges.status, 'pending'), eq(charges.attempts, value('attempts')))
const refundResultSql = prepare(
  build
    .update(charges)
    .set({
      status: sql`${value('status')}`,
      provider_id: sql`${value('provider_id')}`,
      reason: sql`${value('reason')}`,
      settled_at: sql`CASE WHEN ${value('status')}::text <> 'pending' THEN clock_timestamp() END`,
      recheck_at: inSeconds('recheck_s'),
      next_attempt_at: sql`coalesce(${inSeconds('recheck_s')}, clock_timestamp())`,
    })
    .where(attempt)
    .returning({ id: charges.id }),
)

/**
 * Records the provider's response to our refund: refunded, pending or failed. Returns false if the attempt's outcome is
 * already recorded.
 */
export async function recordRefundResult(client: Client, { id, attempts }: OwnRefund, made: Refund): Promise<boolean> {
  const { id: provider_id, status, reason } = made
  const recheck_s = status === 'refunded' ? null : status === 'failed' ? backoff_s(attempts) : 60
  return (await refundResultSql(client, { id, attempts, status, provider_id, reason, recheck_s })).length > 0
}

const refundRefusalSql = prepare(
  build
    .update(charges)
    .set({
      status: 'failed',
      reason: sql`${value('reason')}`,
      settled_at: now,
      recheck_at: inSeconds('wait_s'),
      next_attempt_at: inSeconds('wait_s'),
    })
    .where(attempt)
    .returning({ id: charges.id }),
)

/**
 * Records that the provider refused this attempt. The next attempt comes later, with its own key. Returns false if the
 * attempt's outcome is already recorded.
 */
export async function recordRefundRefusal(
  client: Client,
  { id, attempts }: OwnRefund,
  reason: string,
): Promise<boolean> {
  return (await refundRefusalSql(client, { id, attempts, reason, wait_s: backoff_s(attempts) })).length > 0
}
