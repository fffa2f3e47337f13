/** Keeps the trace context of a request with the row that it queues, so that the worker's span continues the trace. */
import type { Traces } from '../../shared/tracing.ts'
import type { Intake, NewRow } from './intake.ts'

export function traceTaking<Row extends NewRow>(intake: Intake<Row>, traces: Traces | undefined): Intake<Row> {
  if (!traces) return intake
  return {
    ...intake,
    take(row) {
      traces.saveContext(row.id)
      return intake.take(row)
    },
  }
}
