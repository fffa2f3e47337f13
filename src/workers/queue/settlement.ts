/**
 * One batch: take what stands in the lines, and commit what was decided in one fenced transaction. Invariants: the
 * first statement of the transaction locks every resource it will write, in one order, and lets only the newest
 * lease holder past; what is decided is decided on rows read under those locks; zero rows anywhere rolls all back.
 */
import { sql } from 'drizzle-orm'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { query, sqlState, transaction, unnestRows } from '../../shared/db/client.ts'
import type { CommandKind, Payment } from '../../shared/db/schema.ts'
import { type BookingVerdict, decideBookings } from '../decide/bookings.ts'
import {
  type Verdict as Decided,
  decide,
  type PurchaseItem,
  type PurchaseRow,
  type Resource,
} from '../decide/purchases.ts'
import { readActive, writeBookings } from './booking-rows.ts'
import {
  readTaken,
  writeAttempts,
  writePayables,
  writePayments,
  writeRebooked,
  writeSuccessors,
  writeTaken,
} from './charge-rows.ts'
import type { Item, QueueCursor } from './queue-item.ts'

/** What was decided about a batch: purchases and bookings share their resources, commands and movements. */
export type Verdict = Omit<Decided, 'skipped'> &
  Pick<BookingVerdict, 'bookings' | 'overdue' | 'rebooked'> & { skipped: Item[] }

/** A lease holder with a newer token has written: this one's whole transaction is rolled back. */
export class StaleLeaseError extends Error {
  readonly code = 'stale_lease'
  /** refused resources, with the fence found stored (higher than the token that was refused) */
  readonly fences: ReadonlyMap<string, number>
  constructor(fences: ReadonlyMap<string, number>) {
    super(`superseded on ${[...fences.keys()].join(', ')}`)
    this.fences = fences
  }
}

/** A row changed between being taken and being written (a writer without the lease): rolled back, taken again. */
export class ChangedRowError extends Error {
  readonly code = 'changed_row'
}

/** Rows of one line in one batch: a transaction of 500 decisions takes tens of milliseconds. */
const ROWS_PER_LINE = 500
/** Rows of all lines in one transaction: once for those that bring a few, once for those that bring many. */
const ROWS_PER_BATCH = 2_000

type Taken = PurchaseRow & {
  line: string
  kind: PurchaseItem['kind']
  command_id: string | null
  command_seq: number | null
  command: CommandKind | null
  command_created_ms: number | null
  command_payment: Payment | null
}

/** Not extract(), whose numeric costs ten times as much. */
const ms = (column: string) => sql.raw(`date_part('epoch', ${column}) * 1000`)
const columns = sql.raw(
  `p.id, p.seq, p.queue, p.customer, p.lines, p.amount, p.currency, p.payment, p.hold_seconds, p.status, p.created_at,
   p.expires_at, p.replaces`,
)

/** How many rows a line may bring when `lines` lines share a batch. */
export const rowsPerLine = (lines: number) => Math.min(ROWS_PER_LINE, Math.ceil(ROWS_PER_BATCH / lines))

/**
 * What stands in these lines, each line in order: overdue holds on the resource first, then purchases and commands by
 * seq. Rows of one purchase share one object.
 */
