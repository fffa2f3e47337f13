/**
 * Stores the trace context of a request under the id of the row that the request queues, so that the worker's span continues
 * the trace.
 */
import type { Traces } from '../../shared/tracing.ts'
import type { Intake } from './intake.ts'
import type { QueuedRowInput } from './intake-rows.ts'

export function traceEnqueue<Row extends QueuedRowInput>(
  intake: Pick<Intake<Row>, 'enqueue'>,
  traces: Traces | undefined,
): Pick<Intake<Row>, 'enqueue'> {
  if (!traces) return intake
  return {
    enqueue(row) {
      traces.saveContext(row.id)
      return intake.enqueue(row)
    },
  }
}
