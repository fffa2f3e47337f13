/**
 * A demo counter with an unsafe and a safe variant. Invariants: the unsafe variant reads, pauses and writes without any
 * guard, on purpose; the safe variant is a resource, so only two things change its number: purchases that workers settle, and
 * resets that write the ledger under the resource's lease.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { and, eq, type SQL, sql } from 'drizzle-orm'
import type { Transaction } from '../../shared/db/client.ts'
import { labCounts, ledgerEntries, resources } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import { newId } from '../../shared/ids.ts'
import type { Locks } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { onLockServer } from '../http/lock-problems.ts'
import type { NewPurchase, PurchaseRow } from '../queue/purchase-rows.ts'
import { isPending, type RowQueue } from '../queue/submission.ts'
import { addUnits, tokenSql } from '../routes/restock.ts'

/** Milliseconds a buyer of the safe variant waits for the settlement. */
const WAIT_MS = 10_000
/** Milliseconds a reset waits for the resource's lease: a worker releases a queue's lease after a quarter of a second. */
const RESET_WAIT_MS = 5_000

export interface DemoCounter {
  /** the resource of the safe variant */
  ref: string
  name: string
  /** the number of the counter before the first reset */
  start: number
  /**
   * How the unsafe variant writes. relative: it subtracts in the UPDATE, so the number falls below zero. absolute: it writes a
   * value that it computed from its earlier read, so concurrent updates are lost.
   */
  write: 'relative' | 'absolute'
}

export type BuyResult = { bought: true; id: string; left: number } | { bought: false; reason: string; left: number }

export interface CounterOptions {
  db: Database
  locks: Locks
  purchases: Pick<RowQueue<PurchaseRow, NewPurchase>, 'enqueue' | 'waitUntilSettled'>
  /** counts a write that Postgres refused because of its fencing token */
  onStaleWrite(): void
}

export interface DemoCounters {
  buyUnsafe(counter: DemoCounter, units: number): Promise<BuyResult>
  /** Buys through a queued purchase. @throws Problem 503 when no worker has settled it in time; the purchase stays queued */
  buySafe(counter: DemoCounter, units: number): Promise<BuyResult>
  /** Returns the number of the variant that was used last since the reset. */
  read(counter: DemoCounter): Promise<{ start: number; left: number }>
  /** Sets the number of both variants. */
  reset(counter: DemoCounter, start: number): Promise<void>
}

export function createCounters(options: CounterOptions, pause_ms: number): DemoCounters {
  const { db } = options
  return {
    buyUnsafe: (counter, units) => buyUnsafe(db, counter, units, pause_ms),
    buySafe: (counter, units) => buySafe(options, counter, units),
    async read({ ref: id, start }) {
      const [row] = await db.query(readSql, { id })
      return row ?? { start, left: start }
    },
    reset: (counter, start) => reset(options, counter, start),
  }
}

// Written as raw SQL: one statement creates both variants, and the ledger entry of the safe variant, so that none exists alone.
const ensureSql = prepare<{ unsafe_count: number }>(sql`
  WITH made AS (
    INSERT INTO resources (id, kind, name, total, available)
    VALUES (${value('id')}, 'units', ${value('name')}, ${value('start')}, ${value('start')})
    ON CONFLICT DO NOTHING RETURNING id, total
  ), moved AS (
    INSERT INTO ledger_entries (resource_id, delta, reason) SELECT id, total, 'created' FROM made WHERE total > 0
  )
  INSERT INTO lab_counts AS c (id, initial, unsafe_count, last_variant)
  VALUES (${value('id')}, ${value('start')}, ${value('start')}, ${value('variant')})
  ON CONFLICT (id) DO UPDATE SET last_variant = coalesce(excluded.last_variant, c.last_variant)
  RETURNING c.unsafe_count`)

/** Creates both variants if they are missing, and records which variant is used. Returns the number of the unsafe variant. */
async function ensureCounter(
  db: Database,
  { ref: id, name, start }: DemoCounter,
  variant: 'unsafe' | 'safe' | null,
): Promise<number> {
  const [row] = await db.query(ensureSql, { id, name, start, variant })
  return row?.unsafe_count ?? 0
}

const counter = eq(labCounts.id, value('id'))
const unsafeWrite = (left: SQL) =>
  prepare(
    build.update(labCounts).set({ unsafe_count: left }).where(counter).returning({ left: labCounts.unsafe_count }),
  )
