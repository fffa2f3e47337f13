/** A span for each request. */
import type { FastifyInstance } from 'fastify'

/**
 * Starts a span for each request. Call it before the routes are registered. Health and metrics are not traced, because they
 * are polled constantly.
 */
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
