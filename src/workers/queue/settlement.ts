/**
 * One batch: fetch the pending rows of the queues, decide them and commit in one fenced transaction. Invariants: the
 * first statement of the transaction locks every resource it will write, in one order, and lets only the newest lease
 * holder pass; decisions use rows read under those locks; a write that changes zero rows rolls the transaction back.
 */
import { sql } from 'drizzle-orm'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { query, transaction } from '../../shared/db/client.ts'
import { sqlState } from '../../shared/db/errors.ts'
import type { CommandKind, Payment } from '../../shared/db/schema.ts'
import { unnestRows } from '../../shared/db/unnest.ts'
import { type BookingDecision, decideBookings } from '../decide/bookings.ts'
import {
  decidePurchases,
  type PurchaseDecision,
  type PurchaseItem,
  type PurchaseRow,
  type Replacement,
  type Resource,
} from '../decide/purchases.ts'
import { readActiveBookings, writeBookings } from './booking-rows.ts'
import {
  insertBookingReplacements,
  insertPurchaseReplacements,
  readHoldings,
  writeAttempts,
  writeChargeRequests,
  writeHoldings,
  writePayments,
} from './charge-rows.ts'
import type { QueueCursor, QueueItem } from './queue-item.ts'

/** Decision of a whole batch: purchases and bookings share their resources, commands and ledger entries. */
export type Decision = Omit<PurchaseDecision, 'skipped' | 'replacements'> &
  Pick<BookingDecision, 'bookings' | 'overdue'> & {
    purchaseReplacements: Replacement[]
    bookingReplacements: Replacement[]
    skipped: QueueItem[]
  }

/** A lease holder with a newer token has written: the transaction of this one is rolled back. */
export class StaleLeaseError extends Error {
  readonly code = 'stale_lease'
  /** rejected resources, each with the stored fencing token, which is higher than the rejected one */
  readonly stored: ReadonlyMap<string, number>
  constructor(fences: ReadonlyMap<string, number>) {
    super(`superseded on ${[...fences.keys()].join(', ')}`)
    this.stored = fences
  }
}

/** A writer without the lease changed a row between fetch and write: the transaction is rolled back, the rows are fetched again. */
export class ChangedRowError extends Error {
  readonly code = 'changed_row'
}

/** Rows of one queue in one batch: a transaction of 500 decisions takes tens of milliseconds. */
const ROWS_PER_QUEUE = 500
/** Rows of all queues in one transaction: once for the queues with few rows, once for those with many. */
const ROWS_PER_BATCH = 2_000

type FetchedRow = PurchaseRow & {
  fetched_queue: string
  kind: PurchaseItem['kind']
  command_id: string | null
  command_seq: number | null
  action: CommandKind | null
  command_created_ms: number | null
  command_payment: Payment | null
}

/** Not extract(): its numeric costs ten times as much. */
const ms = (column: string) => sql.raw(`date_part('epoch', ${column}) * 1000`)
const columns = sql.raw(
  `p.id, p.seq, p.queue, p.customer, p.items, p.amount, p.currency, p.payment, p.hold_seconds, p.status, p.created_at,
   p.expires_at, p.replaces_id`,
)

/** Rows that each of `queues` queues may add to one batch. */
export const rowsPerQueue = (queues: number) => Math.min(ROWS_PER_QUEUE, Math.ceil(ROWS_PER_BATCH / queues))

/**
 * Pending rows of these queues, each queue in order: overdue holds on the resource first, then purchases and commands by
 * seq. Rows of one purchase share one object.
 */
