/**
 * Makes up for lost nudges. Invariant: a queue whose first row has waited for a second, a queue with an overdue hold or
 * request, and a charge that has not ended in time gets a new job, whatever happened to the earlier one.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import type { Nudge } from '../../shared/jobs/nudges.ts'
import type { Locks } from '../../shared/locks/api.ts'

/** Milliseconds between sweeps: an overdue hold's units are sellable again within a second, by two sweeps' room. */
export const SWEEP_MS = 400
const LATE = sql.raw("interval '1 second'")
/** Queues nudged by one sweep; the next one nudges the rest. */
const QUEUES = 10_000

/** Milliseconds for one step of a sweep, after which another worker may sweep: this one may be cut off from Postgres. */
const STEP_MS = 12_000

/** Charges that get a job from one sweep. */
const CHARGES = 1_000
/** Captured charges that one sweep has checked at the provider: at most 50 a second, of the 100 requests that Stripe allows. */
const CHECKS = 20
/** Seconds until such a check gets another job, if it has not been made. */
const CHECK_S = 10

export interface SweepDeps {
  client: Client
  locks: Locks
  nudge: Nudge
  enqueueCharges(ids: Iterable<string>): void
}

/** One sweep of the fleet: only the worker that gets the lease does it. Returns the nudged queues. */
export async function sweepOnce({ client, locks, nudge, enqueueCharges }: SweepDeps): Promise<string[]> {
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
        SELECT queue FROM ${queueHeads('bookings', 'resource_id')} c WHERE created_at < clock_timestamp() - ${LATE}
        UNION
        SELECT resource_id FROM bookings WHERE status = 'requested' AND expires_at <= clock_timestamp()
        UNION
        SELECT queue FROM purchases WHERE status = 'held' AND expires_at <= clock_timestamp()
      ) late LIMIT ${QUEUES}`,
    )
    const queues = rows.map((row) => row.queue)
    nudge(queues, { force: true })
    lease.progress()
    // Charges whose job was lost or postponed its next step. Not again before the new job has had time to start.
    const charges = await query<{ id: string }>(
      client,
      sql`
      UPDATE charges SET next_attempt_at = clock_timestamp() + interval '2 seconds'
      WHERE id IN (
        SELECT id FROM charges
        WHERE status IN ('pending', 'confirming', 'cancelling', 'capturing', 'failed') AND NOT at_provider AND next_attempt_at <= clock_timestamp()
        ORDER BY next_attempt_at LIMIT ${CHARGES})
      RETURNING coalesce(purchase_id, booking_id) AS id`,
    )
    // Captured charges: a change at the provider may have lost its webhook.
    const checks = await query<{ id: string }>(
      client,
      sql`
      UPDATE charges SET next_attempt_at = clock_timestamp() + ${CHECK_S} * interval '1 second'
      WHERE id IN (
        SELECT id FROM charges
        WHERE status = 'captured' AND recheck_at IS NOT NULL AND recheck_at <= clock_timestamp() AND next_attempt_at <= clock_timestamp()
        ORDER BY recheck_at LIMIT ${CHECKS})
      RETURNING coalesce(purchase_id, booking_id) AS id`,
    )
    enqueueCharges(new Set([...charges, ...checks].map((row) => row.id)))
    return queues
  } finally {
    await lease.release()
  }
}
