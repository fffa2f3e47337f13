/**
 * One batch: fetch the pending rows of the queues, decide them and commit in one fenced transaction. Invariants: the
 * first statement of the transaction locks every resource it will write, in one order, and lets only the newest lease
 * holder pass; decisions use rows read under those locks; a write that changes zero rows rolls the transaction back.
 * Tests remove the code between the guard markers (test/races, test/chaos).
 */
import { and, eq, lte, sql } from 'drizzle-orm'
import { type Client, type Transaction, transaction } from '../../shared/db/client.ts'
import { sqlState } from '../../shared/db/errors.ts'
import { bookings, commands, purchases, resources } from '../../shared/db/schema.ts'
import { build, epochMs, isOneOf, listOf, prepare, value } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { PROCESS_ID } from '../../shared/fleet-reports.ts'
import { decideBookings } from '../decide/bookings.ts'
import { decidePurchases } from '../decide/purchases.ts'
import type { BookingDecision, PurchaseDecision, Replacement, Resource } from '../decide/types.ts'
import { insertBookingReplacements, readActiveBookings, writeBookings } from './booking-rows.ts'
import { writeAttempts, writeChargeRequests, writePayments } from './charge-rows.ts'
import { readHoldings, writeHoldings } from './limit-rows.ts'
import { insertReplacements, persist } from './purchase-rows.ts'
import type { QueueItem } from './queue-item.ts'
import { settledBy } from './settlement-columns.ts'

/**
 * The decision about a whole batch: the lists of resources, commands and ledger entries cover purchases and bookings.
 */
export type Decision = Omit<PurchaseDecision, 'skipped' | 'replacements'> &
  Pick<BookingDecision, 'bookings' | 'overdue'> & {
    purchaseReplacements: Replacement[]
    bookingReplacements: Replacement[]
    skipped: QueueItem[]
  }

/** A holder with a newer token has already written, so our transaction is rolled back. */
export class StaleLeaseError extends Error {
  readonly code = 'stale_lease'
  /** rejected resources, each with the stored fencing token, which is higher than the rejected one */
  readonly stored: ReadonlyMap<string, number>
  constructor(fences: ReadonlyMap<string, number>) {
    super(`superseded on ${[...fences.keys()].join(', ')}`)
    this.stored = fences
  }
}

/**
 * A writer without the lease has changed a row between our fetch and our write. The transaction is rolled back, and the
 * batcher fetches the rows again.
 */
export class ChangedRowError extends Error {
  readonly code = 'changed_row'
}

/** Most rows of one queue in one batch: a transaction of 500 decisions takes tens of milliseconds. */
const ROWS_PER_QUEUE = 500
/**
 * Most rows of all queues in one transaction. The batcher applies rowsPerQueue once to all queues and once to the
 * queues whose last batch was full, so a transaction has at most about twice this number.
 */
const ROWS_PER_BATCH = 2_000

/** Returns how many rows each of `queues` queues may add to one batch. */
export const rowsPerQueue = (queues: number) => Math.min(ROWS_PER_QUEUE, Math.ceil(ROWS_PER_BATCH / queues))

/** Parameters of the fence: each resource that the batch will write, with the token of its lease. */
const fenceList = listOf('w', { id: resources.id, token: resources.fencing_token })

function fenceStatement() {
  const { id, token } = fenceList.columns
  const rows = build
    .select({ id: resources.id, token: token.as('token') })
    .from(fenceList.rows)
    .innerJoin(resources, eq(resources.id, id))
    .orderBy(resources.id)
  const locked = build
    .$with('locked')
    .as(/* guard:row-lock */ rows.for('no key update', { of: resources }) /* end:row-lock */)
  const fenced = {
    id: resources.id,
    kind: resources.kind,
    available: resources.available,
    held: resources.held,
    price: resources.price,
    currency: resources.currency,
    max_per_customer: resources.max_per_customer,
    now_ms: epochMs('clock_timestamp()').as('now_ms'),
  }
  return prepare(
    /* guard:row-update */
    build
      .with(locked)
      .update(resources)
      .set({ fencing_token: sql`${locked.token}` })
      .from(locked)
      .where(
        and(
          eq(resources.id, locked.id),
          /* guard:fence */
          lte(resources.fencing_token, locked.token),
          /* end:fence */
        ),
      )
      .returning(fenced),
    /* end:row-update */
  )
}
const lockAndFenceSql = fenceStatement()

const storedSql = prepare(
  build
    .select({ id: resources.id, fencing_token: resources.fencing_token })
    .from(resources)
    .where(isOneOf(resources.id, 'ids')),
)

/**
 * Locks the resources in order and stores the lease's token in each resource whose stored token is not higher. A stored
 * token only rises, so `fencing_token <= token` accepts the first and all later writes under a lease, and no write of a
 * superseded holder. Returns the resources and the database clock.
 */
