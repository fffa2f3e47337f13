/** The worker process: settles queues until a signal stops it. Serves /livez, /readyz and /metrics on METRICS_PORT. */
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { configOrExit } from '../shared/config.ts'
import { healthRoutes } from '../shared/health.ts'
import { createLog } from '../shared/log.ts'
import { knowPaths } from '../shared/methods.ts'
import { createMetrics } from '../shared/metrics.ts'
import { Problem, sendProblem } from '../shared/problem.ts'
import { createConnectionDrain, onStop } from '../shared/shutdown.ts'
import { startWorker } from './worker.ts'

/** Port of the metrics if METRICS_PORT is unset: the port that OpenTelemetry registered for Prometheus exporters. */
const METRICS_PORT = 9464

const config = configOrExit()
const metrics = createMetrics()
const log = createLog(config.log_level, 'worker', { onError: () => metrics.errors.inc({ kind: 'log' }) })
const worker = await startWorker({ config, metrics, log })
let stopping = false

const app = Fastify({ logger: false, return503OnClosing: false })
const door = createConnectionDrain(app)
const paths = knowPaths(app)
paths.refuseUnknown()
app.setErrorHandler((error, request, reply) => {
  const known = error instanceof Problem ? error : undefined
  if (!known) log.error({ error, url: request.routeOptions.url }, 'request failed')
  return sendProblem(
    known ?? new Problem(500, 'internal_error', 'Internal error of the worker. The error has been logged.'),
    request,
    reply,
  )
})
healthRoutes(app, { metrics, ...worker, stopping: () => stopping })

let stopping_at = 0
onStop(log, config.shutdown_ms, [
  [
    'readiness off',
    () => {
      stopping = true
      stopping_at = performance.now()
      door.announceClose()
    },
  ],
  // The worker need not wait before it stops, because no load balancer routes jobs and other workers take over at once.
  // /readyz still reports 503 for drain_ms, as that of an API does.
  ...worker.closing,
  ['wait until seen as not ready', () => sleep(Math.max(0, stopping_at + config.drain_ms - performance.now()))],
  ['close the health server', (within_ms) => door.drain(within_ms)],
])

async function listen(): Promise<void> {
  const { host, metrics_port } = config
  try {
    await app.listen({ host, port: metrics_port ?? METRICS_PORT })
  } catch (error) {
    const inUse = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
    if (!inUse || metrics_port !== undefined) throw new Error(`METRICS_PORT: ${(error as Error).message}`)
    // With several workers on one machine, all but the first listen on any free port and log it.
    await app.listen({ host, port: 0 })
  }
}

try {
  await listen()
  log.info({ metrics: app.listeningOrigin, concurrency: config.worker_concurrency }, 'worker is running')
} catch (error) {
  process.stderr.write(`holdfast: ${(error as Error).message}\n`)
  process.exit(1)
}
