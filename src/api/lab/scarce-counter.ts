/**
 * A demo counter with an unsafe and a safe variant. Invariants: the unsafe variant reads, pauses and writes without any
 * guard, on purpose; the safe variant is a resource, so its number changes by purchases that workers settle, and by resets
 * that go through the ledger under the resource's lease.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, transaction } from '../../shared/db/client.ts'
import { newId } from '../../shared/ids.ts'
import type { Locks } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'
import { onLockServer } from '../http/lock-problems.ts'
import type { Intake } from '../queue/intake.ts'
import type { SettlementWaiter } from '../queue/settlement-waiter.ts'
import type { NewPurchase } from '../routes/purchases.ts'

/** Milliseconds a buyer of the safe variant waits for the settlement. */
const WAIT_MS = 10_000
/** Milliseconds a reset waits for the resource's lease: a worker releases a queue's lease after a quarter of a second. */
const RESET_WAIT_MS = 5_000

export interface DemoCounter {
  /** the resource of the safe variant */
  ref: string
  name: string
  /** its number before the first reset */
  start: number
  /**
   * relative: writes `left - units`, so the number falls below zero. absolute: writes a value computed from its read, so
   * concurrent updates are lost.
   */
  write: 'relative' | 'absolute'
}

export type BuyResult = { bought: true; id: string; left: number } | { bought: false; reason: string; left: number }

export interface CounterDeps {
  client: Client
  locks: Locks
  purchaseIntake: Intake<NewPurchase>
  waiter: SettlementWaiter
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
  /** counts a write that was refused by its fencing token */
  onStaleWrite(): void
}

export interface DemoCounters {
  buyUnsafe(counter: DemoCounter, units: number): Promise<BuyResult>
  /** @throws Problem 503 when no worker has settled it in time; it stays queued then */
  buySafe(counter: DemoCounter, units: number): Promise<BuyResult>
  /** The number of the variant that was used last since the reset. */
  read(counter: DemoCounter): Promise<{ start: number; left: number }>
  /** Sets the number of both variants. */
  reset(counter: DemoCounter, start: number): Promise<void>
}

