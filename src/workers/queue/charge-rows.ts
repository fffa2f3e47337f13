/**
 * Writes to charges inside the transaction of a batch: rows that request a charge, a capture or a refund, and new
 * payment methods. Invariant: no statement here waits for the provider; charge jobs carry out the committed rows,
 * however often a job is lost.
 */
import { and, eq, inArray, not, or, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import type { Transaction } from '../../shared/db/client.ts'
import { bookings, charges, purchases } from '../../shared/db/schema.ts'
import { build, insertFrom, listOf, prepare, toTime, unnested } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import type { ChargeRequest, PaymentChange } from '../decide/types.ts'
import { belongsTo } from '../payments/charge-store.ts'

const paymentList = listOf('d', { id: purchases.id, payment: purchases.payment })
const payPurchasesSql = prepare(
  build
    .update(purchases)
    .set({ payment: paymentList.columns.payment })
    .from(paymentList.rows)
    // A row may be `queued`: then this batch also settles its hold and writes its status later, under the same
    // condition.
    .where(and(eq(purchases.id, paymentList.columns.id), inArray(purchases.status, ['queued', 'held'])))
    .returning({ id: purchases.id }),
)
const payBookingsSql = prepare(
  build
    .update(bookings)
    .set({ payment: paymentList.columns.payment })
    .from(paymentList.rows)
    .where(and(eq(bookings.id, paymentList.columns.id), inArray(bookings.status, ['queued', 'requested'])))
    .returning({ id: bookings.id }),
)

/** Writes new payment methods. Returns false if one of the rows is no longer queued, held or requested. */
export async function writePayments(tx: Transaction, payments: readonly PaymentChange[]): Promise<boolean> {
  for (const [of, write] of [
    ['purchase', payPurchasesSql],
    ['booking', payBookingsSql],
  ] as const) {
    // The last payment of a row in the batch wins: an earlier card may have been declined in the same batch.
    const own = new Map(payments.flatMap((one) => (one.of === of ? [[one.id, one]] : [])))
    if (own.size === 0) continue
    const rows = await write(tx, paymentList.values([...own.values()]))
    if (rows.length !== own.size) return false
  }
  return true
}

const ids = unnested('d', charges.id)

const attempts = alias(charges, 'attempts')
const attemptsSql = prepare(
  build
    .update(charges)
    .set({
      kind: 'attempt',
      settled_at: sql`clock_timestamp()`,
      n: sql`1 + ${build
        .select({ n: sql`count(*)` })
        .from(attempts)
        .where(and(belongsTo(attempts, ids.value), eq(attempts.kind, 'attempt')))}`,
    })
    .from(ids.rows)
    .where(
      and(
        belongsTo(charges, ids.value),
        eq(charges.kind, 'charge'),
        inArray(charges.status, ['declined', 'unavailable']),
      ),
    )
    .returning({ id: charges.id }),
)

/**
 * Turns failed charges into past attempts, so that other charges can follow. `settled_at` stores when: commands decided
 * before that time have started or joined the failed charge. Returns false if one of the charges has changed since the
 * fetch.
 */
export async function writeAttempts(tx: Transaction, failed: readonly string[]): Promise<boolean> {
  if (failed.length === 0) return true
  return (await attemptsSql(tx, { d: arrayText(failed) })).length === failed.length
}

const chargeList = listOf('d', {
  purchase_id: charges.purchase_id,
  booking_id: charges.booking_id,
  amount: charges.amount,
  currency: charges.currency,
  hold_until_ms: 'float8',
})
const { hold_until_ms, ...chargeColumns } = chargeList.columns
const insertChargesSql = prepare(
  sql`${insertFrom(
    charges,
    build
      .select({ ...chargeColumns, kind: sql`'charge'`, hold_until: toTime(hold_until_ms) })
      .from(chargeList.rows)
      .orderBy(sql`coalesce(${chargeColumns.purchase_id}, ${chargeColumns.booking_id})`),
  )} ON CONFLICT DO NOTHING`,
)

const captureSql = prepare(
  build
    .update(charges)
    .set({ status: 'capturing', next_attempt_at: sql`clock_timestamp() + interval '2 seconds'` })
    .from(ids.rows)
    .where(and(belongsTo(charges, ids.value), eq(charges.kind, 'charge'), eq(charges.status, 'authorized')))
    .returning({ id: charges.id }),
)

const lockChargesSql = prepare(
  build
    .select({ id: charges.id })
    .from(ids.rows)
    .innerJoin(charges, and(belongsTo(charges, ids.value), eq(charges.kind, 'charge')))
    .orderBy(ids.value)
    .for('no key update', { of: charges }),
)

function refundStatement() {
  const other = alias(charges, 'other')
  const atProvider = and(eq(other.kind, 'refund'), other.at_provider, sql`${other.status} <> 'failed'`)
  const lost = and(eq(other.kind, 'dispute'), eq(other.status, 'lost'))
  const back = build
    .select({ amount: sql<number>`coalesce(sum(${other.amount}), 0)`.as('gone') })
    .from(other)
    .where(and(belongsTo(other, ids.value), or(atProvider, lost)))
    .as('back')
  const own = alias(charges, 'own')
  const ownRefund = build
    .select({ id: own.id })
    .from(own)
    .where(and(belongsTo(own, ids.value), eq(own.kind, 'refund'), not(own.at_provider)))
  return prepare(
    insertFrom(
      charges,
      build
        .select({
          purchase_id: charges.purchase_id,
          booking_id: charges.booking_id,
          kind: sql`'refund'`,
          amount: sql`${charges.amount} - ${back.amount}`,
          currency: charges.currency,
        })
        .from(ids.rows)
        .innerJoin(charges, and(belongsTo(charges, ids.value), eq(charges.kind, 'charge')))
        .crossJoinLateral(back)
        // Insert our refund only once. ON CONFLICT cannot do this: the trigger that sums the refunds rejects the second
        // row before ON CONFLICT applies.
        .where(and(sql`${charges.amount} > ${back.amount}`, sql`NOT EXISTS ${ownRefund}`))
        .orderBy(ids.value),
    ),
  )
}
const insertRefundsSql = refundStatement()

const idsOf = (requests: readonly ChargeRequest[], step: ChargeRequest['step']) =>
  // Each id once: a cancel and the `paid` that it overtook request the same refund, possibly in one batch.
  new Set(requests.filter((request) => request.step === step).map((request) => request.id))

/**
 * Writes the requests of charges, captures and refunds. Returns false if a charge due for capture is no longer
 * `authorized`; only the queue worker moves charges out of that status.
 */
export async function writeChargeRequests(tx: Transaction, requests: readonly ChargeRequest[]): Promise<boolean> {
  const charged = requests.filter((request) => request.step === 'charge')
  if (charged.length > 0) {
    const rows = charged.map(({ of, id, ...rest }) => ({ ...rest, [`${of}_id`]: id }))
    await insertChargesSql(tx, chargeList.values(rows))
  }
  const captures = idsOf(requests, 'capture')
  if (captures.size > 0 && (await captureSql(tx, { d: arrayText([...captures]) })).length !== captures.size)
    return false
  const refunds = idsOf(requests, 'refund')
  if (refunds.size > 0) {
    const d = arrayText([...refunds])
    // Lock the charges first, so that the next statement reads refunds made at the provider after the job that records
    // them has committed.
    await lockChargesSql(tx, { d })
    // Use a second statement, because it must see charges inserted just now and the rows whose commit the lock has
    // waited for.
    await insertRefundsSql(tx, { d })
  }
  return true
}
