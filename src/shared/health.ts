/**
 * Is this process alive, is it ready, and its metrics: the same three routes on the API and on every worker.
 * Invariant: /livez asks nothing outside the process, so a broken dependency never gets a healthy process restarted.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from './breaker.ts'
import type { Metrics } from './metrics.ts'

export interface Health {
  metrics: Metrics
  breakers: readonly Breaker[]
  /** name → a question that rejects when the dependency is down */
  checks: Readonly<Record<string, () => Promise<unknown>>>
  /** why this process no longer gets anywhere, if so */
  stuck: () => string | undefined
  /** true from the moment that the process has been told to stop */
  stopping: () => boolean
}

/** Milliseconds a dependency has to answer /readyz. */
const CHECK_MS = 1_000
/** An event loop that stood still this long (ms, p99 since the last look) is not alive. */
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

export function healthRoutes(app: FastifyInstance, { metrics, breakers, checks, stuck, stopping }: Health): void {
  const loop = monitorEventLoopDelay({ resolution: 20 })
  loop.enable()
  app.addHook('onClose', async () => {
    loop.disable()
  })

  /** What has not been answered is not asked again: behind a server that hangs, questions would pile up. */
  const open = new Map<string, Promise<unknown>>()

  async function ask(name: string): Promise<{ status: 'up' | 'down'; detail?: string }> {
    let timer: NodeJS.Timeout | undefined
    const question = open.get(name) ?? checks[name]?.().finally(() => open.delete(name))
    try {
      if (question) open.set(name, question)
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no answer within ${CHECK_MS} ms`)), CHECK_MS)
      })
      await Promise.race([question, late])
      return { status: 'up' }
    } catch (error) {
      const { message, code } = error as Error & { code?: string }
      return { status: 'down', detail: message || code || 'no answer' }
    } finally {
      clearTimeout(timer)
    }
  }

  app.get(
    '/livez',
    {
      schema: {
        operationId: 'livez',
        tags: ['operating'],
        summary: 'Is the process alive: event loop and progress',
        security: [],
        response: { 200: { ...Livez, description: 'Alive' }, 503: { ...Livez, description: 'Stuck' } },
      },
    },
    async (_request, reply) => {
      const p99 = Math.round(loop.percentile(99) / 1e4) / 100
      loop.reset()
      const event_loop_p99_ms = Number.isFinite(p99) ? p99 : 0
      const detail = event_loop_p99_ms > LOOP_MS ? 'the event loop stands still' : stuck()
      if (detail === undefined) return { status: 'ok' as const, event_loop_p99_ms }
      return reply.code(503).send({ status: 'stuck', detail, event_loop_p99_ms })
    },
  )

  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'readyz',
        tags: ['operating'],
        summary: 'Is the process ready: Postgres, Redis, breaker states',
        security: [],
        response: {
          200: { ...Readyz, description: 'Ready' },
          503: { ...Readyz, description: 'Not ready, or stopping' },
        },
      },
    },
    async (_request, reply) => {
      const answers = await Promise.all(Object.keys(checks).map(async (name) => [name, await ask(name)] as const))
      const down = answers.some(([, answer]) => answer.status === 'down')
      const status = stopping() ? 'stopping' : down ? 'not_ready' : 'ready'
      return reply.code(status === 'ready' ? 200 : 503).send({
        status,
        checks: Object.fromEntries(answers),
        breakers: Object.fromEntries(breakers.map((breaker) => [breaker.name, breaker.state()])),
      })
    },
  )

  app.get(
    '/metrics',
    {
      schema: {
        operationId: 'metrics',
        tags: ['operating'],
        summary: 'Prometheus metrics of this process',
        security: [],
        response: {
          200: { description: 'Prometheus text format', content: { 'text/plain': { schema: Type.String() } } },
        },
      },
    },
    async (_request, reply) => reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  )
}
