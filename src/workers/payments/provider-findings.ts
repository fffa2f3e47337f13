/**
 * Records the state of a charge at the provider. Invariants: a refund there is one row, identified by the provider's id;
 * the status of a row only advances, so of two snapshots the older one changes nothing; what we still owe is the captured
 * amount minus everything that went back, by refund or dispute.
 */
import { sql } from 'drizzle-orm'
import { type Client, query, type Transaction } from '../../shared/db/client.ts'
import type { ChargeStatus } from '../../shared/db/schema.ts'
import type { Dispute, PaymentSnapshot, Refund } from '../../shared/payments/gateway.ts'
import type { ChargeState, OwnRefund } from './charge-store.ts'

/** Seconds until a refused refund is requested again: the first time, and at most. It doubles in between. */
const AGAIN_S = 2
const AGAIN_MAX_S = 6 * 3_600
/** Days after its capture in which a charge is checked: cardholders have 120 days for a dispute, some have 540. */
const CHECKED_DAYS = 540

/** Seconds until the next attempt after this number of attempts. */
const backoff_s = (attempts: number) => Math.min(AGAIN_MAX_S, AGAIN_S * 2 ** Math.min(20, Math.max(0, attempts - 1)))

/** The idempotency key of an attempt: the provider keeps its first answer to it. */
export const keyOf = ({ id, attempts }: Pick<OwnRefund, 'id' | 'attempts'>) => `${id}-${attempts}`

interface Row extends Omit<OwnRefund, 'due'> {
  kind: 'refund' | 'dispute'
  at_provider: boolean
  provider_id: string | null
  reason: string | null
  due: boolean
}

/** New state of a row; without `row` it is inserted. */
interface Change {
  row?: Row
  kind: 'refund' | 'dispute'
  provider_id: string | null
  status: ChargeStatus
  amount: number
  reason: string | null
  attempts: number
  /** seconds until it is checked at the provider again; null: its status is final */
  recheck_s: number | null
}

export interface Recorded {
  /** our refund, when it is to be requested now: its attempt and amount are written */
  own?: OwnRefund | undefined
  /** a command that undoes the sale was queued */
  undone?: boolean
  /** what was not known before */
  news: Pick<Change, 'kind' | 'status' | 'provider_id' | 'amount' | 'reason'>[]
}

