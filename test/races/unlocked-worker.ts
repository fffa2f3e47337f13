/** A worker process as src/workers/main.ts, whose leases lock nobody out. */
import Fastify from 'fastify'
import { configOrExit } from '../../src/shared/config.ts'
import { healthRoutes } from '../../src/shared/health.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { startWorker } from '../../src/workers/worker.ts'
import { noLocks } from '../no-locks.ts'

const config = configOrExit()
const metrics = createMetrics()
const worker = await startWorker({ config, metrics, log: createLog(config.log_level, 'worker'), locks: noLocks() })
const app = Fastify({ logger: false })
healthRoutes(app, { metrics, ...worker, stopping: () => false })
await app.listen({ host: config.host, port: config.metrics_port ?? 0 })