const UNSAFE = {
  relative: unsafeWrite(sql`${labCounts.unsafe_count} - ${value('units')}::bigint`),
  absolute: unsafeWrite(sql`${value('left')}::bigint`),
}
const readSql = prepare(
  build
    .select({
      start: sql<number>`${labCounts.initial}`.as('start'),
      left: sql<number>`CASE WHEN ${labCounts.last_variant} = 'safe' THEN coalesce(${resources.available}, ${labCounts.initial})
        ELSE ${labCounts.unsafe_count} END`.as('left'),
    })
    .from(labCounts)
    .leftJoin(resources, eq(resources.id, labCounts.id))
    .where(counter),
)
const resetUnsafeSql = prepare(
  build
    .update(labCounts)
    .set({ initial: sql`${value('start')}`, unsafe_count: sql`${value('start')}`, last_variant: null })
    .where(counter),
)
const units = and(eq(resources.id, value('id')), eq(resources.kind, 'units'))
const availableSql = prepare(build.select({ available: resources.available }).from(resources).where(units))
const lockedSql = prepare(
  build.select({ available: resources.available }).from(resources).where(units).for('no key update'),
)
const entrySql = prepare(
  build.insert(ledgerEntries).values({
    resource_id: value('id'),
    delta: value('delta'),
    reason: 'lab reset',
    fencing_token: value('token'),
  }),
)

async function buyUnsafe(db: Database, counter: DemoCounter, units: number, pause_ms: number): Promise<BuyResult> {
  const seen = await ensureCounter(db, counter, 'unsafe')
  if (seen < units) return { bought: false, reason: 'sold_out', left: seen }
  // Every request that arrives during this pause reads the same number.
  await sleep(pause_ms)
  const left = seen - units
  const [row] = await db.query(UNSAFE[counter.write], { id: counter.ref, units, left })
  return { bought: true, id: newId(), left: row?.left ?? left }
}

async function buySafe({ db, purchases }: CounterOptions, counter: DemoCounter, units: number): Promise<BuyResult> {
  await ensureCounter(db, counter, 'safe')
  const input: NewPurchase = {
    id: newId(),
    queue: counter.ref,
    customer: 'lab',
    items: [{ resource: counter.ref, units }],
    payment: { method: 'none' },
    hold_seconds: null,
    idempotency_key: null,
    idempotency_scope: '',
    request_hash: null,
  }
  const { id } = input
  const submitted = await purchases.enqueue(input, true)
  const row = submitted.replayed ? undefined : await purchases.waitUntilSettled(submitted, WAIT_MS)
  if (!row || isPending(row)) throw notSettled(id)
  const [found] = await db.query(availableSql, { id: counter.ref })
  const left = found?.available ?? 0
  if (row.status === 'confirmed') return { bought: true, id, left }
  return { bought: false, reason: row.reason ?? row.status, left }
}

async function reset(options: CounterOptions, counter: DemoCounter, start: number): Promise<void> {
  const { db, locks, onStaleWrite } = options
  const { ref: id } = counter
  await ensureCounter(db, { ...counter, start }, null)
  const [found] = await db.query(tokenSql, { id })
  const lease = { wait_ms: RESET_WAIT_MS, above: found?.fencing_token ?? 0 }
  await onLockServer(() =>
    locks.withLease(id, lease, ({ token }) =>
      db.transaction((tx) => resetUnderLease(tx, id, start, token, onStaleWrite)),
    ),
  )
}

/** Adds or removes units so that the safe variant has `start` units, and resets the unsafe variant. */
async function resetUnderLease(
  tx: Transaction,
  id: string,
  start: number,
  token: number,
  onStaleWrite: () => void,
): Promise<void> {
  // Lock lab_counts before resources, as ensureCounter() does, so that the two functions cannot deadlock.
  await resetUnsafeSql(tx, { id, start })
  const [row] = await lockedSql(tx, { id })
  if (!row) throw new Problem(409, 'wrong_kind', `${id} is not sold by units: the lab cannot use it.`)
  const delta = start - row.available
  await addUnits(tx, { id, delta, token }, onStaleWrite)
  if (delta !== 0) await entrySql(tx, { id, delta, token })
}

const notSettled = (id: string) =>
  new Problem(503, 'not_settled', `No worker has settled purchase ${id} yet; it stays queued.`, { retry_after: 1 })
