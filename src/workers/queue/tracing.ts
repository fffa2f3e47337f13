/**
 * Adds two spans for each settled row to the trace of the request that created it: the wait in the queue, and the batch
 * that settled it.
 */
import type { SpanKind } from '@opentelemetry/api'
import type { Traces } from '../../shared/tracing.ts'

/** Value of SpanKind.CONSUMER. Importing the enum would load OpenTelemetry even if tracing is off. */
const CONSUMER: SpanKind.CONSUMER = 4

/** A row as it was decided and committed. */
export interface SettledRow {
  id: string
  status: string
  fencing_token: number
  /**
   * the row's queue, and when the row was created (ms since 1970, database clock); absent for a row that a command
   * changed
   */
  queued?: { queue: string; created_ms: number }
}

/**
 * Adds the spans of these rows. `decided_ms`: when the rows were decided, by the database clock. Never throws; the
 * caller does not wait for it.
 */
export async function traceSettled({ tracer, loadContexts }: Traces, rows: readonly SettledRow[], decided_ms: number) {
  const committed_ms = Date.now()
  const contexts = await loadContexts(rows.map(({ id }) => id))
  for (const { id, status, fencing_token, queued } of rows) {
    const context = contexts.get(id)
    if (!context) continue
    if (queued) {
      const { queue, created_ms } = queued
      const attributes = { 'holdfast.resource': queue }
      tracer.startSpan('wait in queue', { startTime: created_ms, attributes }, context).end(decided_ms)
    }
    const attributes = {
      'holdfast.id': id,
      'holdfast.status': status,
      'holdfast.fencing_token': fencing_token,
      'holdfast.batch_size': rows.length,
    }
    tracer
      .startSpan('settle', { startTime: decided_ms, kind: CONSUMER, attributes }, context)
      .end(Math.max(decided_ms, committed_ms))
  }
}
