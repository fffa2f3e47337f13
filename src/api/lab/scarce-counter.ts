/**
 * A number that runs out, with both its sides. Invariants: the unsafe side reads, pauses and writes without any guard,
 * which is what it is for; the safe side is a resource, so its number changes by purchases that workers settle, and by
 * resets that go through the ledger under the resource's lease.
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
import type { Waits } from '../queue/settlement-waiter.ts'
import type { NewPurchase } from '../routes/purchases.ts'

/** Milliseconds a buyer of the safe side waits to be told. */
const WAIT_MS = 10_000
/** Milliseconds a reset waits for the resource's lease: a line lets go after a quarter of a second. */
const RESET_WAIT_MS = 5_000

export interface Counter {
  /** the resource of the safe side */
  ref: string
  name: string
  /** what there is of it before the first reset */
  start: number
  /**
   * relative: writes `left - units`, so the number falls below zero. absolute: writes what it has computed from its
   * read, so the updates of others are lost.
   */
  write: 'relative' | 'absolute'
}

export type Taken = { taken: true; id: string; left: number } | { taken: false; reason: string; left: number }

export interface CounterDeps {
  client: Client
  locks: Locks
  intake: Intake<NewPurchase>
  waits: Waits
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
  /** a write was refused by its fence */
  fenced(): void
}

export interface Counters {
  takeUnsafe(counter: Counter, units: number): Promise<Taken>
  /** @throws Problem 503 when no worker has settled it in time; it stays in its line then */
  takeSafe(counter: Counter, units: number): Promise<Taken>
  /** The number of the side that was used last since the reset. */
  read(counter: Counter): Promise<{ start: number; left: number }>
  /** Both sides have this many from now on. */
  reset(counter: Counter, start: number): Promise<void>
}

export function createCounters(deps: CounterDeps, pause_ms: number): Counters {
  const { client, locks, intake, waits, guarded, fenced } = deps

  /** Makes both sides if there are none yet, and marks the one that is used. Returns the unsafe side's number. */
  async function use({ ref, name, start }: Counter, side: 'unsafe' | 'safe' | null): Promise<number> {
    const [row] = await guarded(() =>
      query<{ unsafe: number }>(
        client,
        sql`WITH made AS (
              INSERT INTO resources (ref, kind, name, total, available) VALUES (${ref}, 'units', ${name}, ${start}, ${start})
              ON CONFLICT DO NOTHING RETURNING ref, total
            ), moved AS (
              INSERT INTO ledger_entries (resource, delta, reason) SELECT ref, total, 'created' FROM made WHERE total > 0
            )
            INSERT INTO lab_counts AS c (ref, start, unsafe, side) VALUES (${ref}, ${start}, ${start}, ${side})
            ON CONFLICT (ref) DO UPDATE SET side = coalesce(excluded.side, c.side) RETURNING c.unsafe`,
      ),
    )
    return row?.unsafe ?? 0
  }

  return {
    async takeUnsafe(counter, units) {
      const seen = await use(counter, 'unsafe')
      if (seen < units) return { taken: false, reason: 'sold_out', left: seen }
      // Everyone who comes now sees the same number.
      await sleep(pause_ms)
      const written = counter.write === 'relative' ? sql`unsafe - ${units}::bigint` : sql`${seen - units}::bigint`
      const [row] = await guarded(() =>
        query<{ unsafe: number }>(
          client,
          sql`UPDATE lab_counts SET unsafe = ${written} WHERE ref = ${counter.ref} RETURNING unsafe`,
        ),
      )
      return { taken: true, id: newId(), left: row?.unsafe ?? seen - units }
    },

    async takeSafe(counter, units) {
      await use(counter, 'safe')
      const id = newId()
      const watch = waits.watch(id)
      try {
        await intake.take({
          id,
          queue: counter.ref,
          customer: 'lab',
          lines: [{ resource: counter.ref, units }],
          payment: { method: 'none' },
          hold_seconds: null,
          idempotency_key: null,
          idempotency_scope: '',
          request_hash: null,
        })
        await watch.settled(WAIT_MS)
      } finally {
        watch.done()
      }
      const [row] = await guarded(() =>
        query<{ status: string; reason: string | null; left: number }>(
          client,
          sql`SELECT p.status, p.reason, r.available AS left FROM purchases p JOIN resources r ON r.ref = p.queue
              WHERE p.id = ${id}`,
        ),
      )
      if (!row || row.status === 'queued') throw notSettled(id)
      if (row.status === 'confirmed') return { taken: true, id, left: row.left }
      return { taken: false, reason: row.reason ?? row.status, left: row.left }
    },

    async read({ ref, start }) {
      const [row] = await guarded(() =>
        query<{ start: number; left: number }>(
          client,
          sql`SELECT c.start, CASE WHEN c.side = 'safe' THEN coalesce(r.available, c.start) ELSE c.unsafe END AS left
              FROM lab_counts c LEFT JOIN resources r USING (ref) WHERE c.ref = ${ref}`,
        ),
      )
      return row ?? { start, left: start }
    },

    async reset(counter, start) {
      const { ref } = counter
      await use({ ...counter, start }, null)
      const [found] = await guarded(() =>
        query<{ fencing_token: number }>(client, sql`SELECT fencing_token FROM resources WHERE ref = ${ref}`),
      )
      const lease = { wait_ms: RESET_WAIT_MS, above: found?.fencing_token ?? 0 }
      await onLockServer(() =>
        locks.withLease(ref, lease, ({ token }) => guarded((signal) => refill(ref, start, token, signal))),
      )
    },
  }

  /** One transaction: what the safe side lacks is stocked up, or taken out, and the unsafe side starts anew. */
  async function refill(ref: string, start: number, token: number, signal: AbortSignal): Promise<void> {
    await transaction(client, signal, async (tx) => {
      // First, as in use(), whose INSERT waits for whoever is changing the resource.
      await query(tx, sql`UPDATE lab_counts SET start = ${start}, unsafe = ${start}, side = NULL WHERE ref = ${ref}`)
      const [row] = await query<{ available: number }>(
        tx,
        sql`SELECT available FROM resources WHERE ref = ${ref} AND kind = 'units' FOR NO KEY UPDATE`,
      )
      if (!row) throw new Problem(409, 'wrong_kind', `${ref} is not sold by units: the lab cannot use it.`)
      const delta = start - row.available
      const written = await query(
        tx,
        sql`UPDATE resources SET fencing_token = ${token}, total = total + ${delta}, available = available + ${delta},
                                 version = version + 1, updated_at = now()
            WHERE ref = ${ref} AND fencing_token <= ${token} RETURNING ref`,
      )
      if (written.length === 0) {
        fenced()
        throw new Problem(409, 'stale_lease', `Another holder has written ${ref} since.`, { retry_after: 1 })
      }
      if (delta !== 0) {
        await query(
          tx,
          sql`INSERT INTO ledger_entries (resource, delta, reason, fencing_token) VALUES (${ref}, ${delta}, 'lab reset', ${token})`,
        )
      }
    })
  }
}

const notSettled = (id: string) =>
  new Problem(503, 'not_settled', `No worker has settled purchase ${id} yet; it stays in its line.`, { retry_after: 1 })
