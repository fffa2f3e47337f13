/** Prometheus metrics of one process. Invariant: every name that the alerts use is here, so it exists from the start. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { typeOf } from './domain/resource.ts'
import type { LockStats } from './lock-stats.ts'
import type { LockEvents, LostReason } from './locks/api.ts'
import type { Log } from './log.ts'

/** Ends of the buckets of all durations, in seconds. */
export const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

const LOST = [
  'expired',
  'taken',
  'unreachable',
  'released',
  'stalled',
  'max_hold',
] as const satisfies readonly LostReason[]
const FAILED = ['lock_busy', 'aborted', 'closed', 'unreachable'] as const

export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics() {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const define = definers(registry)
  const metrics = {
    registry,
    ...lockMetrics(define),
    ...settlementMetrics(define),
    ...queueMetrics(define),
    ...outboundMetrics(define),
    ...processMetrics(define),
  }
  // These gauges have no value before the first poll of the fleet (fleet-monitor.ts): a 0 would claim that all is well.
  const { queue_depth, queue_oldest_age_seconds, queues_blocked, payments_stuck, invariant_violations } = metrics
  for (const one of [queue_depth, queue_oldest_age_seconds, queues_blocked, payments_stuck, invariant_violations])
    one.remove()
  // If a counter first appears with 1, Prometheus' increase() is 0, so counters that alerts use start with 0.
  for (const reason of LOST) metrics.lock_lost.inc({ reason }, 0)
  for (const reason of FAILED) metrics.lock_failures.inc({ reason }, 0)
  metrics.lock_long_holds.inc({ type: '*' }, 0)
  metrics.charges.inc({ kind: 'charge', status: 'authorization_lost' }, 0)
  metrics.charges.inc({ kind: 'refund', status: 'failed' }, 0)
  metrics.charges.inc({ kind: 'dispute', status: 'open' }, 0)
  metrics.errors.inc({ kind: 'log' }, 0)
  metrics.errors.inc({ kind: 'response' }, 0)
  metrics.lock_contentions.inc(0)
  metrics.lock_late_renewals.inc(0)
  metrics.fencing_rejections.inc(0)
  metrics.queues_left_stuck.inc(0)
  return metrics
}

function definers(registry: Registry) {
  const registers = [registry]
  const named = (name: string) => `holdfast_${name}`
  return {
    counter: <L extends string>(name: string, help: string, labelNames: L[] = []) =>
      new Counter({ name: named(name), help, labelNames, registers }),
    histogram: (name: string, help: string, buckets: number[]) =>
      new Histogram({ name: named(name), help, buckets, registers }),
    gauge: <L extends string>(name: string, help: string, labelNames: L[] = []) =>
      new Gauge({ name: named(name), help, labelNames, registers }),
  }
}
type Definers = ReturnType<typeof definers>

function lockMetrics({ counter, histogram }: Definers) {
  return {
    lock_acquire_seconds: histogram(
      'lock_acquire_seconds',
      'Time from the request for a lease until it is held, in seconds.',
      SECONDS,
    ),
    lock_hold_seconds: histogram('lock_hold_seconds', 'Time for which a lease was held, in seconds.', SECONDS),
    lock_contentions: counter('lock_contentions_total', 'Acquisitions that found the lock held by another holder.'),
    lock_failures: counter('lock_acquisition_failures_total', 'Acquisitions that ended without a lease.', ['reason']),
    lock_lost: counter('lock_lost_total', 'Leases that ended before their holder released them.', ['reason']),
    lock_long_holds: counter('lock_long_holds_total', 'Leases held for longer than expected for their resource type.', [
      'type',
    ]),
    lock_late_renewals: counter(
      'lock_late_renewals_total',
      'Renewals that succeeded with less than a sixth of the TTL left.',
    ),
    fencing_rejections: counter(
      'fencing_token_rejections_total',
      'Writes of superseded lease holders that the database rejected.',
    ),
  }
}

function settlementMetrics({ counter, histogram }: Definers) {
  return {
    purchases: counter('purchases_total', 'Purchases that reached a status.', ['status']),
    bookings: counter('bookings_total', 'Bookings that reached a status.', ['status']),
    settlement_batch_rows: histogram(
      'settlement_batch_rows',
      'Rows settled in one transaction.',
      [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000],
    ),
    settlement_latency_seconds: histogram(
      'settlement_latency_seconds',
      'Time from the insert of a queued row until its settlement, in seconds.',
      SECONDS,
    ),
  }
}

