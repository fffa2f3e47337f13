/**
 * Liveness, readiness and metrics: the same three routes on the API and on every worker. Invariant: /livez checks nothing
 * outside the process, so a broken dependency never causes the restart of a healthy process.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from './breaker.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import { every, withTimeout } from './timeout.ts'

export interface Health {
  metrics: Metrics
  breakers: readonly Breaker[]
  /** name → a check that rejects when the dependency is down */
  checks: Readonly<Record<string, () => Promise<unknown>>>
  /** returns why this process makes no progress; undefined if it makes progress */
  stuckReason: () => string | undefined
  /** returns true once the process has received a stop signal */
  stopping: () => boolean
}

/** Milliseconds within which a dependency must answer a check of /readyz. */
const CHECK_MS = 1_000
/** Limit of event-loop delay, in milliseconds (p99 since the last check): a process above it counts as not alive. */
const LOOP_MS = 10_000

interface Answer {
  status: 'up' | 'down'
  detail?: string
}

/** Returns a check that shares a pending run instead of starting another: if a server hangs, runs would pile up. */
function shareRunning(check: () => Promise<unknown>): () => Promise<unknown> {
  let pending: Promise<unknown> | undefined
  return () => {
    pending ??= check().finally(() => {
      pending = undefined
    })
    return pending
  }
}

async function runCheck(check: () => Promise<unknown>): Promise<Answer> {
  try {
    await withTimeout(check(), CHECK_MS)
    return { status: 'up' }
  } catch (error) {
    return { status: 'down', detail: causeOf(error as Error) }
  }
}

/**
 * Returns the text of a connection error. If a host has several addresses, the error has no message, but contains one error
 * for each address.
 */
function causeOf({ message, code, errors = [] }: Error & { code?: string; errors?: Error[] }): string {
  return message || [...new Set(errors.map((one) => one.message))].join(', ') || code || 'no response'
}

/** Milliseconds between checks. Only two failures in a row are logged, because the first check may precede the connection. */
const WATCH_MS = 2_000
/** Milliseconds after which a dependency that is still down is logged again. */
const REPEAT_MS = 60_000

/** Logs which dependencies do not answer and why: when an outage begins, every REPEAT_MS while it lasts, and when it ends. */
export function watchDependencies(
  { checks, log }: Pick<Health, 'checks'> & { log: Log },
  { watch_ms = WATCH_MS, repeat_ms = REPEAT_MS } = {},
) {
  const watched = Object.entries(checks).map(([name, check]) => {
    const shared = shareRunning(check)
    let failed = 0
    let since_ms = 0
    let logged_ms: number | undefined
    return async () => {
      const { status, detail } = await runCheck(shared)
      const now_ms = performance.now()
      const down_s = Math.round((now_ms - since_ms) / 1000)
      if (status === 'up') {
        if (logged_ms !== undefined) log.info({ dependency: name, down_s }, `${name} answers again`)
        failed = 0
        logged_ms = undefined
        return
      }
      if (failed++ === 0) since_ms = now_ms
      if (failed < 2 || (logged_ms !== undefined && now_ms - logged_ms < repeat_ms)) return
      logged_ms = now_ms
      log.warn({ dependency: name, error: detail, down_s }, `${name} does not answer`)
    }
  })
  const checkAll = () => Promise.all(watched.map((one) => one()))
  const onError = (error: unknown) => log.error({ error }, 'the dependencies could not be checked')
  checkAll().catch(onError)
  const stop = every(watch_ms, checkAll, onError)
  return { close: () => void stop() }
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

function readyzRoute(app: FastifyInstance, { breakers, checks, stopping }: Health): void {
  const sharedChecks = Object.entries(checks).map(([name, check]) => [name, shareRunning(check)] as const)
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
      const answers = await Promise.all(
        sharedChecks.map(async ([name, check]) => [name, await runCheck(check)] as const),
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
