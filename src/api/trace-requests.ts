/** A span for each request, and its trace remembered with the row that it puts into a line. */
import type { FastifyInstance } from 'fastify'
import type { Traces } from '../shared/traces.ts'
import type { Intake, NewRow } from './intake.ts'

/** To be called before the routes are registered. Health and metrics are asked all the time and have no trace. */
export async function traceRequests(app: FastifyInstance): Promise<void> {
  const { FastifyOtelInstrumentation } = await import('@fastify/otel')
  const otel = new FastifyOtelInstrumentation({
    instrumentHooks: false,
    ignorePaths: ({ url }) => /^\/(livez|readyz|metrics|docs)\b/.test(url),
    requestHook: (span, request) => {
      span.updateName(`${request.method} ${request.routeOptions.url ?? 'unknown'}`)
    },
  })
  await app.register(otel.plugin())
}

export function traceTaking<Row extends NewRow>(intake: Intake<Row>, traces: Traces | undefined): Intake<Row> {
  if (!traces) return intake
  return {
    ...intake,
    take(row) {
      traces.remember(row.id)
      return intake.take(row)
    },
  }
}
