/**
 * Purchase rows of a batch: reads the pending ones, writes the decisions about purchases, commands, the ledger and
 * stock. Invariants: one statement writes a decision, and each of its parts must change exactly the rows that it names;
 * every change is conditional on the status that was decided on and on the token under which the resource's row was
 * locked.
 * Tests remove the code between the guard markers (test/races, test/chaos).
 */
import { and, eq, gt, notInArray, or, type SQL, sql } from 'drizzle-orm'
import type { Client, Transaction } from '../../shared/db/client.ts'
import { commands, ledgerEntries, purchases, resources } from '../../shared/db/schema.ts'
import { build, epochMs, insertFrom, listOf, prepare, toTime, value } from '../../shared/db/statements.ts'
import type { ChargeCommand, Payment } from '../../shared/domain/charge.ts'
import type { PurchaseCommand } from '../../shared/domain/purchase.ts'
import { PROCESS_ID } from '../../shared/fleet-reports.ts'
import type { PurchaseDecision, PurchaseItem, PurchaseRow, Replacement } from '../decide/types.ts'
import type { QueueCursor } from './queue-item.ts'
import { settledBy, settlementColumns } from './settlement-columns.ts'

type FetchedRow = PurchaseRow & {
  fetched_queue: string
  kind: PurchaseItem['kind']
  command_id: string | null
  command_seq: number | null
  action: PurchaseCommand | ChargeCommand | null
  command_created_ms: number | null
  command_payment: Payment | null
}

/** The columns of a purchase (alias `p`) that the decision needs. */
const COLUMNS = [
  'id',
  'seq',
  'queue',
  'customer',
  'items',
  'amount',
  'currency',
  'payment',
  'hold_seconds',
  'status',
  'created_at',
  'expires_at',
  'replaces_id',
] as const satisfies readonly (keyof typeof purchases.$inferSelect)[]
const columns = sql.raw(COLUMNS.map((column) => `p.${column}`).join(', '))

const cursors = listOf('q', { queue: purchases.queue, after: 'bigint', limit: 'int' })

/**
 * Written as raw SQL: one LATERAL union of three kinds of rows, each with its own index and limit, on which the plan
 * depends.
 */
const pendingSql = prepare<FetchedRow>(sql`
  SELECT q.queue AS fetched_queue, i.kind, i.command_id, i.command_seq, i.action, i.command_created_ms, i.command_payment,
         i.id, i.seq, i.queue, i.customer, i.items, i.amount, i.currency, i.payment, i.hold_seconds, i.status,
         i.replaces_id, i.charge, ${epochMs('i.hold_until')} AS hold_until_ms,
         ${epochMs('i.created_at')} AS created_ms, ${epochMs('i.expires_at')} AS expires_ms
  FROM ${cursors.rows}
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
    (SELECT 'command', c.id, c.seq, c.action, ${epochMs('c.created_at')}, c.payment, 1, h.status, h.hold_until, ${columns}
     FROM commands c JOIN purchases p ON p.id = c.purchase_id
     LEFT JOIN charges h ON h.purchase_id = p.id AND h.kind = 'charge'
     WHERE c.queue = q.queue AND c.status = 'queued'
     ORDER BY c.seq LIMIT q."limit")
  ) i
  ORDER BY q.queue, i.rank, coalesce(i.command_seq, i.seq)`)

/**
 * Fetches the pending rows of these queues, each queue in order: overdue holds on the resource first, then purchases
 * and commands by seq. Rows of one purchase share one object.
 */