export async function fetchPending(
  client: Client,
  cursors: readonly QueueCursor[],
): Promise<Map<string, PurchaseItem[]>> {
  const rows = await query<FetchedRow>(
    client,
    sql`
    SELECT q.queue AS fetched_queue, i.kind, i.command_id, i.command_seq, i.action, i.command_created_ms, i.command_payment,
           i.id, i.seq, i.queue, i.customer, i.items, i.amount, i.currency, i.payment, i.hold_seconds, i.status,
           i.replaces_id, i.charge, ${ms('i.hold_until')} AS hold_until_ms,
           ${ms('i.created_at')} AS created_ms, ${ms('i.expires_at')} AS expires_ms
    FROM ${unnestRows('q', cursors, { queue: 'text', after: 'bigint', limit: 'int' })}
    -- The queue of a deleted resource is settled too: its rows are rejected.
    LEFT JOIN resources r ON r.id = q.queue
    CROSS JOIN LATERAL (
      (SELECT 'expired' AS kind, NULL::uuid AS command_id, NULL::bigint AS command_seq, NULL::text AS action,
              NULL::float8 AS command_created_ms, NULL::jsonb AS command_payment, 0 AS rank, c.status AS charge,
              c.hold_until, ${columns}
       FROM purchases p LEFT JOIN charges c ON c.purchase_id = p.id AND c.kind = 'charge'
       WHERE r.held > 0 AND p.status = 'held' AND p.expires_at <= clock_timestamp()
         AND (p.items @> jsonb_build_array(jsonb_build_object('resource', q.queue)) OR p.payment ->> 'account' = q.queue)
       ORDER BY p.seq LIMIT q."limit")
      UNION ALL
      (SELECT 'purchase', NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL, ${columns}
       FROM purchases p
       WHERE p.queue = q.queue AND p.status = 'queued' AND p.seq > q.after
       ORDER BY p.seq LIMIT q."limit")
      UNION ALL
      (SELECT 'command', c.id, c.seq, c.action, ${ms('c.created_at')}, c.payment, 1, h.status, h.hold_until, ${columns}
       FROM commands c JOIN purchases p ON p.id = c.purchase_id
       LEFT JOIN charges h ON h.purchase_id = p.id AND h.kind = 'charge'
       WHERE c.queue = q.queue AND c.status = 'queued'
       ORDER BY c.seq LIMIT q."limit")
    ) i
    ORDER BY q.queue, i.rank, coalesce(i.command_seq, i.seq)`,
  )
  const purchases = new Map<string, PurchaseRow>()
  const fetched = new Map<string, PurchaseItem[]>(cursors.map((cursor) => [cursor.queue, []]))
  for (const row of rows) {
    const { fetched_queue, kind, command_id, command_seq, action, command_created_ms, command_payment } = row
    let purchase = purchases.get(row.id)
    if (!purchase) {
      purchase = toPurchaseRow(row)
      purchases.set(purchase.id, purchase)
    }
    const item: PurchaseItem =
      command_id !== null && command_seq !== null && action !== null
        ? {
            kind: 'command',
            purchase,
            command: {
              id: command_id,
              seq: command_seq,
              action,
              created_ms: command_created_ms ?? 0,
              payment: command_payment,
            },
          }
        : { kind: kind === 'expired' ? 'expired' : 'purchase', purchase }
    fetched.get(fetched_queue)?.push(item)
  }
  return fetched
}

/** Member by member: a rest pattern (`...purchase`) costs four times as much. */
const toPurchaseRow = (row: FetchedRow): PurchaseRow => ({
  id: row.id,
  seq: row.seq,
  queue: row.queue,
  customer: row.customer,
  items: row.items,
  amount: row.amount,
  currency: row.currency,
  payment: row.payment,
  hold_seconds: row.hold_seconds,
  status: row.status,
  expires_ms: row.expires_ms,
  created_ms: row.created_ms,
  charge: row.charge,
  hold_until_ms: row.hold_until_ms,
  replaces_id: row.replaces_id,
})

type FencedResource = Omit<Resource, 'token' | 'holdings'> & { now_ms: number }

/**
 * Locks the resources in order and stores the lease's token in each of them that has no higher one. A stored token only
 * rises, so `fencing_token <= token` accepts the first and all later writes of a lease and none of a superseded holder.
 */
async function lockAndFence(
  tx: Transaction,
  tokens: ReadonlyMap<string, number>,
): Promise<[Map<string, Resource>, number]> {
  const requested = Array.from(tokens, ([id, token]) => ({ id, token }))
  const rows = await query<FencedResource>(
    tx,
    sql`
    WITH requested AS (SELECT * FROM ${unnestRows('w', requested, { id: 'text', token: 'bigint' })}),
    locked AS MATERIALIZED (
      SELECT r.id, w.token FROM requested w JOIN resources r ON r.id = w.id ORDER BY r.id /* guard:row-lock */ FOR NO KEY UPDATE OF r /* end:row-lock */
    )
    /* guard:row-update */ UPDATE resources r SET fencing_token = l.token
    FROM locked l
    WHERE r.id = l.id /* guard:fence */ AND r.fencing_token <= l.token /* end:fence */
    RETURNING r.id, r.kind, r.available, r.held, r.price, r.currency, r.max_per_customer,
              ${ms('clock_timestamp()')} AS now_ms /* end:row-update */`,
  )
  const resources = new Map<string, Resource>()
  for (const row of rows) resources.set(row.id, { ...row, holdings: new Map(), token: tokens.get(row.id) ?? 0 })
  const missing = [...tokens.keys()].filter((ref) => !resources.has(ref))
  if (missing.length > 0) {
    // Not in the table: the purchase is rejected (unknown_resource). In the table and not updated: a newer token is stored.
    const stale = await query<{ id: string; fencing_token: number }>(
      tx,
      sql`SELECT r.id, r.fencing_token FROM resources r
          WHERE r.id IN (SELECT json_array_elements_text(${JSON.stringify(missing)}::json))`,
    )
    if (stale.length > 0) throw new StaleLeaseError(new Map(stale.map((row) => [row.id, row.fencing_token])))
  }
  return [resources, Math.max(0, ...rows.map((row) => row.now_ms))]
}

