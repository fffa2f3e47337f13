/**
 * Publishes a committed decision: metrics, log, charge jobs, notices, traces. Invariant: the outcome depends on nothing
 * here. Any of it may be lost, because the rows are committed and their readers poll.
 */
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { type QueueItem, rowOf } from './queue-item.ts'
import type { Decision } from './settlement.ts'
import type { SettledRow } from './tracing.ts'

export interface PublishDeps {
  metrics: Metrics
  log: Log
  /** notifies the waiting requests of the API that these ids are settled */
  notify(ids: string[]): void
  /** adds charge jobs for these purchases and bookings */
  enqueueCharges(ids: Iterable<string>): void
  /** adds spans to the traces of the settled rows; absent if tracing is off */
  trace?(rows: readonly SettledRow[], decided_ms: number): void
}

type Committed = Decision & { now_ms: number }
type Rows = ReadonlyMap<string, ReturnType<typeof rowOf>>

export function publish(deps: PublishDeps, items: readonly QueueItem[], decision: Committed): void {
  const rows = new Map(items.map((item) => [rowOf(item).id, rowOf(item)]))
  count(deps.metrics, rows, decision)
  logSettled(deps.log, rows, decision)
  deps.enqueueCharges(decision.chargeRequests.map((charge) => charge.id))
  // A client that waits for a purchase or booking also waits for its charge: send no notice before the charge ends.
  const charging = new Set(decision.chargeRequests.flatMap(({ step, id }) => (step === 'charge' ? [id] : [])))
  const changes = [...decision.purchases, ...decision.bookings]
  const settled = changes.filter(
    ({ id, status }) => !((status === 'held' || status === 'requested') && charging.has(id)),
  )
  deps.notify([...settled, ...decision.commands].map((change) => change.id))
  deps.trace?.(
    changes.map(({ id, status, fencing_token, was }) => {
      const row = was === 'queued' ? rows.get(id) : undefined
      return { id, status, fencing_token, ...(row && { queued: row }) }
    }),
    decision.now_ms,
  )
}

function count(metrics: Metrics, rows: Rows, decision: Committed): void {
  for (const { was, status } of decision.purchases) if (was !== status) metrics.purchases.inc({ status })
  for (const { was, status } of decision.bookings) if (was !== status) metrics.bookings.inc({ status })
  metrics.bookings.inc({ status: 'expired' }, decision.overdue.length)
  metrics.purchases.inc({ status: 'confirmed' }, decision.purchaseReplacements.length)
  metrics.bookings.inc({ status: 'accepted' }, decision.bookingReplacements.length)
  for (const { id, was } of [...decision.purchases, ...decision.bookings]) {
    const row = was === 'queued' ? rows.get(id) : undefined
    if (row) metrics.settlement_latency_seconds.observe(Math.max(0, decision.now_ms - row.created_ms) / 1000)
  }
  const { purchases, bookings, commands } = decision
  metrics.settlement_batch_rows.observe(purchases.length + bookings.length + commands.length)
}

/** Logs one line per queue with the number of rows by status, and at level debug one with their ids. */
function logSettled(log: Log, rows: Rows, decision: Committed): void {
  const queues = new Map<string, { fencing_token: number; settled: Record<string, string[]> }>()
  for (const change of [...decision.purchases, ...decision.bookings]) {
    const row = rows.get(change.id)
    if (!row) continue
    const queue = queues.get(row.queue) ?? { fencing_token: change.fencing_token, settled: {} }
    queues.set(row.queue, queue)
    queue.settled[change.status] ??= []
    queue.settled[change.status]?.push(change.id)
  }
  for (const [resource, { fencing_token, settled }] of queues) {
    const counts = Object.fromEntries(Object.entries(settled).map(([status, ids]) => [status, ids.length]))
    log.info({ resource, fencing_token, settled: counts }, 'settled')
    log.debug({ resource, fencing_token, settled }, 'settled, by id')
  }
}