/** Records refunds and disputes of a captured charge. */
export async function record(client: Client, charge: ChargeState, seen: PaymentSnapshot): Promise<Recorded> {
  const of = charge.of === 'purchase' ? sql`purchase_id = ${charge.id}` : sql`booking_id = ${charge.id}`
  return await client.begin(async (tx) => {
    // Lock the event sequences first, in one order: a batch that ends a sale also locks them before the charge.
    await query(
      tx,
      sql`SELECT resource_id FROM outbox_sequences WHERE resource_id IN (
            SELECT queue FROM purchases WHERE id = ${charge.id}
            UNION SELECT (l ->> 'resource') COLLATE "C" FROM purchases, jsonb_array_elements(items) l WHERE id = ${charge.id}
            UNION SELECT resource_id FROM bookings WHERE id = ${charge.id})
          ORDER BY resource_id FOR UPDATE`,
    )
    const [locked] = await query<{ amount: number; currency: string; status: ChargeStatus }>(
      tx,
      sql`SELECT amount, currency, status FROM charges WHERE id = ${charge.charge_id} FOR NO KEY UPDATE`,
    )
    if (!locked) return { news: [] }
    if (UNCAPTURED.has(locked.status)) {
      await query(
        tx,
        sql`UPDATE charges SET status = 'captured', settled_at = clock_timestamp(),
                   recheck_at = coalesce(recheck_at, clock_timestamp() + interval '1 hour')
            WHERE id = ${charge.charge_id}`,
      )
    }
    const rows = await query<Row>(
      tx,
      sql`SELECT id, kind, status, amount, attempts, at_provider, provider_id, reason,
                 recheck_at IS NULL OR recheck_at <= clock_timestamp() AS due
          FROM charges WHERE ${of} AND kind IN ('refund', 'dispute') ORDER BY n`,
    )
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
    // Write what frees an amount before what uses it: the database checks the sum at each row.
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

/** Statuses of a charge whose money is not captured yet, as far as the row knows. */
const UNCAPTURED: ReadonlySet<ChargeStatus> = new Set(['confirming', 'cancelling', 'authorized', 'capturing'])

const sum = (all: readonly { amount: number }[]) => all.reduce((total, one) => total + one.amount, 0)
const lostOf = (disputes: readonly Dispute[]) => disputes.filter((one) => one.status === 'lost')

/** The refunds at the provider that our row has requested. One from before keys were stored is identified by its amount. */
function ownOf(own: Row, refunds: readonly Refund[]): Refund[] {
  const mine = refunds.filter((one) => one.key?.startsWith(`${own.id}-`))
  if (mine.length > 0 || own.status !== 'refunded' || own.provider_id !== null) return mine
  return refunds.filter((one) => one.key === null && one.amount === own.amount).slice(0, 1)
}

/** New state of our refund, with its next attempt. */
function ownRefundChange(
  own: Row,
  mine: readonly Refund[],
  left: number,
  disputes: readonly Dispute[],
): Change | undefined {
  const change = { row: own, kind: 'refund' as const, provider_id: own.provider_id, reason: own.reason }
  const { amount, attempts } = own
  // A refund that is recorded as failed may still look successful in an older snapshot.
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
  // The charge was never captured.
  if (own.status === 'released' && own.reason === null) return undefined
  const over = own.reason === 'charge_disputed' && !disputes.some((one) => one.status === 'open')
  if (own.status === 'failed' && !own.due && !over) {
    return left === amount
      ? undefined
      : { ...change, status: 'failed', amount: left, attempts, recheck_s: backoff_s(attempts) }
  }
  // An attempt that may be in flight keeps its key, unless less is left than it requests: then the provider refuses it.
  const under_way = own.status === 'pending' && attempts > 0 && left >= amount
  const next = under_way ? { amount, attempts } : { amount: left, attempts: attempts + 1, provider_id: null }
  return { ...change, ...next, status: 'pending', recheck_s: 0 }
}

/** Allowed transitions: a snapshot that is older than the row changes nothing. */
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

async function write(tx: Transaction, charge: ChargeState, change: Change): Promise<void> {
  const { row, kind, provider_id, status, amount, reason, attempts, recheck_s } = change
  const over = status !== 'pending' && status !== 'failed' && status !== 'open'
  const settled_at = over ? sql`clock_timestamp()` : sql`NULL`
  const recheckAt = recheck_s === null ? sql`NULL` : sql`clock_timestamp() + ${recheck_s} * interval '1 second'`
  if (row) {
    await query(
      tx,
      sql`UPDATE charges SET status = ${status}, amount = ${amount}, reason = ${reason}, attempts = ${attempts},
                 provider_id = ${provider_id}, settled_at = ${settled_at}, recheck_at = ${recheckAt},
                 next_attempt_at = greatest(${recheckAt}, clock_timestamp() + interval '2 seconds')
          WHERE id = ${row.id}`,
    )
    return
  }
  await query(
    tx,
    sql`INSERT INTO charges (purchase_id, booking_id, kind, n, at_provider, provider_id, status, amount, currency, reason, settled_at)
        SELECT c.purchase_id, c.booking_id, ${kind}, (
                 SELECT coalesce(max(r.n), 1) + 1 FROM charges r
                 WHERE (r.purchase_id = ${charge.id} OR r.booking_id = ${charge.id}) AND r.kind = ${kind}),
               true, ${provider_id}, ${status}, ${amount}, c.currency, ${reason}, ${settled_at}
        FROM charges c WHERE c.id = ${charge.charge_id}`,
  )
}

/** Purchases and bookings that this charge pays or may still pay: its own, and the replacement that late money bought. */
const boughtWith = (id: string) => sql`(
  SELECT id, queue, 'purchase' AS of, status IN ('queued', 'held', 'confirmed') AS keeps, status = 'confirmed' AS sold
  FROM purchases WHERE id = ${id} OR replaces_id = ${id}
  UNION ALL
  SELECT id, resource_id, 'booking', status IN ('queued', 'requested', 'accepted', 'completed'), status = 'accepted'
  FROM bookings WHERE id = ${id} OR replaces_id = ${id})`

/** A bank returned a refund made at the provider after its sale was undone: now we owe it. */
async function insertOwedRefund(tx: Transaction, charge: ChargeState, left: number): Promise<void> {
  await query(
    tx,
    sql`INSERT INTO charges (purchase_id, booking_id, kind, amount, currency)
        SELECT c.purchase_id, c.booking_id, 'refund', ${left}, c.currency FROM charges c
        WHERE c.id = ${charge.charge_id} AND NOT EXISTS (SELECT 1 FROM ${boughtWith(charge.id)} b WHERE b.keeps)
        ON CONFLICT DO NOTHING`,
  )
}

/** Everything was refunded at the provider: queues a command that undoes the sale. */
async function undoSale(tx: Transaction, charge: ChargeState): Promise<boolean> {
  const rows = await query(
    tx,
    sql`INSERT INTO commands (queue, purchase_id, booking_id, action, idempotency_key, idempotency_scope)
        SELECT queue, CASE of WHEN 'purchase' THEN id END, CASE of WHEN 'booking' THEN id END,
               CASE of WHEN 'purchase' THEN 'refund' ELSE 'cancel' END, id::text, 'refunded at provider'
        FROM ${boughtWith(charge.id)} b WHERE b.sold
        ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING id`,
  )
  return rows.length > 0
}

/**
 * Schedules the next check of this charge: after an hour, then whenever its age has doubled, within 30 days at most; sooner
 * while a refund or dispute is undecided. If a webhook has come since the row was read, the check stays due now.
 */
export async function scheduleNextCheck(
  on: Client | Transaction,
  { charge_id, recheck_at }: ChargeState,
  seen?: PaymentSnapshot,
): Promise<void> {
  if (recheck_at === null) return
  const undecided =
    seen?.refunds.some((one) => one.status === 'pending') || seen?.disputes.some((one) => one.status === 'open')
  const longest = sql.raw(undecided ? "interval '6 hours'" : "interval '30 days'")
  await query(
    on,
    sql`UPDATE charges SET recheck_at = CASE
          WHEN coalesce(settled_at, created_at) > clock_timestamp() - ${CHECKED_DAYS} * interval '1 day'
          THEN clock_timestamp()
            + least(greatest(clock_timestamp() - coalesce(settled_at, created_at), interval '1 hour'), ${longest}) END
        WHERE id = ${charge_id} AND recheck_at::text = ${recheck_at}`,
  )
}

/** Our refund, when its attempt has no known outcome: it may have been requested already. */
async function refundToRequest(tx: Transaction, id: string): Promise<OwnRefund | undefined> {
  const [row] = await query<OwnRefund>(
    tx,
    sql`SELECT id, status, amount, attempts, true AS due FROM charges
        WHERE id = ${id} AND status = 'pending' AND attempts > 0 AND recheck_at <= clock_timestamp()`,
  )
  return row
}

/** Records the provider's response to our refund: refunded, pending or failed. */
export async function recordRefundResult(client: Client, { id, attempts }: OwnRefund, made: Refund): Promise<boolean> {
  const { id: provider_id, status, reason } = made
  const recheck_s = status === 'refunded' ? null : status === 'failed' ? backoff_s(attempts) : 60
  const rows = await query(
    client,
    sql`UPDATE charges SET status = ${status}, provider_id = ${provider_id}, reason = ${reason},
               settled_at = CASE WHEN ${status} = 'refunded' THEN clock_timestamp() END,
               recheck_at = clock_timestamp() + ${recheck_s}::float8 * interval '1 second',
               next_attempt_at = clock_timestamp() + coalesce(${recheck_s}::float8, 0) * interval '1 second'
        WHERE id = ${id} AND status = 'pending' AND attempts = ${attempts}
        RETURNING id`,
  )
  return rows.length > 0
}

/** Records a refusal: this attempt has ended, and the next one comes later with a key of its own. */
export async function recordRefundRefusal(
  client: Client,
  { id, attempts }: OwnRefund,
  reason: string,
): Promise<boolean> {
  const wait = sql`clock_timestamp() + ${backoff_s(attempts)} * interval '1 second'`
  const rows = await query(
    client,
    sql`UPDATE charges SET status = 'failed', reason = ${reason}, recheck_at = ${wait}, next_attempt_at = ${wait}
        WHERE id = ${id} AND status = 'pending' AND attempts = ${attempts}
        RETURNING id`,
  )
  return rows.length > 0
}
