/**
 * Adds jobs in place of lost ones. Invariant: a queue whose first row has waited for a second, a queue with an overdue
 * hold, and a charge that has not ended in time each get a new job, whatever happened to the earlier job.
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

/**
 * Milliseconds between sweeps: two fit into a second, because the units of an overdue hold must be on sale again within
 * a second.
 */
export const SWEEP_MS = 400
const LATE = sql.raw("interval '1 second'")
/**
 * Most queues that one sweep nudges. It draws them at random, so that every late queue gets its turn, also while as many
 * others stay late because their lease is held elsewhere.
 */
const QUEUES = 10_000

/**
 * Time limit of one step of a sweep, in milliseconds. After it another worker may sweep, because this one may be cut
 * off from Postgres.
 */
const STEP_MS = 12_000

/** Most charges for which one sweep adds a job. */
const CHARGES = 1_000
/**
 * Most captured charges for which one sweep adds a check at the provider: at most 50 a second, because Stripe allows
 * 100 requests a second.
 */
const CHECKS = 20
/** Seconds until the sweeper adds another job for an unfinished charge, in case the new job does nothing. */
const AGAIN_S = 2
/** Seconds until the sweeper adds another job for a check, in case the new job does not make it. */
const CHECK_S = 10

/** Written as raw SQL, because drizzle cannot express the recursive skip scans of queueHeads. */
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
  ) late ORDER BY random() LIMIT ${QUEUES}`)

/**
 * Builds the statement that returns the purchases and bookings whose charges match `due`. It postpones the next attempt
 * of these charges by `pause_s`, so that the new job has time to start before a later sweep adds another one.
 */
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
/** Returns unfinished charges whose next attempt is due: their job was lost, or has postponed the attempt until now. */
const unfinishedSql = dueCharges(
  and(inArray(charges.status, UNFINISHED), not(charges.at_provider)),
  charges.next_attempt_at,
  CHARGES,
  AGAIN_S,
)
/** Returns captured charges whose check is due: the provider's webhook about a refund or dispute may have been lost. */
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

/** Sweeps once for the whole fleet, if this worker gets the lease. Returns the nudged queues. */
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
