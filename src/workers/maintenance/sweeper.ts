/**
 * Makes up for lost nudges. Invariant: a line whose head has waited for a second, a line with an overdue hold or request,
 * and a charge that has not come to an end in time is told of again, whatever happened to its job.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Nudge } from '../../shared/queues.ts'

/** Milliseconds between sweeps: an overdue hold's units are sellable again within a second, by two sweeps' room. */
export const SWEEP_MS = 400
const LATE = sql.raw("interval '1 second'")
/** Lines nudged by one sweep; the next one takes the rest. */
const QUEUES = 10_000

/** Milliseconds for one step of a sweep, after which another worker may sweep: this one may be cut off from Postgres. */
const STEP_MS = 12_000

/** Charges told of by one sweep. */
const CHARGES = 1_000
/** Captured charges that one sweep has looked at: at most 50 a second, of the 100 requests that Stripe answers. */
const CHECKS = 20
/** Seconds until such a look is told of again, if it has not been made. */
const CHECK_S = 10

export interface SweepDeps {
  client: Client
  locks: Locks
  nudge: Nudge
  enqueueCharges(ids: Iterable<string>): void
}

/** One sweep of the fleet: whoever has the lease does it, the others do nothing. Returns the lines nudged. */
export async function sweepOnce({ client, locks, nudge, enqueueCharges: pay }: SweepDeps): Promise<string[]> {
  const lease = await locks.tryAcquire('sweep:purchases', { progress_ms: STEP_MS })
  if (!lease) return []
  try {
    const rows = await query<{ queue: string }>(
      client,
      sql`
      SELECT queue FROM (
        SELECT queue FROM ${queueHeads('purchases')} a WHERE created_at < clock_timestamp() - ${LATE}
        UNION
        SELECT queue FROM ${queueHeads('commands')} b WHERE created_at < clock_timestamp() - ${LATE}
        UNION
        SELECT queue FROM ${queueHeads('bookings', 'resource')} c WHERE created_at < clock_timestamp() - ${LATE}
        UNION
        SELECT resource FROM bookings WHERE status = 'requested' AND expires_at <= clock_timestamp()
        UNION
        SELECT queue FROM purchases WHERE status = 'held' AND expires_at <= clock_timestamp()
      ) late LIMIT ${QUEUES}`,
    )
    const queues = rows.map((row) => row.queue)
    nudge(queues, { force: true })
    lease.progress()
    // Charges whose job was lost, or gave up for a while. Not again before it has had time to begin.
    const charges = await query<{ id: string }>(
      client,
      sql`
      UPDATE charges SET due_at = clock_timestamp() + interval '2 seconds'
      WHERE id IN (
        SELECT id FROM charges
        WHERE status IN ('pending', 'sent', 'capturing', 'failed') AND NOT at_provider AND due_at <= clock_timestamp()
        ORDER BY due_at LIMIT ${CHARGES})
      RETURNING coalesce(purchase, booking) AS id`,
    )
    // What may have been done at the provider since, without a webhook that has come.
    const checks = await query<{ id: string }>(
      client,
      sql`
      UPDATE charges SET due_at = clock_timestamp() + ${CHECK_S} * interval '1 second'
      WHERE id IN (
        SELECT id FROM charges
        WHERE status = 'captured' AND ask_at IS NOT NULL AND ask_at <= clock_timestamp() AND due_at <= clock_timestamp()
        ORDER BY ask_at LIMIT ${CHECKS})
      RETURNING coalesce(purchase, booking) AS id`,
    )
    pay(new Set([...charges, ...checks].map((row) => row.id)))
    return queues
  } finally {
    await lease.release()
  }
}
