/**
 * What a batch writes about charges and limits, in its own transaction: rows that request a charge, a capture or a refund,
 * and the units that each customer has of a limited resource. Invariant: no statement here waits for the provider; the
 * charge jobs carry out the committed rows, however often a job is lost.
 */
import { sql } from 'drizzle-orm'
import { query, type Transaction } from '../../shared/db/client.ts'
import { unnestRows } from '../../shared/db/unnest.ts'
import type { ChargeRequest, PaymentChange, PurchaseItem, Replacement, Resource } from '../decide/purchases.ts'

/** Reads the holdings of the batch's customers into the resources with a limit; no statement where there is no limit. */
export async function readHoldings(
  tx: Transaction,
  queued: readonly PurchaseItem[],
  resources: ReadonlyMap<string, Resource>,
): Promise<void> {
  const limited = new Set([...resources.values()].filter((one) => one.max_per_customer !== null).map((one) => one.id))
  if (limited.size === 0) return
  const pairs = new Map<string, { id: string; customer: string }>()
  for (const { purchase, command } of queued) {
    const { customer, items, payment } = purchase
    const refs = items.map((item) => item.resource)
    for (const one of [payment, command?.payment]) if (one?.method === 'wallet') refs.push(one.account)
    for (const ref of refs) if (limited.has(ref)) pairs.set(JSON.stringify([ref, customer]), { id: ref, customer })
  }
  const rows = await query<{ resource_id: string; customer: string; units: number }>(
    tx,
    sql`SELECT u.resource_id, u.customer, u.units
        FROM ${unnestRows('d', [...pairs.values()], { id: 'text', customer: 'text' })}
        JOIN customer_holdings u ON u.resource_id = d.id AND u.customer = d.customer`,
  )
  for (const { resource_id, customer, units } of rows) resources.get(resource_id)?.holdings.set(customer, units)
}

/** Writes the holdings after the batch. The resources' row locks are held, so that no other transaction changes them. */
export async function writeHoldings(tx: Transaction, resources: readonly Resource[]): Promise<void> {
  const rows = resources.flatMap(({ id, holdings }) =>
    Array.from(holdings, ([customer, units]) => ({ resource_id: id, customer, units })),
  )
  if (rows.length === 0) return
  await query(
    tx,
    sql`INSERT INTO customer_holdings (resource_id, customer, units)
        SELECT * FROM ${unnestRows('d', rows, { resource_id: 'text', customer: 'text', units: 'bigint' })}
        ON CONFLICT (resource_id, customer) DO UPDATE SET units = excluded.units
        WHERE customer_holdings.units <> excluded.units`,
  )
}

/** Inserts a confirmed purchase that replaces an expired one: once, by its unique index. */
export async function insertPurchaseReplacements(tx: Transaction, successors: readonly Replacement[]): Promise<void> {
  if (successors.length === 0) return
  await query(
    tx,
    sql`INSERT INTO purchases (id, queue, customer, items, amount, currency, payment, status, replaces_id, fencing_token, settled_at)
        SELECT d.id, p.queue, p.customer, p.items, p.amount, p.currency, p.payment, 'confirmed', p.id, d.fencing_token,
               clock_timestamp()
        FROM ${unnestRows('d', successors, { id: 'uuid', replaces_id: 'uuid', fencing_token: 'bigint' })}
        JOIN purchases p ON p.id = d.replaces_id`,
  )
}

/** Inserts an accepted booking that replaces an expired one: once, by its unique index. */
export async function insertBookingReplacements(tx: Transaction, rebooked: readonly Replacement[]): Promise<void> {
  if (rebooked.length === 0) return
  await query(
    tx,
    sql`INSERT INTO bookings (id, resource_id, kind, customer, period, amount, currency, payment, status, replaces_id, fencing_token,
                              settled_at)
        SELECT d.id, b.resource_id, b.kind, b.customer, b.period, b.amount, b.currency, b.payment, 'accepted', b.id, d.fencing_token,
               clock_timestamp()
        FROM ${unnestRows('d', rebooked, { id: 'uuid', replaces_id: 'uuid', fencing_token: 'bigint' })}
        JOIN bookings b ON b.id = d.replaces_id`,
  )
}

/** Writes new payment methods. False when one of the rows is no longer held or requested. */
export async function writePayments(tx: Transaction, payments: readonly PaymentChange[]): Promise<boolean> {
  for (const [of, table, status] of [
    ['purchase', 'purchases', 'held'],
    ['booking', 'bookings', 'requested'],
  ] as const) {
    // The last one of a batch wins: an earlier card may have been declined in it.
    const own = new Map(payments.flatMap((one) => (one.of === of ? [[one.id, one]] : [])))
    if (own.size === 0) continue
    const rows = await query(
      tx,
      sql`UPDATE ${sql.raw(table)} t SET payment = d.payment
          FROM ${unnestRows('d', [...own.values()], { id: 'uuid', payment: 'jsonb' })}
          -- Queued: the hold is settled in this batch too; its status is written later, under the same condition.
          WHERE t.id = d.id AND t.status IN ('queued', ${status}) RETURNING t.id`,
    )
    if (rows.length !== own.size) return false
  }
  return true
}