async function lockAndFence(
  tx: Transaction,
  tokens: ReadonlyMap<string, number>,
): Promise<[Map<string, Resource>, number]> {
  const requested = Array.from(tokens, ([id, token]) => ({ id, token }))
  const rows = await lockAndFenceSql(tx, fenceList.values(requested))
  const fenced = new Map<string, Resource>()
  for (const { now_ms: _, ...row } of rows) {
    fenced.set(row.id, { ...row, holdings: new Map(), token: tokens.get(row.id) ?? 0 })
  }
  const missing = [...tokens.keys()].filter((id) => !fenced.has(id))
  if (missing.length > 0) {
    // A resource that is not in the table does not exist, and the decision rejects its rows (unknown_resource). A
    // resource that is in the table but was not updated has a newer token.
    const stale = await storedSql(tx, { ids: arrayText(missing) })
    if (stale.length > 0) throw new StaleLeaseError(new Map(stale.map((row) => [row.id, row.fencing_token])))
  }
  return [fenced, Math.max(0, ...rows.map((row) => row.now_ms))]
}

/** Returns the items with copies of their rows. Items of one row share one copy. */
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
 * Decides and commits these items in one transaction, which is rolled back if the signal aborts. `tokens`: fencing
 * token per resource. `accept_ms`: how long a driver has to accept a ride.
 * @throws StaleLeaseError or ChangedRowError: nothing was written. After any other error the outcome is unknown until
 * the rows are fetched again
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
    // Decide on copies: decisions change the status of the rows, and a batch that is rolled back and split needs the
    // rows as fetched.
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
    // Write payments first: the statement requires that the row is still queued, held or requested, and later writes
    // change that.
    if (!(await writePayments(tx, decision.payments))) throw new ChangedRowError('a row to be paid for has changed')
    if (!(await writeBookings(tx, booked))) throw new ChangedRowError('a booking has changed')
    // Write ended charges before commands: a command may start a new charge on the same row.
    if (!(await writeAttempts(tx, decision.attempts))) throw new ChangedRowError('a charge has changed')
    // Insert replacements before the ledger entries that refer to them.
    await insertReplacements(tx, decision.purchaseReplacements)
    await insertBookingReplacements(tx, decision.bookingReplacements)
    if (decision.purchases.length + decision.commands.length + decision.ledger.length > 0) {
      const changed = await persist(tx, decision)
      if (changed !== undefined) throw new ChangedRowError(changed)
    }
    await writeHoldings(tx, decision.resources)
    if (!(await writeChargeRequests(tx, decision.chargeRequests))) throw new ChangedRowError('a charge has changed')
    return { ...decision, now_ms }
  })
  return await committed.catch((error) => {
    // A booking batch may also write a rider's booking in another driver's queue, whose lease it does not hold, so two
    // batches can deadlock.
    throw sqlState(error) === '40P01'
      ? new ChangedRowError('rolled back by Postgres: deadlock with another batch', { cause: error })
      : error
  })
}

const ended = { reason: sql`${value('reason')}`, settled_at: sql`clock_timestamp()`, settled_by: settledBy }
const rejectCommandSql = prepare(
  build
    .update(commands)
    .set({ ...ended, status: 'rejected' })
    .where(and(eq(commands.id, value('id')), eq(commands.status, 'queued'))),
)
const failPurchaseSql = prepare(
  build
    .update(purchases)
    .set({ ...ended, status: 'failed' })
    .where(and(eq(purchases.id, value('id')), eq(purchases.status, 'queued'))),
)
const rejectBookingSql = prepare(
  build
    .update(bookings)
    .set({ ...ended, status: 'rejected' })
    .where(and(eq(bookings.id, value('id')), eq(bookings.status, 'queued'))),
)

/**
 * Ends a row that cannot be decided or written, with the reason `unprocessable`: a purchase fails, a booking or command
 * is rejected. A booking that violates a constraint of the calendar is rejected with the reason `conflict`.
 */
export async function quarantine(client: Client, item: QueueItem, error: unknown): Promise<void> {
  const end = { reason: 'unprocessable', settled_by: PROCESS_ID }
  if (item.kind === 'command') await rejectCommandSql(client, { ...end, id: item.command.id })
  else if (item.purchase) await failPurchaseSql(client, { ...end, id: item.purchase.id })
  else {
    const conflict = isConstraintConflict(error)
    await rejectBookingSql(client, { ...end, id: item.booking.id, ...(conflict && { reason: 'conflict' }) })
  }
}

/**
 * Returns true if the EXCLUDE constraint or the riders' unique index rejected the write: a booking that was written
 * without the lease already has this time.
 */
export const isConstraintConflict = (error: unknown) => sqlState(error) === '23P01' || sqlState(error) === '23505'