export async function take(client: Client, lines: readonly QueueCursor[]): Promise<Map<string, PurchaseItem[]>> {
  const rows = await query<Taken>(
    client,
    sql`
    SELECT q.queue AS line, i.kind, i.command_id, i.command_seq, i.command, i.command_created_ms, i.command_payment,
           i.id, i.seq, i.queue, i.customer, i.lines, i.amount, i.currency, i.payment, i.hold_seconds, i.status,
           i.replaces, i.charge, ${ms('i.hold_until')} AS hold_until_ms,
           ${ms('i.created_at')} AS created_ms, ${ms('i.expires_at')} AS expires_ms
    FROM ${unnestRows('q', lines, { queue: 'text', after: 'bigint', limit: 'int' })}
    -- A resource that is gone still has its line, to be answered.
    LEFT JOIN resources r ON r.ref = q.queue
    CROSS JOIN LATERAL (
      (SELECT 'expired' AS kind, NULL::uuid AS command_id, NULL::bigint AS command_seq, NULL::text AS command,
              NULL::float8 AS command_created_ms, NULL::jsonb AS command_payment, 0 AS rank, c.status AS charge,
              c.hold_until, ${columns}
       FROM purchases p LEFT JOIN charges c ON c.purchase = p.id AND c.purpose = 'charge'
       WHERE r.held > 0 AND p.status = 'held' AND p.expires_at <= clock_timestamp()
         AND (p.lines @> jsonb_build_array(jsonb_build_object('resource', q.queue)) OR p.payment ->> 'account' = q.queue)
       ORDER BY p.seq LIMIT q."limit")
      UNION ALL
      (SELECT 'purchase', NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL, ${columns}
       FROM purchases p
       WHERE p.queue = q.queue AND p.status = 'queued' AND p.seq > q.after
       ORDER BY p.seq LIMIT q."limit")
      UNION ALL
      (SELECT 'command', c.id, c.seq, c.command, ${ms('c.created_at')}, c.payment, 1, h.status, h.hold_until, ${columns}
       FROM commands c JOIN purchases p ON p.id = c.purchase
       LEFT JOIN charges h ON h.purchase = p.id AND h.purpose = 'charge'
       WHERE c.queue = q.queue AND c.status = 'queued'
       ORDER BY c.seq LIMIT q."limit")
    ) i
    ORDER BY q.queue, i.rank, coalesce(i.command_seq, i.seq)`,
  )
  const purchases = new Map<string, PurchaseRow>()
  const taken = new Map<string, PurchaseItem[]>(lines.map((line) => [line.queue, []]))
  for (const row of rows) {
    const { line, kind, command_id, command_seq, command, command_created_ms, command_payment } = row
    let purchase = purchases.get(row.id)
    if (!purchase) {
      purchase = purchaseOf(row)
      purchases.set(purchase.id, purchase)
    }
    const item: PurchaseItem =
      command_id !== null && command_seq !== null && command !== null
        ? {
            kind: 'command',
            purchase,
            command: {
              id: command_id,
              seq: command_seq,
              command,
              created_ms: command_created_ms ?? 0,
              payment: command_payment,
            },
          }
        : { kind: kind === 'expired' ? 'expired' : 'purchase', purchase }
    taken.get(line)?.push(item)
  }
  return taken
}

/** Member by member: what remains of a row after the others were taken off costs four times as much. */
const purchaseOf = (row: Taken): PurchaseRow => ({
  id: row.id,
  seq: row.seq,
  queue: row.queue,
  customer: row.customer,
  lines: row.lines,
  amount: row.amount,
  currency: row.currency,
  payment: row.payment,
  hold_seconds: row.hold_seconds,
  status: row.status,
  expires_ms: row.expires_ms,
  created_ms: row.created_ms,
  charge: row.charge,
  hold_until_ms: row.hold_until_ms,
  replaces: row.replaces,
})

type Guarded = Omit<Resource, 'token' | 'taken'> & { now_ms: number }

/**
 * Locks the resources in order and sets each fence to its lease's token where none higher is stored. A fence only
 * rises, so `fencing_token <= token` lets a lease's first write and its later ones pass, and a superseded holder's never.
 */
