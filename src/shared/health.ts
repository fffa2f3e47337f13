/**
 * Liveness, readiness and metrics: the same three routes on the API and on every worker. Invariant: /livez checks nothing
 * outside the process, so a broken dependency never causes the restart of a healthy process.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from './breaker.ts'
import type { Dependencies } from './dependencies.ts'
import type { Metrics } from './metrics.ts'

export interface Health {
  metrics: Metrics
  breakers: readonly Breaker[]
  dependencies: Pick<Dependencies, 'check'>
  /** returns why this process makes no progress; undefined if it makes progress */
  stuckReason: () => string | undefined
  /** returns true once the process has received a stop signal */
  stopping: () => boolean
}

/** Limit of event-loop delay, in milliseconds (p99 since the last check): a process above it counts as not alive. */
const LOOP_MS = 10_000

const Livez = Type.Object({
  status: Type.Enum(['ok', 'stuck']),
  detail: Type.Optional(Type.String()),
  event_loop_p99_ms: Type.Number(),
})
const Check = Type.Object({ status: Type.Enum(['up', 'down']), detail: Type.Optional(Type.String()) })
const Readyz = Type.Object({
  status: Type.Enum(['ready', 'not_ready', 'stopping']),
  checks: Type.Record(Type.String(), Check),
  breakers: Type.Record(Type.String(), Type.Enum(['closed', 'half_open', 'open'])),
})

export function healthRoutes(app: FastifyInstance, health: Health): void {
  livezRoute(app, health)
  readyzRoute(app, health)
  metricsRoute(app, health)
}

function livezRoute(app: FastifyInstance, { stuckReason }: Health): void {
  const loop = monitorEventLoopDelay({ resolution: 20 })
  loop.enable()
  app.addHook('onClose', async () => {
    loop.disable()
  })
  app.get(
    '/livez',
    {
      schema: {
        operationId: 'livez',
        tags: ['operating'],
        summary: 'Liveness: event loop and progress',
        security: [],
        response: { 200: { ...Livez, description: 'Alive' }, 503: { ...Livez, description: 'Stuck' } },
      },
    },
    async (_request, reply) => {
      const p99 = Math.round(loop.percentile(99) / 1e4) / 100
      loop.reset()
      const event_loop_p99_ms = Number.isFinite(p99) ? p99 : 0
      const detail = event_loop_p99_ms > LOOP_MS ? 'the event loop is blocked' : stuckReason()
      if (detail === undefined) return { status: 'ok' as const, event_loop_p99_ms }
      return reply.code(503).send({ status: 'stuck', detail, event_loop_p99_ms })
    },
  )
}

function readyzRoute(app: FastifyInstance, { breakers, dependencies, stopping }: Health): void {
  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'readyz',
        tags: ['operating'],
        summary: 'Readiness: Postgres, Redis, a separate lock server, breaker states',
        security: [],
        response: {
          200: { ...Readyz, description: 'Ready' },
          503: { ...Readyz, description: 'Not ready, or stopping' },
        },
      },
    },
    async (_request, reply) => {
      const answers = await dependencies.check()
      const down = Object.values(answers).some(({ status }) => status === 'down')
      const status = stopping() ? 'stopping' : down ? 'not_ready' : 'ready'
      return reply.code(status === 'ready' ? 200 : 503).send({
        status,
        checks: answers,
        breakers: Object.fromEntries(breakers.map((breaker) => [breaker.name, breaker.state()])),
      })
    },
  )
}

function metricsRoute(app: FastifyInstance, { metrics: { registry } }: Health): void {
  app.get(
    '/metrics',
    {
      schema: {
        operationId: 'metrics',
        tags: ['operating'],
        summary: 'Get the Prometheus metrics of this process',
        security: [],
        response: {
          200: { description: 'Prometheus text format', content: { 'text/plain': { schema: Type.String() } } },
        },
      },
    },
    async (_request, reply) => reply.type(registry.contentType).send(await registry.metrics()),
  )
}
