/** A span for each request. */
import type { FastifyInstance } from 'fastify'

/** Call it before the routes are registered. Health and metrics are polled constantly and are not traced. */
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
