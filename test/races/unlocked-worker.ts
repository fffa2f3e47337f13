/**
 * A worker process like src/workers/main.ts, but its leases exclude no other worker. It shows what happens if locking
 * fails altogether.
 */
import Fastify from 'fastify'
import { configOrExit } from '../../src/shared/config.ts'
import { healthRoutes } from '../../src/shared/health.ts'
import type { Locks } from '../../src/shared/locks/api.ts'
import type { Backend } from '../../src/shared/locks/core/backend.ts'
import { createLocksOn } from '../../src/shared/locks/core/locks.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { startWorker } from '../../src/workers/worker.ts'

/** Most milliseconds by which a token is older than its lease, so that newer holders may have written before. */
const TOKENS_LATE_MS = Number(process.env.TEST_TOKENS_LATE_MS ?? 0)

let token = 0

/**
 * Returns locks that grant every lease at once, with a token from the clock, as a lock server that has lost its data
 * would.
 */
function noLocks(): Locks {
  const backend: Backend = {
    newOwnerId: ({ waiter_id }) => String(waiter_id),
    async attempt({ above }) {
      const now_us = Math.round((performance.timeOrigin + performance.now() - Math.random() * TOKENS_LATE_MS) * 1000)
      token = Math.max(TOKENS_LATE_MS > 0 ? 0 : token + 1, above + 1, now_us)
      return { granted: true, token }
    },
    extend: async () => 0,
    release: async () => 'released',
    cancel: async () => {},
    force: async () => ({ token, revoked_holders: [] }),
    inspect: async () => [],
    list: async () => [],
    listen() {},
    close: async () => {},
  }
  return createLocksOn(backend, { ttl_ms: 1_000, instance: 'unlocked' })
}

const config = configOrExit()
const metrics = createMetrics()
const worker = await startWorker({ config, metrics, log: createLog(config.log_level, 'worker'), locks: noLocks() })
const app = Fastify({ logger: false })
healthRoutes(app, { metrics, ...worker, stopping: () => false })
await app.listen({ host: config.host, port: config.metrics_port ?? 0 })
