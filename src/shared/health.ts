/**
 * Is this process alive, is it ready, and its metrics: the same three routes on the API and on every worker.
 * Invariant: /livez asks nothing outside the process, so a broken dependency never gets a healthy process restarted.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from './breaker.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'

export interface Health {
  metrics: Metrics
  breakers: readonly Breaker[]
  /** name → a question that rejects when the dependency is down */
  checks: Readonly<Record<string, () => Promise<unknown>>>
  /** why this process no longer gets anywhere, if so */
  stuckReason: () => string | undefined
  /** true from the moment that the process has been told to stop */
  stopping: () => boolean
}

/** Milliseconds a dependency has to answer /readyz. */
const CHECK_MS = 1_000
/** An event loop that stood still this long (ms, p99 since the last look) is not alive. */
const LOOP_MS = 10_000

interface Answer {
  status: 'up' | 'down'
  detail?: string
}

/** What has not been answered is not asked again: behind a server that hangs, questions would pile up. */
function shareRunning(question: () => Promise<unknown>): () => Promise<unknown> {
  let pending: Promise<unknown> | undefined
  return () => {
    pending ??= question().finally(() => {
      pending = undefined
    })
    return pending
  }
}

async function runCheck(question: () => Promise<unknown>): Promise<Answer> {
  let timer: NodeJS.Timeout | undefined
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no response within ${CHECK_MS} ms`)), CHECK_MS)
    })
    await Promise.race([question(), late])
    return { status: 'up' }
  } catch (error) {
    return { status: 'down', detail: causeOf(error as Error) }
  } finally {
    clearTimeout(timer)
  }
}

/** A host with several addresses fails with an error that has the reasons, and says nothing itself. */
function causeOf({ message, code, errors = [] }: Error & { code?: string; errors?: Error[] }): string {
  return message || [...new Set(errors.map((one) => one.message))].join(', ') || code || 'no response'
}

/** Milliseconds between looks at the dependencies. Two in a row without an answer are said: one may come before a connection. */
const WATCH_MS = 2_000
/** Milliseconds after which it is said again of one that is still down. */
const REPEAT_MS = 60_000

/** Says in the log which dependencies do not answer and why: once when it begins, rarely while it lasts, and when it is over. */
export function watchDependencies(
  { checks, log }: Pick<Health, 'checks'> & { log: Log },
  { watch_ms = WATCH_MS, repeat_ms = REPEAT_MS } = {},
) {
  const watched = Object.entries(checks).map(([name, question]) => {
    const once = shareRunning(question)
    let failed = 0
    let since_ms = 0
    let said_ms: number | undefined
    return async () => {
      const { status, detail } = await runCheck(once)
      const now_ms = performance.now()
      const down_s = Math.round((now_ms - since_ms) / 1000)
      if (status === 'up') {
        if (said_ms !== undefined) log.info({ dependency: name, down_s }, `${name} answers again`)
        failed = 0
        said_ms = undefined
        return
      }
      if (failed++ === 0) since_ms = now_ms
      if (failed < 2 || (said_ms !== undefined && now_ms - said_ms < repeat_ms)) return
      said_ms = now_ms
      log.warn({ dependency: name, error: detail, down_s }, `${name} does not answer`)
    }
  })
  const look = () => void Promise.all(watched.map((one) => one()))
  const timer = setInterval(look, watch_ms)
  look()
  return { close: () => clearInterval(timer) }
}

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

export function healthRoutes(app: FastifyInstance, { metrics, breakers, checks, stuckReason, stopping }: Health): void {
  const loop = monitorEventLoopDelay({ resolution: 20 })
  loop.enable()
  app.addHook('onClose', async () => {
    loop.disable()
  })
  const questions = Object.entries(checks).map(([name, question]) => [name, shareRunning(question)] as const)

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

  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'readyz',
        tags: ['operating'],
        summary: 'Readiness: Postgres, Redis, breaker states',
        security: [],
        response: {
          200: { ...Readyz, description: 'Ready' },
          503: { ...Readyz, description: 'Not ready, or stopping' },
        },
      },
    },
    async (_request, reply) => {
      const answers = await Promise.all(
        questions.map(async ([name, question]) => [name, await runCheck(question)] as const),
      )
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
        summary: 'Get the Prometheus metrics of this process',
        security: [],
        response: {
          200: { description: 'Prometheus text format', content: { 'text/plain': { schema: Type.String() } } },
        },
      },
    },
    async (_request, reply) => reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  )
}