/** Writes a decision in one statement; every part must change exactly the rows it names. */
async function persist(tx: Transaction, decision: Decision): Promise<void> {
  const [row] = await query<{ purchases: number; commands: number; ledger: number; resources: number }>(
    tx,
    sql`
    WITH p AS (
      UPDATE purchases t
      SET status = d.status, reason = d.reason, observed = d.observed, amount = d.amount, currency = d.currency, fencing_token = d.fencing_token,
          expires_at = CASE WHEN d.status = 'held' THEN to_timestamp(d.expires_ms / 1000) ELSE t.expires_at END,
          settled_at = clock_timestamp()
      FROM ${unnestRows('d', decision.purchases, { id: 'uuid', was: 'text', status: 'text', reason: 'text', observed: 'jsonb', amount: 'bigint', currency: 'text', expires_ms: 'float8', fencing_token: 'bigint' })}
      WHERE t.id = d.id /* guard:status */ AND t.status = d.was /* end:status */
        -- A hold that a reader has seen as expired must not continue: the clock is read under the row lock.
        AND (d.was <> 'held' OR d.status NOT IN ('held', 'confirmed') OR t.expires_at > clock_timestamp())
      RETURNING 1
    ), c AS (
      UPDATE commands t
      SET status = d.status, reason = d.reason, observed_status = d.observed_status, fencing_token = d.fencing_token, settled_at = clock_timestamp()
      FROM ${unnestRows('d', decision.commands, { id: 'uuid', status: 'text', reason: 'text', observed_status: 'text', fencing_token: 'bigint' })}
      WHERE t.id = d.id AND t.status = 'queued'
      RETURNING 1
    ), m AS (
      INSERT INTO ledger_entries (resource_id, purchase_id, booking_id, delta, reason, fencing_token)
      SELECT * FROM ${unnestRows('d', decision.ledger, { resource_id: 'text', purchase_id: 'uuid', booking_id: 'uuid', delta: 'bigint', reason: 'text', fencing_token: 'bigint' })}
      -- Only if no row has changed since the fetch: else a unique effect that another batch wrote would look like a bad row.
      WHERE (SELECT count(*) FROM p) = ${decision.purchases.length} AND (SELECT count(*) FROM c) = ${decision.commands.length}
      RETURNING 1
    ), r AS (
      UPDATE resources t SET available = d.available, held = d.held, updated_at = now()
      FROM ${unnestRows('d', decision.resources, { id: 'text', available: 'bigint', held: 'bigint', token: 'bigint' })}
      WHERE t.id = d.id /* guard:row-token */ AND t.fencing_token = d.token /* end:row-token */
      RETURNING 1
    )
    SELECT (SELECT count(*) FROM p) AS purchases, (SELECT count(*) FROM c) AS commands,
           (SELECT count(*) FROM m) AS ledger, (SELECT count(*) FROM r) AS resources`,
  )
  for (const part of ['purchases', 'commands', 'ledger', 'resources'] as const) {
    if (row?.[part] !== decision[part].length) {
      throw new ChangedRowError(`${row?.[part]} of ${decision[part].length} ${part} were unchanged since the fetch`)
    }
  }
}

/** The items with copies of their rows; items of one row share its copy. */
function cloneItems(items: readonly QueueItem[]): QueueItem[] {
  const copies = new Map<object, object>()
  const copy = <Row extends object>(row: Row): Row => {
    const own = (copies.get(row) ?? { ...row }) as Row
    copies.set(row, own)
    return own
  }
  return items.map((item) =>
    item.purchase ? { ...item, purchase: copy(item.purchase) } : { ...item, booking: copy(item.booking) },
  )
}

