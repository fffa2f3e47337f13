/** Two spans for each settled row in the trace of its request: its wait in the queue, and the batch that settled it. */
import type { SpanKind } from '@opentelemetry/api'
import type { Traces } from '../../shared/tracing.ts'

/** SpanKind.CONSUMER: the enum itself is loaded with the rest only where traces are on. */
const CONSUMER: SpanKind.CONSUMER = 4

/** A row as it was decided and committed. */
export interface SettledRow {
  id: string
  status: string
  fencing_token: number
  /** its queue, and since when (ms since 1970, by the database's clock); absent for a row that a command changed */
  queued?: { queue: string; created_ms: number }
}

/** `decided_ms` is the database's clock. Never throws; its caller does not wait for it. */
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
