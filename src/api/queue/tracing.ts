/** Stores the trace context of a request under the id of the row that it queues, so that the worker's span continues the trace. */
import type { Traces } from '../../shared/tracing.ts'
import type { Intake, QueuedRowInput } from './intake.ts'

export function traceEnqueue<Row extends QueuedRowInput>(intake: Intake<Row>, traces: Traces | undefined): Intake<Row> {
  if (!traces) return intake
  return {
    ...intake,
    enqueue(row) {
      traces.saveContext(row.id)
      return intake.enqueue(row)
    },
  }
}
