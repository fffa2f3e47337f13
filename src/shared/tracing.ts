/**
 * OpenTelemetry traces from the request to the settled row. Invariant: without OTEL_EXPORTER_OTLP_ENDPOINT nothing of it is
 * loaded, and what the traces need (a collector, Redis) never keeps a purchase waiting.
 *
 * A row's trace is kept beside it in Redis until somebody settles the row: jobs name lines, not rows, so a job could carry
 * the trace of one request among many.
 */
import type { Context, Tracer } from '@opentelemetry/api'
import type { Redis } from 'ioredis'

export interface Traces {
  tracer: Tracer
  /** Whoever settles this row goes on with the trace that is active now. */
  saveContext(id: string): void
  /** The traces of those rows that have one. */
  loadContexts(ids: readonly string[]): Promise<Map<string, Context>>
  /** Sends what is left, for CLOSE_MS at most. */
  close(): Promise<void>
}

export interface TracesDeps {
  /** service.name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says another */
  service: string
  redis: Redis
  prefix: string
}

/** Seconds a row's trace is kept: longer than a card takes, shorter than Redis would mind. */
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
      // Not waited for: it is on its way before the row is, and no more than a span depends on it.
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
      // A collector that does not answer must not use up the time that stopping has.
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, CLOSE_MS)
      })
      await Promise.race([provider.shutdown().catch(() => {}), late])
      clearTimeout(timer)
    },
  }
}
