/**
 * Polls the state of the whole fleet: the depth of its queues, and whether the invariants hold. One worker polls at a
 * time, and every worker exports the last result. Invariant: a failed poll shows as a gap, never as a good value.
 */
import { sql } from 'drizzle-orm'
import type { Redis } from 'ioredis'
import { type Client, query } from '../../shared/db/client.ts'
import { queueHeads } from '../../shared/db/queue-heads.ts'
import { type QueueFigures, readFleetStatus, saveFleetStatus, takeTurn } from '../../shared/fleet-status.ts'
import { blockedQueues, QUICK_MS, STANDING_STILL, verify } from '../../shared/invariants.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'

/** Milliseconds between polls of the queues: about the interval at which Prometheus scrapes. */
export const FLEET_POLL_MS = 5_000
/**
 * Milliseconds between verifications. The quick checks use indexes, but the check for overlaps reads every active
 * booking.
 */
const VERIFY_INTERVAL_MS = 60_000
/** Time limit of one statement of a poll, in milliseconds. */
export const FLEET_STATEMENT_MS = QUICK_MS + 5_000
/** The last result expires after this number of missed polls. */
const MISSED_POLLS = 3

export interface FleetMonitorDeps {
  /** from a separate pool, so that polls do not delay batches */
  client: Client
  locks: Pick<Locks, 'inspect'>
  redis: Redis
  prefix: string
  metrics: Pick<
    Metrics,
    'queue_depth' | 'queue_oldest_age_seconds' | 'queues_blocked' | 'payments_stuck' | 'invariant_violations'
  >
  log: Log
}

async function readQueueFigures(client: Client, locks: FleetMonitorDeps['locks']): Promise<QueueFigures> {
  const [row] = await query<Omit<QueueFigures, 'blocked'>>(
    client,
    sql`
    SELECT (SELECT count(*) FROM purchases WHERE status = 'queued')
         + (SELECT count(*) FROM commands WHERE status = 'queued')
         + (SELECT count(*) FROM bookings WHERE status = 'queued') AS rows,
           greatest(0, extract(epoch FROM clock_timestamp() - min(created_at)))::float AS oldest_s,
           (SELECT count(*) FROM (${sql.raw(STANDING_STILL)}) still) AS stuck_charges
    FROM (
      SELECT created_at FROM ${queueHeads('purchases')} a
      UNION ALL SELECT created_at FROM ${queueHeads('commands')} b
      UNION ALL SELECT created_at FROM ${queueHeads('bookings', 'resource_id')} c
    ) head`,
  )
  // If the lock server does not answer, only the blocked queues are unknown; return the other figures.
  const blocked = await blockedQueues(client, locks).catch(() => undefined)
  return { ...(row ?? { rows: 0, oldest_s: 0, stuck_charges: 0 }), ...(blocked && { blocked }) }
}

function clearGauges(metrics: FleetMonitorDeps['metrics']): void {
  const { queue_depth, queue_oldest_age_seconds, queues_blocked, payments_stuck, invariant_violations } = metrics
  for (const gauge of [queue_depth, queue_oldest_age_seconds, queues_blocked, payments_stuck, invariant_violations])
    gauge.remove()
}

/** Polls the figures whose turn this worker gets, and exports the last results, whichever worker polled them. */
export async function pollFleetOnce(deps: FleetMonitorDeps): Promise<void> {
  const { client, locks, redis, prefix, metrics, log } = deps
  const { queue_depth, queue_oldest_age_seconds, queues_blocked, payments_stuck, invariant_violations } = metrics
  // A Redis that hangs may answer late or never. Do not export the last values meanwhile.
  const late = setTimeout(() => clearGauges(metrics), FLEET_POLL_MS)
  try {
    if (await takeTurn(redis, prefix, 'queues', FLEET_POLL_MS)) {
      const seen = await readQueueFigures(client, locks)
      for (const queue of seen.blocked ?? []) log.error({ queue }, 'a queue makes no progress while its lease is held')
      await saveFleetStatus(redis, prefix, { queues: seen }, FLEET_POLL_MS * MISSED_POLLS)
    }
    if (await takeTurn(redis, prefix, 'verification', VERIFY_INTERVAL_MS)) {
      const findings = await verify(client, { quick: true })
      const broken = findings.filter(({ offenders }) => offenders.length > 0)
      for (const { invariant, offenders } of broken) log.error({ invariant, offenders }, 'an invariant is violated')
      await saveFleetStatus(
        redis,
        prefix,
        { verification: { at: new Date().toISOString(), broken } },
        VERIFY_INTERVAL_MS * MISSED_POLLS,
      )
    }
    const seen = await readFleetStatus(redis, prefix)
    const show = (gauge: Metrics['queue_depth'], value: number | undefined) =>
      value === undefined ? gauge.remove() : gauge.set(value)
    show(queue_depth, seen.queues?.rows)
    show(queue_oldest_age_seconds, seen.queues?.oldest_s)
    show(queues_blocked, seen.queues?.blocked?.length)
    show(payments_stuck, seen.queues?.stuck_charges)
    show(invariant_violations, seen.verification?.broken.length)
  } catch (error) {
    clearGauges(metrics)
    log.debug({ error }, 'fleet status poll failed; will retry')
  } finally {
    clearTimeout(late)
  }
}