async function guard(tx: Transaction, tokens: ReadonlyMap<string, number>): Promise<[Map<string, Resource>, number]> {
  const wanted = Array.from(tokens, ([ref, token]) => ({ ref, token }))
  const rows = await query<Guarded>(
    tx,
    sql`
    WITH wanted AS (SELECT * FROM ${unnestRows('w', wanted, { ref: 'text', token: 'bigint' })}),
    locked AS MATERIALIZED (
      SELECT r.ref, w.token FROM wanted w JOIN resources r ON r.ref = w.ref ORDER BY r.ref /* guard:row-lock */ FOR NO KEY UPDATE OF r /* end:row-lock */
    )
    /* guard:row-update */ UPDATE resources r SET fencing_token = l.token
    FROM locked l
    WHERE r.ref = l.ref /* guard:fence */ AND r.fencing_token <= l.token /* end:fence */
    RETURNING r.ref, r.kind, r.available, r.held, r.price, r.currency, r.max_per_customer,
              ${ms('clock_timestamp()')} AS now_ms /* end:row-update */`,
  )
  const resources = new Map<string, Resource>()
  for (const row of rows) resources.set(row.ref, { ...row, taken: new Map(), token: tokens.get(row.ref) ?? 0 })
  const missing = [...tokens.keys()].filter((ref) => !resources.has(ref))
  if (missing.length > 0) {
    // Not in the table at all is an answer (unknown_resource); in the table and not updated is a newer fence.
    const stale = await query<{ ref: string; fencing_token: number }>(
      tx,
      sql`SELECT r.ref, r.fencing_token FROM resources r
          WHERE r.ref IN (SELECT json_array_elements_text(${JSON.stringify(missing)}::json))`,
    )
    if (stale.length > 0) throw new StaleLeaseError(new Map(stale.map((row) => [row.ref, row.fencing_token])))
  }
  return [resources, Math.max(0, ...rows.map((row) => row.now_ms))]
}

/** Writes a verdict in one statement; every part must change exactly the rows it names. */
async function write(tx: Transaction, verdict: Verdict): Promise<void> {
  const [row] = await query<{ purchases: number; commands: number; movements: number; resources: number }>(
    tx,
    sql`
    WITH p AS (
      UPDATE purchases t
      SET status = d.status, reason = d.reason, met = d.met, amount = d.amount, currency = d.currency, fencing_token = d.fencing_token,
          expires_at = CASE WHEN d.status = 'held' THEN to_timestamp(d.expires_ms / 1000) ELSE t.expires_at END,
          settled_at = clock_timestamp()
      FROM ${unnestRows('d', verdict.purchases, { id: 'uuid', was: 'text', status: 'text', reason: 'text', met: 'jsonb', amount: 'bigint', currency: 'text', expires_ms: 'float8', fencing_token: 'bigint' })}
      WHERE t.id = d.id /* guard:status */ AND t.status = d.was /* end:status */
        -- A reader that was told "expired" must never see this hold go on: the clock is asked under the row lock.
        AND (d.was <> 'held' OR d.status NOT IN ('held', 'confirmed') OR t.expires_at > clock_timestamp())
      RETURNING 1
    ), c AS (
      UPDATE commands t
      SET status = d.status, reason = d.reason, met = d.met, fencing_token = d.fencing_token, settled_at = clock_timestamp()
      FROM ${unnestRows('d', verdict.commands, { id: 'uuid', status: 'text', reason: 'text', met: 'text', fencing_token: 'bigint' })}
      WHERE t.id = d.id AND t.status = 'queued'
      RETURNING 1
    ), m AS (
      INSERT INTO ledger_entries (resource, purchase, booking, delta, reason, fencing_token)
      SELECT * FROM ${unnestRows('d', verdict.movements, { resource: 'text', purchase: 'uuid', booking: 'uuid', delta: 'bigint', reason: 'text', fencing_token: 'bigint' })}
      -- Only if all are as they were taken: else the effect that another batch has had would look like a bad row's.
      WHERE (SELECT count(*) FROM p) = ${verdict.purchases.length} AND (SELECT count(*) FROM c) = ${verdict.commands.length}
      RETURNING 1
    ), r AS (
      UPDATE resources t SET available = d.available, held = d.held, updated_at = now()
      FROM ${unnestRows('d', verdict.resources, { ref: 'text', available: 'bigint', held: 'bigint', token: 'bigint' })}
      WHERE t.ref = d.ref /* guard:row-token */ AND t.fencing_token = d.token /* end:row-token */
      RETURNING 1
    )
    SELECT (SELECT count(*) FROM p) AS purchases, (SELECT count(*) FROM c) AS commands,
           (SELECT count(*) FROM m) AS movements, (SELECT count(*) FROM r) AS resources`,
  )
  for (const part of ['purchases', 'commands', 'movements', 'resources'] as const) {
    if (row?.[part] !== verdict[part].length) {
      throw new ChangedRowError(`${row?.[part]} of ${verdict[part].length} ${part} were as taken`)
    }
  }
}

