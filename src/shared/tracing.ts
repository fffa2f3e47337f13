/**
 * OpenTelemetry traces from the request to the settled row. Invariant: without OTEL_EXPORTER_OTLP_ENDPOINT and
 * OTEL_EXPORTER_OTLP_TRACES_ENDPOINT the SDK is not loaded, and no purchase ever waits for a collector or for a trace in Redis.
 *
 * The trace context of a row is kept in Redis until a worker settles the row: a job is for a queue, not for a row, so it
 * could carry the context of only one of many requests.
 */
import type { Context, Tracer } from '@opentelemetry/api'
import type { Redis } from 'ioredis'
import { withTimeout } from './timeout.ts'

export interface Traces {
  tracer: Tracer
  /** Saves the active trace context for the worker that settles this row. */
  saveContext(id: string): void
  /** Returns the saved trace contexts by row id; rows without one are absent. */
  loadContexts(ids: readonly string[]): Promise<Map<string, Context>>
  /** Exports the remaining spans; gives up after CLOSE_MS. */
  close(): Promise<void>
}

export interface TracesDeps {
  /** default for service.name; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override it */
  service: string
  redis: Redis
  prefix: string
}

/** Seconds for which Redis keeps a trace context: longer than a charge takes, short enough to cost little memory. */
const KEPT_S = 600
const CLOSE_MS = 3_000

export async function openTraces({ service, redis, prefix }: TracesDeps): Promise<Traces> {
  const { context, propagation, trace, TraceFlags, ROOT_CONTEXT } = await import('@opentelemetry/api')
  const { OTLPTraceExporter } = await import('@opentelemetry/exporter-trace-otlp-http')
  const { BatchSpanProcessor, NodeTracerProvider } = await import('@opentelemetry/sdk-trace-node')
  const { detectResources, envDetector, resourceFromAttributes } = await import('@opentelemetry/resources')
  const named = detectResources({ detectors: [envDetector] })
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ 'service.name': service }).merge(named),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
  })
  provider.register()
  const keyOf = (id: string) => `${prefix}trace:${id}`
  return {
    tracer: trace.getTracer('holdfast'),
    saveContext(id) {
      const active = context.active()
      if (!((trace.getSpanContext(active)?.traceFlags ?? 0) & TraceFlags.SAMPLED)) return
      const carrier: Record<string, string> = {}
      propagation.inject(active, carrier)
      // Do not await this command: it is sent before the row is inserted, and only a span depends on it.
      redis.set(keyOf(id), JSON.stringify(carrier), 'EX', KEPT_S).catch(() => {})
    },
    async loadContexts(ids) {
      const found = ids.length > 0 ? await redis.mget(ids.map(keyOf)).catch(() => []) : []
      return new Map(
        ids.flatMap((id, i) => {
          const carrier = found[i]
          return carrier ? [[id, propagation.extract(ROOT_CONTEXT, JSON.parse(carrier))] as const] : []
        }),
      )
    },
    async close() {
      // A collector that does not answer must not use up the time limit for stopping.
      await withTimeout(provider.shutdown(), CLOSE_MS).catch(() => {})
    },
  }
}