/**
 * Turns a failed charge into a past attempt, so that another one can follow. `settled_at` says when: a command that was
 * decided before has started or joined it. False when one of the charges has changed since the fetch.
 */
export async function writeAttempts(tx: Transaction, ids: readonly string[]): Promise<boolean> {
  if (ids.length === 0) return true
  const rows = await query(
    tx,
    sql`UPDATE charges c SET kind = 'attempt', settled_at = clock_timestamp(), n = 1 + (
          SELECT count(*) FROM charges a WHERE (a.purchase_id = d.id OR a.booking_id = d.id) AND a.kind = 'attempt')
        FROM (SELECT e::uuid AS id FROM json_array_elements_text(${JSON.stringify(ids)}::json) e) d
        WHERE (c.purchase_id = d.id OR c.booking_id = d.id) AND c.kind = 'charge' AND c.status IN ('declined', 'unavailable')
        RETURNING c.id`,
  )
  return rows.length === ids.length
}

/** Returns false if a charge due for capture is no longer `authorized`. Only the queue worker moves charges out of that status. */
export async function writeChargeRequests(tx: Transaction, payables: readonly ChargeRequest[]): Promise<boolean> {
  if (payables.length === 0) return true
  const [row] = await query<{ captures: number }>(
    tx,
    sql`
    WITH d AS MATERIALIZED (
      SELECT * FROM ${unnestRows('d', payables, { step: 'text', of: 'text', id: 'uuid', amount: 'bigint', currency: 'text', hold_until_ms: 'float8' })}
    ), charge AS (
      INSERT INTO charges (purchase_id, booking_id, kind, amount, currency, hold_until)
      SELECT CASE d.of WHEN 'purchase' THEN id END, CASE d.of WHEN 'booking' THEN id END, 'charge', amount, currency,
             to_timestamp(hold_until_ms / 1000)
      FROM d WHERE step = 'charge' ORDER BY id
      ON CONFLICT DO NOTHING
    ), capture AS (
      UPDATE charges c SET status = 'capturing', next_attempt_at = clock_timestamp() + interval '2 seconds'
      FROM d WHERE d.step = 'capture' AND (c.purchase_id = d.id OR c.booking_id = d.id)
        AND c.kind = 'charge' AND c.status = 'authorized'
      RETURNING 1
    )
    SELECT count(*) AS captures FROM capture`,
  )
  // Once each: a cancel and the `paid` that it overtook request the same refund, also in one batch.
  const refunds = new Set(payables.filter((payable) => payable.step === 'refund').map((payable) => payable.id))
  if (refunds.size > 0) {
    const of = sql`(SELECT e::uuid AS id FROM json_array_elements_text(${JSON.stringify([...refunds])}::json) e) d
      JOIN charges c ON (c.purchase_id = d.id OR c.booking_id = d.id) AND c.kind = 'charge'`
    // Lock first: refunds made at the provider are read after the job that records them has committed.
    await query(tx, sql`SELECT 1 FROM ${of} ORDER BY d.id FOR NO KEY UPDATE OF c`)
    // A statement of its own: it must see a charge that was inserted just now, and what the lock has waited for.
    await query(
      tx,
      sql`INSERT INTO charges (purchase_id, booking_id, kind, amount, currency)
          SELECT c.purchase_id, c.booking_id, 'refund', c.amount - back.amount, c.currency
          FROM ${of} CROSS JOIN LATERAL (
            SELECT coalesce(sum(r.amount), 0) AS amount FROM charges r
            WHERE (r.purchase_id = d.id OR r.booking_id = d.id)
              AND (r.kind = 'refund' AND r.at_provider AND r.status <> 'failed' OR r.kind = 'dispute' AND r.status = 'lost')
          ) back
          WHERE c.amount > back.amount
            -- Our refund is one row. Not by ON CONFLICT: the trigger that sums the refunds rejects the row before it.
            AND NOT EXISTS (SELECT 1 FROM charges r
              WHERE (r.purchase_id = d.id OR r.booking_id = d.id) AND r.kind = 'refund' AND NOT r.at_provider)
          ORDER BY d.id`,
    )
  }
  return row?.captures === payables.filter((payable) => payable.step === 'capture').length
}
