/**
 * Tells one endpoint of one resource's events. Invariants: in order of their numbers, one after the other, and none before
 * the one in front of it was taken; at least once, for the line moves after the answer. Two senders of one line are kept
 * apart by a lease, and when that is lost by its token: then an event may come twice, never one instead of another.
 */
import { createHash } from 'node:crypto'
import CircuitBreaker from 'opossum'
import type { Config } from '../../shared/config.ts'
import type { Client } from '../../shared/db/client.ts'
import type { Lease, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { type Event, parseEventId, readEvents } from '../../shared/outbox.ts'
import { type Attempt, isAccepted, type Poster } from './http-sender.ts'
import {
  type ClaimedStream,
  claimStream,
  type DeliveryStream,
  defer,
  disable,
  recordDelivered,
  recordFailure,
  skipTo,
} from './streams.ts'

/** Milliseconds after which a line makes room for others; the next look finds what it has left. */
const TURN_MS = 5_000
/** Milliseconds between attempts at most, however many there were. */
const LONGEST_PAUSE_MS = 6 * 3_600_000
/** Requests of this process at once to one endpoint: one that hangs holds no more places than these. */
const CONCURRENT_REQUESTS = 8
/** Outbox rows that a sender reads at once: up to as many batches. */
const ROWS = 4
/** Milliseconds until a line looks for a free place again. */
const FULL_MS = 250

/** Milliseconds that a sender may need between two events beside the request: its statements at their limits. */
const STEP_MS = 30_000
const HOUR_MS = 3_600_000

export interface WebhookDeps {
  client: Client
  locks: Locks
  poster: Poster
  config: Pick<Config['webhooks'], 'timeout_ms' | 'retry_ms' | 'give_up_h'>
  metrics: Pick<Metrics, 'webhooks'>
  log: Log
}

/** Half of it certain and half of it drawn, so that lines which failed together do not come back together. */
const withJitter = (bound_ms: number) => Math.round(bound_ms * (0.5 + Math.random() / 2))

class FailedAttempt extends Error {
  readonly attempt: Attempt
  constructor(attempt: Attempt) {
    super(attempt.error ?? `answered ${attempt.status}`)
    this.attempt = attempt
  }
}

export function createDeliveries({ client, locks, poster, config, metrics, log }: WebhookDeps) {
  let stopping = false
  /** Of the lines under way: what cuts off their requests. */
  const inFlight = new Set<AbortController>()
  /** By endpoint. Not among the breakers of /readyz: that a customer's server is down is no fault of ours. */
  const breakers = new Map<string, CircuitBreaker<[() => Promise<Attempt>], Attempt>>()

  function breakerFor(endpoint: string) {
    const known = breakers.get(endpoint)
    if (known) return known
    const made = new CircuitBreaker((body: () => Promise<Attempt>) => body(), {
      timeout: false,
      // An endpoint that fails everything is left alone for so long, by all of its lines.
      resetTimeout: config.retry_ms,
      errorThresholdPercentage: 50,
      volumeThreshold: 5,
      capacity: CONCURRENT_REQUESTS,
    })
    breakers.set(endpoint, made)
    return made
  }

  /** One attempt behind the endpoint's gate; after how many ms to come again, when the gate is shut. */
  async function attempt(line: ClaimedStream, event: Event, signal: AbortSignal): Promise<Attempt | number> {
    const secrets = line.previous_secret === null ? [line.secret] : [line.secret, line.previous_secret]
    try {
      return await breakerFor(line.endpoint).fire(async () => {
        const made = await poster.post(line.url, event, secrets, signal)
        if (!isAccepted(made)) throw new FailedAttempt(made)
        return made
      })
    } catch (error) {
      if (error instanceof FailedAttempt) return error.attempt
      return breakerFor(line.endpoint).opened ? config.retry_ms : FULL_MS
    }
  }

  /** True: the line has moved, and the next event may be told. */
  async function deliver(line: ClaimedStream, event: Event, lease: Lease, signal: AbortSignal): Promise<boolean> {
    const { token } = lease
    lease.assertValid()
    lease.progress()
    const made = await attempt(line, event, signal)
    if (signal.aborted) return false
    if (typeof made === 'number') {
      await defer(client, line, token, withJitter(made))
      return false
    }
    metrics.webhooks.inc({ outcome: isAccepted(made) ? 'taken' : 'failed' })
    if (isAccepted(made)) {
      const ours = await recordDelivered(client, line, token, event, made)
      Object.assign(line, { delivered_sequence: event.sequence, outbox_id: parseEventId(event.id).id, attempts: 0 })
      return ours
    }
    const pause_ms = withJitter(Math.min(LONGEST_PAUSE_MS, config.retry_ms * 2 ** Math.min(line.attempts, 30)))
    const for_ms = await recordFailure(client, line, token, event, made, pause_ms)
    const { endpoint, resource } = line
    log.info({ endpoint, resource, event: event.id, ...made }, 'a webhook was not taken')
    if (made.status === 410) await disable(client, endpoint, 'it answered 410 Gone')
    else if (for_ms !== undefined && for_ms > config.give_up_h * HOUR_MS) {
      await disable(client, endpoint, `it has not taken event ${event.id} of ${resource} for ${config.give_up_h} hours`)
      log.warn({ endpoint, resource, event: event.id }, 'a webhook endpoint was disabled')
    }
    return false
  }

  /** One page of the line; true when there may be more to tell. */
  async function deliverPage(line: ClaimedStream, lease: Lease, signal: AbortSignal, until: number): Promise<boolean> {
    const { token } = lease
    // Of one resource, what is visible is final: its numbers become visible in their order.
    const after = { id: line.outbox_id, n: 0 }
    const { events } = await readEvents(client, {
      after,
      horizon: Number.MAX_SAFE_INTEGER,
      resource: line.resource,
      limit: ROWS,
    })
    const news = events.filter((event) => event.sequence > line.delivered_sequence)
    let skipped: Event | undefined
    for (const event of news) {
      if (line.events !== null && !line.events.includes(event.type)) {
        skipped = event
        continue
      }
      if (skipped !== undefined) {
        if (!(await skipTo(client, line, token, skipped.sequence, parseEventId(skipped.id).id))) return false
        line.delivered_sequence = skipped.sequence
        skipped = undefined
      }
      if (!(await deliver(line, event, lease, signal)) || performance.now() > until) return false
    }
    if (skipped !== undefined) {
      if (!(await skipTo(client, line, token, skipped.sequence, parseEventId(skipped.id).id))) return false
    }
    return news.length > 0
  }

  return {
    /** Tells what there is to tell, for a while. What it leaves is found by the next look at the lines. */
    async process(line: DeliveryStream): Promise<void> {
      const { endpoint, resource } = line
      const name = createHash('sha256').update(`${endpoint} ${resource}`).digest('hex').slice(0, 32)
      const lease = await locks.tryAcquire(`webhook:${name}`, {
        job: `${endpoint} ${resource}`,
        progress_ms: config.timeout_ms + STEP_MS,
      })
      if (!lease) return
      const until = performance.now() + TURN_MS
      const cut = new AbortController()
      inFlight.add(cut)
      lease.signal.addEventListener('abort', () => cut.abort(), { once: true })
      try {
        while (!stopping && performance.now() < until) {
          const claimed = await claimStream(client, line, lease.token)
          if (!claimed || !(await deliverPage(claimed, lease, cut.signal, until))) return
        }
      } finally {
        inFlight.delete(cut)
        await lease.release()
      }
    },
    stop() {
      stopping = true
      for (const cut of inFlight) cut.abort()
      for (const one of breakers.values()) one.shutdown()
    },
  }
}
