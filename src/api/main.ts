/** Entry point of the API process: serves until it gets a stop signal. */
import { setTimeout as sleep } from 'node:timers/promises'
import { configOrExit } from '../shared/config.ts'
import { createLog } from '../shared/log.ts'
import { createMetrics } from '../shared/metrics.ts'
import { onStop } from '../shared/shutdown.ts'
import { startApi } from './server.ts'

const config = configOrExit()
const metrics = createMetrics()
const log = createLog(config.log_level, 'api', { onError: () => metrics.errors.inc({ kind: 'log' }) })
const api = await startApi({ config, metrics, log })

onStop(log, config.shutdown_ms, [
  ['readiness off', () => api.stopping()],
  ['wait for the balancer', () => sleep(config.drain_ms)],
  ...api.closing,
])

try {
  const address = await api.app.listen({ host: config.host, port: config.port })
  log.info({ address, docs: `${address}/docs` }, 'api is listening')
} catch (error) {
  process.stderr.write(`holdfast: PORT or HOST: ${(error as Error).message}\n`)
  process.exit(1)
}
