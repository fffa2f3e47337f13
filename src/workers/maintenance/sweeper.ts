/**
 * Makes up for lost nudges. Invariant: a queue whose first row has waited for a second, a queue with an overdue hold or
 * request, and a charge that has not ended in time gets a new job, whatever happened to the earlier one.
 */
import { and, eq, inArray, lte, not, type SQL, sql } from 'drizzle-orm'
import type { PgColumn } from 'drizzle-orm/pg-core'
import type { Client } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import { charges } from '../../shared/db/schema.ts'
import { build, prepare } from '../../shared/db/statements.ts'
import type { Nudge } from '../../shared/jobs/nudges.ts'
import type { Locks } from '../../shared/locks/api.ts'
import { UNFINISHED } from '../payments/charge-store.ts'

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
/** Seconds until a charge gets another job, if the new one does nothing. */
const AGAIN_S = 2
/** Seconds until such a check gets another job, if it has not been made. */
const CHECK_S = 10

/** In SQL: the heads of the queues are recursive skip scans. */
const lateQueuesSql = prepare<{ queue: string }>(sql`
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
  ) late LIMIT ${QUEUES}`)

/** Gives the charges that match a job, and no other one before the new job has had time to start. */
const dueCharges = (due: SQL | undefined, order: PgColumn, limit: number, pause_s: number) =>
  prepare(
    build
      .update(charges)
      .set({ next_attempt_at: sql`clock_timestamp() + ${pause_s} * interval '1 second'` })
      .where(
        inArray(
          charges.id,
          build
            .select({ id: charges.id })
            .from(charges)
            .where(and(due, lte(charges.next_attempt_at, sql`clock_timestamp()`)))
            .orderBy(order)
            .limit(limit),
        ),
      )
      .returning({ subject_id: sql<string>`coalesce(${charges.purchase_id}, ${charges.booking_id})`.as('subject_id') }),
  )
/** Charges whose job was lost or postponed its next step. */
const unfinishedSql = dueCharges(
  and(inArray(charges.status, UNFINISHED), not(charges.at_provider)),
  charges.next_attempt_at,
  CHARGES,
  AGAIN_S,
)
/** Captured charges: a change at the provider may have lost its webhook. */
const checksSql = dueCharges(
  and(eq(charges.status, 'captured'), lte(charges.recheck_at, sql`clock_timestamp()`)),
  charges.recheck_at,
  CHECKS,
  CHECK_S,
)

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
    const queues = (await lateQueuesSql(client)).map((row) => row.queue)
    nudge(queues, { force: true })
    lease.progress()
    const charged = [...(await unfinishedSql(client)), ...(await checksSql(client))]
    enqueueCharges(new Set(charged.map((row) => row.subject_id)))
    return queues
  } finally {
    await lease.release()
  }
}