export async function fetchPending(
  client: Client,
  queues: readonly QueueCursor[],
): Promise<Map<string, PurchaseItem[]>> {
  const rows = await pendingSql(client, cursors.values(queues))
  const byId = new Map<string, PurchaseRow>()
  const fetched = new Map<string, PurchaseItem[]>(queues.map(({ queue }) => [queue, []]))
  for (const row of rows) {
    const { fetched_queue, kind, command_id, command_seq, action, command_created_ms, command_payment } = row
    let purchase = byId.get(row.id)
    if (!purchase) {
      purchase = toPurchaseRow(row)
      byId.set(purchase.id, purchase)
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

/** Copies member by member, because a rest pattern (`...purchase`) takes four times as long. */
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

const purchaseList = listOf('p_rows', {
  id: purchases.id,
  was: 'text',
  status: purchases.status,
  reason: purchases.reason,
  observed: purchases.observed,
  amount: purchases.amount,
  currency: purchases.currency,
  expires_ms: 'float8',
  fencing_token: purchases.fencing_token,
})
const commandList = listOf('c_rows', {
  id: commands.id,
  status: commands.status,
  reason: commands.reason,
  observed_status: commands.observed_status,
  fencing_token: commands.fencing_token,
})
const ledgerList = listOf('m_rows', {
  resource_id: ledgerEntries.resource_id,
  purchase_id: ledgerEntries.purchase_id,
  booking_id: ledgerEntries.booking_id,
  delta: ledgerEntries.delta,
  reason: ledgerEntries.reason,
  fencing_token: ledgerEntries.fencing_token,
})
const stockList = listOf('r_rows', {
  id: resources.id,
  available: resources.available,
  held: resources.held,
  token: resources.fencing_token,
})

const replacementList = listOf('d', {
  id: purchases.id,
  replaces_id: purchases.replaces_id,
  fencing_token: purchases.fencing_token,
})
const insertReplacementsSql = prepare(
  insertFrom(
    purchases,
    build
      .select({
        id: replacementList.columns.id,
        queue: purchases.queue,
        customer: purchases.customer,
        items: purchases.items,
        amount: purchases.amount,
        currency: purchases.currency,
        payment: purchases.payment,
        status: sql`'confirmed'`,
        replaces_id: replacementList.columns.replaces_id,
        fencing_token: replacementList.columns.fencing_token,
        settled_at: sql`clock_timestamp()`,
        settled_by: settledBy,
      })
      .from(replacementList.rows)
      .innerJoin(purchases, eq(purchases.id, replacementList.columns.replaces_id)),
  ),
)

/**
 * Inserts confirmed purchases that replace expired ones. A unique index lets each expired purchase be replaced only
 * once.
 */
export async function insertReplacements(tx: Transaction, replacements: readonly Replacement[]): Promise<void> {
  if (replacements.length === 0) return
  await insertReplacementsSql(tx, { ...replacementList.values(replacements), settled_by: PROCESS_ID })
}

const ONE = { one: sql<number>`1`.as('one') }
const countOf = (part: SQL | { getSQL(): SQL }) => sql<number>`(SELECT count(*) FROM ${part})`

function persistStatement() {
  const [p, c, m, r] = [purchaseList.columns, commandList.columns, ledgerList.columns, stockList.columns]
  const written = build.$with('p').as(
    build
      .update(purchases)
      .set({
        status: p.status,
        reason: p.reason,
        observed: p.observed,
        amount: p.amount,
        currency: p.currency,
        fencing_token: p.fencing_token,
        expires_at: sql`CASE WHEN ${p.status} = 'held' THEN ${toTime(p.expires_ms)} ELSE ${purchases.expires_at} END`,
        ...settlementColumns(purchases, p.was, p.status),
      })
      .from(purchaseList.rows)
      .where(
        and(
          eq(purchases.id, p.id),
          // Do not continue a hold that a reader has already seen as expired: read the clock under the row lock.
          or(
            sql`${p.was} <> 'held'`,
            notInArray(p.status, ['held', 'confirmed']),
            gt(purchases.expires_at, sql`clock_timestamp()`),
          ),
          /* guard:status */
          eq(purchases.status, p.was),
          /* end:status */
        ),
      )
      .returning(ONE),
  )
  const executed = build.$with('c').as(
    build
      .update(commands)
      .set({
        status: c.status,
        reason: c.reason,
        observed_status: c.observed_status,
        fencing_token: c.fencing_token,
        settled_at: sql`clock_timestamp()`,
        settled_by: settledBy,
      })
      .from(commandList.rows)
      .where(and(eq(commands.id, c.id), eq(commands.status, 'queued')))
      .returning(ONE),
  )
  const entered = build.$with('m', ONE).as(
    sql`${insertFrom(
      ledgerEntries,
      build
        .select(m)
        .from(ledgerList.rows)
        // Insert only if no row has changed since the fetch. Otherwise a unique effect that another batch has written
        // would look like a bad row.
        .where(and(eq(countOf(written), value('purchases')), eq(countOf(executed), value('commands')))),
    )} returning 1`,
  )
  const moved = build.$with('r').as(
    build
      .update(resources)
      .set({ available: r.available, held: r.held, updated_at: sql`now()` })
      .from(stockList.rows)
      .where(
        and(eq(resources.id, r.id), /* guard:row-token */ eq(resources.fencing_token, r.token) /* end:row-token */),
      )
      .returning(ONE),
  )
  return prepare(
    build
      .with(written, executed, entered, moved)
      .select({
        purchases: countOf(written).as('purchases'),
        commands: countOf(executed).as('commands'),
        ledger: countOf(entered).as('ledger'),
        resources: countOf(moved).as('resources'),
      })
      .from(sql`(SELECT 1) AS one`),
  )
}
const persistSql = persistStatement()

type Written = Pick<PurchaseDecision, 'purchases' | 'commands' | 'ledger' | 'resources'>

/**
 * Writes a decision in one statement. Returns undefined, or a text about what has changed since the fetch; then the
 * caller must roll the batch back.
 */
export async function persist(tx: Transaction, decision: Written): Promise<string | undefined> {
  const [row] = await persistSql(tx, {
    ...purchaseList.values(decision.purchases),
    ...commandList.values(decision.commands),
    ...ledgerList.values(decision.ledger),
    ...stockList.values(decision.resources),
    purchases: decision.purchases.length,
    commands: decision.commands.length,
    settled_by: PROCESS_ID,
  })
  for (const part of ['purchases', 'commands', 'ledger', 'resources'] as const) {
    if (row?.[part] !== decision[part].length) {
      return `${row?.[part]} of ${decision[part].length} ${part} were unchanged since the fetch`
    }
  }
  return undefined
}