/** Each item with a copy of its row, one for all items of that row. */
function copied(items: readonly Item[]): Item[] {
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
 * be accepted. Throws StaleLeaseError or ChangedRowError with nothing written; any other error leaves the outcome to be
 * seen by taking the rows again. When the signal aborts, it is rolled back.
 */
export async function commit(
  client: Client,
  items: readonly Item[],
  tokens: ReadonlyMap<string, number>,
  accept_ms: number,
  signal: AbortSignal,
): Promise<Verdict & { now_ms: number }> {
  const committed = transaction(client, signal, async (tx) => {
    const [resources, now_ms] = await guard(tx, tokens)
    // Deciding changes the rows' status; a batch that is rolled back and split must find them as they were taken.
    const fresh = copied(items)
    const purchases = fresh.filter((item) => item.purchase !== undefined)
    await readTaken(tx, purchases, resources)
    const decided = decide(purchases, resources, now_ms)
    const bookings = fresh.filter((item) => item.booking !== undefined)
    const booked = decideBookings(bookings, await readActive(tx, bookings), resources, now_ms, accept_ms)
    const verdict = {
      ...decided,
      bookings: booked.bookings,
      overdue: booked.overdue,
      rebooked: booked.rebooked,
      payables: [...decided.payables, ...booked.payables],
      payments: [...decided.payments, ...booked.payments],
      attempts: [...decided.attempts, ...booked.attempts],
      commands: [...decided.commands, ...booked.commands],
      movements: [...decided.movements, ...booked.movements],
      resources: [...new Set([...decided.resources, ...booked.resources])],
      skipped: [...decided.skipped, ...booked.skipped],
    }
    // While what is paid for is still set aside as it was taken.
    if (!(await writePayments(tx, verdict.payments))) throw new ChangedRowError('what is paid for was not as taken')
    if (!(await writeBookings(tx, booked))) throw new ChangedRowError('a booking was not as taken')
    // Before the commands: one that replaces a charge which took nothing is decided later than that charge ended.
    if (!(await writeAttempts(tx, verdict.attempts))) throw new ChangedRowError('a charge was not as taken')
    // Before the rest: the movements that are written next are theirs.
    await writeSuccessors(tx, verdict.successors)
    await writeRebooked(tx, verdict.rebooked)
    if (verdict.purchases.length + verdict.commands.length + verdict.movements.length > 0) await write(tx, verdict)
    await writeTaken(tx, verdict.resources)
    if (!(await writePayables(tx, verdict.payables))) throw new ChangedRowError('a charge was not as taken')
    return { ...verdict, now_ms }
  })
  return await committed.catch((error) => {
    // Rows of other lines (a rider's other driver) are written without their lease: Postgres sorts out who goes first.
    throw sqlState(error) === '40P01'
      ? new ChangedRowError('rolled back to let another batch pass', { cause: error })
      : error
  })
}

/**
 * Ends a row that cannot be decided or written: failed (a booking: rejected), or its command rejected, with the reason
 * `unprocessable`. A booking that only the database saw to collide is rejected as any other that does.
 */
export async function setApart(client: Client, item: Item, error: unknown): Promise<void> {
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
      sql`UPDATE bookings SET status = 'rejected', reason = ${isCollision(error) ? 'conflict' : 'unprocessable'}, ${settled}
          WHERE id = ${item.booking.id} AND status = 'queued'`,
    )
  }
}

/** EXCLUDE or the riders' unique index: a booking that was written without the lease has this time already. */
export const isCollision = (error: unknown) => sqlState(error) === '23P01' || sqlState(error) === '23505'
