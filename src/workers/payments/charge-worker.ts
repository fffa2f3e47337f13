/**
 * BullMQ worker of the charges, apart from the worker of the queues. Invariant: at most CHARGES_AT_ONCE jobs of this process
 * and FLEET of all call the provider at the same time, and none of them occupies the slot of a queue's job.
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
import { ChargeSaga, isPaymentAnswer } from './charge-saga.ts'

/** Concurrent charges of one worker: with a provider that needs a second for a request, thirty charges still end in it. */
const CHARGES_AT_ONCE = 32
/** Concurrent charges of the whole fleet: Stripe allows 100 requests a second, and calls more than that abuse. */
const FLEET = 64
/** Milliseconds a charge waits for a permit of the fleet before its job fails; the sweeper adds another one. */
const TURN_MS = 10_000
/** Milliseconds a job keeps its permit at most: one that hangs must not block the others for ever. */
const PERMIT_MS = 300_000
/** Lock whose permits the jobs hold while they call the provider; it is no resource. */
const PERMIT = 'payments:provider'

export interface PaymentJobsDeps {
  config: Pick<Config, 'redis_url' | 'redis_prefix' | 'lease_ttl_ms' | 'payments'>
  client: Client
  /** on REDIS_URL; stays the caller's to close */
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
    // The gateway's own limit ends a request; this one covers its two requests and a second more.
    timeout_ms: 2 * provider.timeout_ms + 1_000,
    capacity: CHARGES_AT_ONCE,
    isAnswer: isPaymentAnswer,
    metrics,
  })
  const gateway = createStripe(provider)
  const saga = new ChargeSaga({ client, gateway, breaker, metrics, log, nudge })
  const permit = { mode: 'permit', limit: FLEET, wait_ms: TURN_MS, max_hold_ms: PERMIT_MS } as const
  // On REDIS_URL, wherever the leases are: a quorum has no permits, and these protect the provider, not a sale.
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
