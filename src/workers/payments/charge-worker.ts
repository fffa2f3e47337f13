/**
 * The BullMQ worker for charges, separate from the worker that settles queues. Invariant: at most CHARGES_AT_ONCE jobs
 * of this process and FLEET jobs of the whole fleet call the provider at the same time, and none of them occupies the
 * slot of a queue's job.
 */
import type { Redis } from 'ioredis'
import { type Breaker, createBreaker } from '../../shared/breaker.ts'
import type { Config } from '../../shared/config.ts'
import type { Client } from '../../shared/db/client.ts'
import { openWorker, QUEUES } from '../../shared/jobs/bullmq.ts'
import type { ChargeJob } from '../../shared/jobs/charge-queue.ts'
import { LeaseLostError, LockBusyError } from '../../shared/locks/api.ts'
import { createLocks } from '../../shared/locks/redis/locks.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { createStripe } from '../../shared/payments/stripe.ts'
import { ChargeSaga, isRefusal } from './charge-saga.ts'

/**
 * Most concurrent charges of one worker: enough that about thirty requests a second end even if the provider takes a
 * second for each.
 */
const CHARGES_AT_ONCE = 32
/** Most concurrent charges of the whole fleet: Stripe allows 100 requests a second and regards more as abuse. */
const FLEET = 64
/**
 * Milliseconds that a charge waits for a permit of the fleet before its job fails; the sweeper then adds another job.
 */
const TURN_MS = 10_000
/** Most milliseconds that a job keeps its permit: a job that hangs must not block the others for ever. */
const PERMIT_MS = 300_000
/** Name of the lock whose permits jobs hold while they call the provider. It is not a resource. */
const PERMIT = 'payments:provider'

export interface PaymentJobsDeps {
  config: Pick<Config, 'redis_url' | 'redis_prefix' | 'lease_ttl_ms' | 'payments'>
  client: Client
  /** connection to REDIS_URL, which the caller closes */
  redis: Redis
  metrics: Metrics
  log: Log
  nudge(resources: Iterable<string>): void
}

export function startPaymentJobs({ config, client, redis, metrics, log, nudge }: PaymentJobsDeps): {
  breaker: Breaker
  close(): Promise<void>
} {
  const { payments: provider, lease_ttl_ms: ttl_ms } = config
  const breaker = createBreaker({
    name: 'payments',
    // The gateway itself limits each request. This limit covers two requests and one second more.
    timeout_ms: 2 * provider.timeout_ms + 1_000,
    capacity: CHARGES_AT_ONCE,
    isAnswer: isRefusal,
    metrics,
  })
  const gateway = createStripe(provider)
  const saga = new ChargeSaga({ client, gateway, breaker, metrics, log, nudge })
  const permit = { mode: 'permit', limit: FLEET, wait_ms: TURN_MS, max_hold_ms: PERMIT_MS } as const
  // The permits are on REDIS_URL, whatever lock server holds the leases: a quorum has no permits, and these protect the
  // provider, not a sale.
  const permits = createLocks({ redis, prefix: config.redis_prefix, ttl_ms })
  const jobs = openWorker<ChargeJob>(
    QUEUES.charges,
    async ({ data }) => await permits.withLease(PERMIT, permit, () => saga.process(data.id)),
    {
      redis_url: config.redis_url,
      redis_prefix: config.redis_prefix,
      log,
      concurrency: CHARGES_AT_ONCE,
      ttl_ms,
      onFailed(job, error) {
        const quiet = error instanceof LockBusyError || error instanceof LeaseLostError
        const level = quiet ? 'debug' : 'warn'
        log[level]({ subject: job?.data.id, error }, 'charge job failed; the sweeper adds another one')
      },
    },
  )
  return {
    breaker,
    async close() {
      saga.stop()
      await jobs.close()
      await permits.close()
      breaker.close()
    },
  }
}