function queueMetrics({ counter, gauge }: Definers) {
  return {
    queue_depth: gauge('queue_depth', 'Queued purchases, bookings and commands across the fleet.'),
    queue_oldest_age_seconds: gauge(
      'queue_oldest_age_seconds',
      'Age of the oldest queued row across the fleet, in seconds; 0 if there is none.',
    ),
    queues_blocked: gauge(
      'queues_blocked',
      'Queues across the fleet whose lease is held, whose first row has waited for 10 s, and in which no row was settled for 10 s.',
    ),
    queues_under_way: gauge('queues_under_way', 'Queues that this worker is settling now.'),
    queue_idle_seconds: gauge(
      'queue_idle_seconds',
      'Longest time without progress of a queue that this worker is settling, in seconds; 0 if there is none.',
    ),
    queues_left_stuck: counter(
      'queues_left_stuck_total',
      'Queues that this worker released because they made no progress within their time limit.',
    ),
    invariant_violations: gauge(
      'invariant_violations',
      'Invariants that did not hold in the last verification of the database.',
    ),
  }
}

/** Metrics of requests that leave the fleet: charges at the provider, webhooks to endpoints. */
function outboundMetrics({ counter, histogram, gauge }: Definers) {
  return {
    charges: counter(
      'charges_total',
      'Outcomes of charges, refund attempts and disputes, including those made at the provider.',
      ['kind', 'status'],
    ),
    payments_stuck: gauge(
      'payments_stuck',
      'Charges and refunds across the fleet without progress for an hour, and charges that were not checked in time.',
    ),
    webhooks: counter('webhook_attempts_total', 'Delivery attempts to webhook endpoints.', ['outcome']),
    charge_job_duration_seconds: histogram(
      'charge_job_duration_seconds',
      'Duration of one charge job with its retries and pauses, in seconds.',
      SECONDS,
    ),
  }
}

function processMetrics({ counter, gauge }: Definers) {
  return {
    errors: counter(
      'errors_total',
      'Errors of this process: log lines of level error, and responses with a status above 500.',
      ['kind'],
    ),
    circuit_breaker_transitions: counter(
      'circuit_breaker_transitions_total',
      'State changes of the circuit breakers of this process.',
      ['breaker', 'event'],
    ),
    circuit_breaker_state: gauge(
      'circuit_breaker_state',
      'Circuit breakers of this process: 1 for the state that a breaker is in, 0 for its other states.',
      ['breaker', 'state'],
    ),
  }
}

/**
 * Feeds the events of the lock library into metrics, statistics and log. Three events are logged as warnings: a lease that is
 * held long delays its queue, a lease that is renewed late was nearly lost, and a lost lease has cost a batch.
 */
export function lockEvents(
  metrics: Metrics,
  log: Log,
  stats: Pick<LockStats, 'events'>,
  expected: ReadonlyMap<string, number>,
): LockEvents {
  return {
    acquired(resource, waited_ms) {
      metrics.lock_acquire_seconds.observe(waited_ms / 1000)
      stats.events.acquired(resource, waited_ms)
    },
    released(resource, held_ms) {
      metrics.lock_hold_seconds.observe(held_ms / 1000)
      stats.events.released(resource, held_ms)
    },
    contended(resource) {
      metrics.lock_contentions.inc()
      stats.events.contended(resource)
    },
    failed(resource, reason) {
      metrics.lock_failures.inc({ reason })
      stats.events.failed(resource, reason)
    },
    lost(resource, why, lease) {
      metrics.lock_lost.inc({ reason: why })
      stats.events.lost(resource, why, lease)
      log.warn({ resource, why, ...lease }, 'a lease was lost')
    },
    denied(right) {
      log.error({ right }, 'the user of the lock server lacks a right: see "Rights on Redis" in docs/locks.md')
    },
    longHold(resource, lease) {
      // Callers choose the resource types, so only types that the configuration names get a separate label.
      metrics.lock_long_holds.inc({ type: expected.has(typeOf(resource)) ? typeOf(resource) : '*' })
      log.warn({ resource, ...lease }, 'a lease is held longer than expected')
    },
    lateRenewal(resource, slack_ms) {
      metrics.lock_late_renewals.inc()
      log.warn({ resource, slack_ms }, 'a lease was renewed just in time')
    },
  }
}