/**
 * Decides and commits these items in one transaction, under the leases' tokens by resource; a ride waits `accept_ms` to
 * be accepted. When the signal aborts, the transaction is rolled back.
 * @throws StaleLeaseError or ChangedRowError: nothing was written. After any other error only a new fetch shows the outcome
 */
export async function settle(
  client: Client,
  items: readonly QueueItem[],
  tokens: ReadonlyMap<string, number>,
  accept_ms: number,
  signal: AbortSignal,
): Promise<Decision & { now_ms: number }> {
  const committed = transaction(client, signal, async (tx) => {
    const [resources, now_ms] = await lockAndFence(tx, tokens)
    // Deciding changes the status of the rows; a batch that is rolled back and split needs them as fetched.
    const fresh = cloneItems(items)
    const purchases = fresh.filter((item) => item.purchase !== undefined)
    await readHoldings(tx, purchases, resources)
    const decided = decidePurchases(purchases, resources, now_ms)
    const bookings = fresh.filter((item) => item.booking !== undefined)
    const booked = decideBookings(bookings, await readActiveBookings(tx, bookings), resources, now_ms, accept_ms)
    const decision: Decision = {
      purchases: decided.purchases,
      purchaseReplacements: decided.replacements,
      bookings: booked.bookings,
      bookingReplacements: booked.replacements,
      overdue: booked.overdue,
      chargeRequests: [...decided.chargeRequests, ...booked.chargeRequests],
      payments: [...decided.payments, ...booked.payments],
      attempts: [...decided.attempts, ...booked.attempts],
      commands: [...decided.commands, ...booked.commands],
      ledger: [...decided.ledger, ...booked.ledger],
      resources: [...new Set([...decided.resources, ...booked.resources])],
      skipped: [...decided.skipped, ...booked.skipped],
    }
    // First, while the held units and requested times are unchanged since the fetch.
    if (!(await writePayments(tx, decision.payments))) throw new ChangedRowError('a row to be paid for has changed')
    if (!(await writeBookings(tx, booked))) throw new ChangedRowError('a booking has changed')
    // Before the commands: a command that starts a new charge is decided after the failed charge has ended.
    if (!(await writeAttempts(tx, decision.attempts))) throw new ChangedRowError('a charge has changed')
    // Before the ledger entries that refer to them.
    await insertPurchaseReplacements(tx, decision.purchaseReplacements)
    await insertBookingReplacements(tx, decision.bookingReplacements)
    if (decision.purchases.length + decision.commands.length + decision.ledger.length > 0) await persist(tx, decision)
    await writeHoldings(tx, decision.resources)
    if (!(await writeChargeRequests(tx, decision.chargeRequests))) throw new ChangedRowError('a charge has changed')
    return { ...decision, now_ms }
  })
  return await committed.catch((error) => {
    // Rows of other queues (another driver of the same rider) are written without their lease: a deadlock is possible.
    throw sqlState(error) === '40P01'
      ? new ChangedRowError('rolled back by Postgres: deadlock with another batch', { cause: error })
      : error
  })
}

/**
 * Ends a row that cannot be decided or written: a purchase fails, a booking or command is rejected, with the reason
 * `unprocessable`. A booking that violates a constraint of the calendar is rejected as a conflict.
 */
export async function quarantine(client: Client, item: QueueItem, error: unknown): Promise<void> {
  const settled = sql`settled_at = clock_timestamp()`
  if (item.kind === 'command') {
    await query(
      client,
      sql`UPDATE commands SET status = 'rejected', reason = 'unprocessable', ${settled}
          WHERE id = ${item.command.id} AND status = 'queued'`,
    )
  } else if (item.purchase) {
    await query(
      client,
      sql`UPDATE purchases SET status = 'failed', reason = 'unprocessable', ${settled}
          WHERE id = ${item.purchase.id} AND status = 'queued'`,
    )
  } else {
    await query(
      client,
      sql`UPDATE bookings SET status = 'rejected', reason = ${isConstraintConflict(error) ? 'conflict' : 'unprocessable'}, ${settled}
          WHERE id = ${item.booking.id} AND status = 'queued'`,
    )
  }
}

/** EXCLUDE or the riders' unique index: a booking that was written without the lease already has this time. */
export const isConstraintConflict = (error: unknown) => sqlState(error) === '23P01' || sqlState(error) === '23505'
