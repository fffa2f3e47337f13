/** The worker process: settles lines until it is told to stop. Serves /livez, /readyz and /metrics on METRICS_PORT. */
import Fastify from 'fastify'
import { configOrExit } from '../shared/config.ts'
import { healthRoutes } from '../shared/health.ts'
import { createLog } from '../shared/log.ts'
import { createMetrics } from '../shared/metrics.ts'
import { onStop } from '../shared/shutdown.ts'
import { startWorker } from './worker.ts'

/** Port of the metrics when METRICS_PORT is unset: the one OpenTelemetry registered for Prometheus exporters. */
const METRICS_PORT = 9464

const config = configOrExit()
const log = createLog(config.log_level, 'worker')
const metrics = createMetrics()
const worker = await startWorker({ config, metrics, log })
let stopping = false

const app = Fastify({ logger: false, forceCloseConnections: true })
healthRoutes(app, { metrics, ...worker, stopping: () => stopping })

onStop(log, config.shutdown_ms, [
  [
    'readiness off',
    () => {
      stopping = true
    },
  ],
  ['finish batches, release leases', () => worker.close()],
  ['close', () => app.close()],
])

async function listen(): Promise<void> {
  const { host, metrics_port } = config
  try {
    await app.listen({ host, port: metrics_port ?? METRICS_PORT })
  } catch (error) {
    const taken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
    if (!taken || metrics_port !== undefined) throw new Error(`METRICS_PORT: ${(error as Error).message}`)
    // Several workers on one machine: the second one takes any free port, and says which.
    await app.listen({ host, port: 0 })
  }
}

try {
  await listen()
  log.info({ metrics: app.listeningOrigin, concurrency: config.worker_concurrency }, 'worker is settling lines')
} catch (error) {
  process.stderr.write(`holdfast: ${(error as Error).message}\n`)
  process.exit(1)
}
