/** Prometheus metrics of one process. Invariant: every name that the alerts use is here, so it exists from the start. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { LockStats } from './lock-stats.ts'
import type { LockEvents, LostReason } from './locks/lease.ts'
import type { Log } from './log.ts'
import { typeOf } from './resource.ts'

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

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
  const registers = [registry]
  const counter = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Counter({ name, help, labelNames, registers })
  const histogram = (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers })
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers })
  const metrics = {
    registry,
    lock_acquire_seconds: histogram('lock_acquire_seconds', 'Time from asking for a lease to holding it.', SECONDS),
    lock_hold_seconds: histogram('lock_hold_seconds', 'Time a lease was held.', SECONDS),
    lock_contentions: counter('lock_contentions_total', 'Acquisitions that found the lock taken.'),
    lock_failures: counter('lock_acquisition_failures_total', 'Acquisitions that ended without a lease.', ['reason']),
    lock_lost: counter('lock_lost_total', 'Leases lost before they were released.', ['reason']),
    lock_held_long: counter('lock_held_long_total', 'Leases held longer than expected.', ['type']),
    lock_slack_thin: counter(
      'lock_renewal_slack_thin_total',
      'Renewals that came through when less than a sixth of the TTL was left.',
    ),
    fencing_rejections: counter(
      'fencing_token_rejections_total',
      'Writes of superseded lease holders that the database refused.',
    ),
    purchases: counter('purchases_total', 'Purchases that reached a status.', ['status']),
    bookings: counter('bookings_total', 'Bookings that reached a status.', ['status']),
    batch_size: histogram('batch_size', 'Rows settled in one transaction.', [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000]),
    queue_waiting_seconds: histogram(
      'queue_waiting_seconds',
      'Time from a row in the line to its settlement.',
      SECONDS,
    ),
    queue_length: gauge('queue_length', 'Purchases, bookings and commands in a line, of the whole fleet.'),
    queue_oldest_seconds: gauge(
      'queue_oldest_seconds',
      'Since the oldest head of a line has come, of the whole fleet; 0 when nobody waits.',
    ),
    queues_blocked: gauge(
      'queues_blocked',
      'Queues whose lease is held, whose first row has waited for 10 s, and in which nothing was settled for as long; of the whole fleet.',
    ),
    queues_under_way: gauge('queues_under_way', 'Queues that this worker works on now.'),
    queue_idle_seconds: gauge(
      'queue_idle_seconds',
      'Longest time for which a queue that this worker works on has not moved; 0 when there is none.',
    ),
    queues_left_stuck: counter(
      'queues_left_stuck_total',
      'Queues that this worker let go because they did not move within their time.',
    ),
    verify_broken: gauge(
      'verify_broken_invariants',
      'Invariants of the last verdict that do not hold; of the whole fleet.',
    ),
    charges: counter(
      'charges_total',
      'Outcomes of charges, of attempts to give money back, and of disputes, those at the provider included.',
      ['purpose', 'status'],
    ),
    payments_stuck: gauge(
      'payments_stuck',
      'Charges and refunds that have not moved for an hour, and charges that were not looked at; of the whole fleet.',
    ),
    webhooks: counter('webhook_attempts_total', 'Attempts to tell a webhook endpoint.', ['outcome']),
    payment_seconds: histogram(
      'payment_seconds',
      'Time of one payment job, its tries and their pauses included.',
      SECONDS,
    ),
    breaker_transitions: counter('breaker_transitions_total', 'How often a circuit breaker opened and closed.', [
      'breaker',
      'event',
    ]),
    breaker_state: new Gauge({
      name: 'breaker_state',
      help: 'Circuit breakers: 0 closed, 1 half open, 2 open.',
      labelNames: ['breaker'],
      registers,
    }),
  }
  // Seen by nobody: a worker sets them once it has looked (watch.ts).
  const { queue_length, queue_oldest_seconds, queues_blocked, payments_stuck, verify_broken } = metrics
  for (const one of [queue_length, queue_oldest_seconds, queues_blocked, payments_stuck, verify_broken]) one.remove()
  // A counter that begins with its first event has no increase: what alerts look at begins with 0.
  for (const reason of LOST) metrics.lock_lost.inc({ reason }, 0)
  for (const reason of FAILED) metrics.lock_failures.inc({ reason }, 0)
  metrics.lock_held_long.inc({ type: '*' }, 0)
  metrics.charges.inc({ purpose: 'charge', status: 'lost' }, 0)
  metrics.charges.inc({ purpose: 'refund', status: 'failed' }, 0)
  metrics.charges.inc({ purpose: 'dispute', status: 'open' }, 0)
  metrics.lock_contentions.inc(0)
  metrics.lock_slack_thin.inc(0)
  metrics.fencing_rejections.inc(0)
  metrics.queues_left_stuck.inc(0)
  return metrics
}

/**
 * Feeds the lease library's events into metrics, statistics and log. What is likely to hurt is a warning: a lease that is
 * held long keeps its line waiting, one that is renewed late is about to be lost, one that was lost has cost a batch.
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
    heldLong(resource, lease) {
      // Types come from outside; only those that the configuration names get a label of their own.
      metrics.lock_held_long.inc({ type: expected.has(typeOf(resource)) ? typeOf(resource) : '*' })
      log.warn({ resource, ...lease }, 'a lease is held longer than expected')
    },
    thinSlack(resource, slack_ms) {
      metrics.lock_slack_thin.inc()
      log.warn({ resource, slack_ms }, 'a lease was renewed just in time')
    },
  }
}
