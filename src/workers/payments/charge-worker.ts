/**
 * The queue of charges beside the queue of lines. Invariant: at most CHARGES_AT_ONCE of this process and FLEET of all
 * ask the provider at the same time, and none of them keeps a place for a line's job.
 */
import { Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import { type Breaker, createBreaker } from '../../shared/breaker.ts'
import type { Config } from '../../shared/config.ts'
import type { Client } from '../../shared/db/client.ts'
import { LeaseLostError, LockBusyError } from '../../shared/locks/api.ts'
import { createLocks } from '../../shared/locks/redis/locks.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { createStripe } from '../../shared/payments/stripe.ts'
import { bullPrefix, openRedis, PAYMENTS, type PaymentJob } from '../../shared/queues.ts'
import { createChargeSaga, isPaymentAnswer } from './charge-saga.ts'

/** Charges of one worker at once: a provider that takes a second a request still ends thirty charges in it. */
const CHARGES_AT_ONCE = 32
/** Charges of the whole fleet at once: Stripe answers 100 requests a second, and calls more than that abuse. */
const FLEET = 64
/** Milliseconds a charge waits for its turn in the fleet before its job ends; the sweeper brings it back. */
const TURN_MS = 10_000
/** Milliseconds a job keeps its permit at most: one that hangs must not keep the others from the provider for ever. */
const PERMIT_MS = 300_000
/** Held by each job that asks the provider; it is no queue that anyone buys in. */
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
    // The gateway's own limit ends a request; this one is for its two requests, and a second more.
    timeout_ms: 2 * provider.timeout_ms + 1_000,
    capacity: CHARGES_AT_ONCE,
    isAnswer: isPaymentAnswer,
    metrics,
  })
  const gateway = createStripe(provider)
  const saga = createChargeSaga({ client, gateway, breaker, metrics, log, nudge })
  const permit = { mode: 'permit', limit: FLEET, wait_ms: TURN_MS, max_hold_ms: PERMIT_MS } as const
  // Where the jobs are, wherever the leases are: a quorum counts no permits, and these guard the provider, not a sale.
  const permits = createLocks({ redis, prefix: config.redis_prefix, ttl_ms })
  const connection = openRedis(config.redis_url, log, { maxRetriesPerRequest: null, enableOfflineQueue: true })
  const jobs = new Worker<PaymentJob>(
    PAYMENTS,
    async ({ data }) => await permits.withLease(PERMIT, permit, () => saga.process(data.id)),
    {
      connection,
      prefix: bullPrefix(config.redis_prefix),
      concurrency: CHARGES_AT_ONCE,
      // A killed worker's charge goes on about when its permit ends.
      lockDuration: ttl_ms,
      stalledInterval: Math.ceil(ttl_ms / 2),
      maxStalledCount: 1_000,
    },
  )
  jobs.on('error', (error) => log.debug({ error }, 'bullmq'))
  jobs.on('failed', (job, error) => {
    const quiet = error instanceof LockBusyError || error instanceof LeaseLostError
    log[quiet ? 'debug' : 'warn']({ subject: job?.data.id, error }, 'payment job failed; it is told of again')
  })
  return {
    breaker,
    async close() {
      saga.stop()
      await jobs.close()
      await permits.close()
      connection.disconnect()
      breaker.close()
    },
  }
}