export function createCounters(deps: CounterDeps, pause_ms: number): DemoCounters {
  const { client, locks, purchaseIntake, waiter, viaBreaker, onStaleWrite } = deps

  /** Creates both variants if they are missing, and marks the one that is used. Returns the unsafe variant's number. */
  async function ensureCounter({ ref, name, start }: DemoCounter, variant: 'unsafe' | 'safe' | null): Promise<number> {
    const [row] = await viaBreaker(() =>
      query<{ unsafe_count: number }>(
        client,
        sql`WITH made AS (
              INSERT INTO resources (id, kind, name, total, available) VALUES (${ref}, 'units', ${name}, ${start}, ${start})
              ON CONFLICT DO NOTHING RETURNING id, total
            ), moved AS (
              INSERT INTO ledger_entries (resource_id, delta, reason) SELECT id, total, 'created' FROM made WHERE total > 0
            )
            INSERT INTO lab_counts AS c (id, initial, unsafe_count, last_variant) VALUES (${ref}, ${start}, ${start}, ${variant})
            ON CONFLICT (id) DO UPDATE SET last_variant = coalesce(excluded.last_variant, c.last_variant)
            RETURNING c.unsafe_count`,
      ),
    )
    return row?.unsafe_count ?? 0
  }

  return {
    async buyUnsafe(counter, units) {
      const seen = await ensureCounter(counter, 'unsafe')
      if (seen < units) return { bought: false, reason: 'sold_out', left: seen }
      // Every request that arrives now reads the same number.
      await sleep(pause_ms)
      const written = counter.write === 'relative' ? sql`unsafe_count - ${units}::bigint` : sql`${seen - units}::bigint`
      const [row] = await viaBreaker(() =>
        query<{ unsafe_count: number }>(
          client,
          sql`UPDATE lab_counts SET unsafe_count = ${written} WHERE id = ${counter.ref} RETURNING unsafe_count`,
        ),
      )
      return { bought: true, id: newId(), left: row?.unsafe_count ?? seen - units }
    },

    async buySafe(counter, units) {
      await ensureCounter(counter, 'safe')
      const id = newId()
      const watch = waiter.watch(id)
      try {
        await purchaseIntake.enqueue({
          id,
          queue: counter.ref,
          customer: 'lab',
          items: [{ resource: counter.ref, units }],
          payment: { method: 'none' },
          hold_seconds: null,
          idempotency_key: null,
          idempotency_scope: '',
          request_hash: null,
        })
        await watch.wait(WAIT_MS)
      } finally {
        watch.stop()
      }
      const [row] = await viaBreaker(() =>
        query<{ status: string; reason: string | null; left: number }>(
          client,
          sql`SELECT p.status, p.reason, r.available AS left FROM purchases p JOIN resources r ON r.id = p.queue
              WHERE p.id = ${id}`,
        ),
      )
      if (!row || row.status === 'queued') throw notSettled(id)
      if (row.status === 'confirmed') return { bought: true, id, left: row.left }
      return { bought: false, reason: row.reason ?? row.status, left: row.left }
    },

    async read({ ref, start }) {
      const [row] = await viaBreaker(() =>
        query<{ start: number; left: number }>(
          client,
          sql`SELECT c.initial AS start,
                     CASE WHEN c.last_variant = 'safe' THEN coalesce(r.available, c.initial) ELSE c.unsafe_count END AS left
              FROM lab_counts c LEFT JOIN resources r USING (id) WHERE c.id = ${ref}`,
        ),
      )
      return row ?? { start, left: start }
    },

    async reset(counter, start) {
      const { ref } = counter
      await ensureCounter({ ...counter, start }, null)
      const [found] = await viaBreaker(() =>
        query<{ fencing_token: number }>(client, sql`SELECT fencing_token FROM resources WHERE id = ${ref}`),
      )
      const lease = { wait_ms: RESET_WAIT_MS, above: found?.fencing_token ?? 0 }
      await onLockServer(() =>
        locks.withLease(ref, lease, ({ token }) => viaBreaker((signal) => resetUnderLease(ref, start, token, signal))),
      )
    },
  }

  /** One transaction: adds or removes units until the safe variant has `start`, and resets the unsafe one. */
  async function resetUnderLease(ref: string, start: number, token: number, signal: AbortSignal): Promise<void> {
    await transaction(client, signal, async (tx) => {
      // lab_counts before resources, as in ensureCounter(), so that the two cannot deadlock.
      await query(
        tx,
        sql`UPDATE lab_counts SET initial = ${start}, unsafe_count = ${start}, last_variant = NULL WHERE id = ${ref}`,
      )
      const [row] = await query<{ available: number }>(
        tx,
        sql`SELECT available FROM resources WHERE id = ${ref} AND kind = 'units' FOR NO KEY UPDATE`,
      )
      if (!row) throw new Problem(409, 'wrong_kind', `${ref} is not sold by units: the lab cannot use it.`)
      const delta = start - row.available
      const written = await query(
        tx,
        sql`UPDATE resources SET fencing_token = ${token}, total = total + ${delta}, available = available + ${delta},
                                 version = version + 1, updated_at = now()
            WHERE id = ${ref} AND fencing_token <= ${token} RETURNING id`,
      )
      if (written.length === 0) {
        onStaleWrite()
        throw new Problem(409, 'stale_lease', `A newer lock holder has written ${ref}.`, { retry_after: 1 })
      }
      if (delta !== 0) {
        await query(
          tx,
          sql`INSERT INTO ledger_entries (resource_id, delta, reason, fencing_token) VALUES (${ref}, ${delta}, 'lab reset', ${token})`,
        )
      }
    })
  }
}

const notSettled = (id: string) =>
  new Problem(503, 'not_settled', `No worker has settled purchase ${id} yet; it stays queued.`, { retry_after: 1 })
