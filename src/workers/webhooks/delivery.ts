/**
 * Delivers the events of one stream. Invariants: a sender delivers events one at a time, in the order of their numbers,
 * and none before the endpoint accepted the previous one; it delivers each at least once, since the stream advances
 * after the response. A lease keeps two senders of one stream apart. If a sender loses its lease, its token does: an
 * event may be delivered twice, but never one instead of another.
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

/** Milliseconds after which a stream frees its job slot for others; the next poll finds its remaining events. */
const TURN_MS = 5_000
/** Longest pause between two attempts, in milliseconds. */
const LONGEST_PAUSE_MS = 6 * 3_600_000
/**
 * Most concurrent requests of this process to one endpoint, so that an endpoint that hangs occupies no more job slots
 * than these.
 */
const CONCURRENT_REQUESTS = 8
/** Outbox rows that a sender reads with one statement. Each row has up to a batch of events. */
const ROWS = 4
/** Milliseconds until a stream tries again if its endpoint already has CONCURRENT_REQUESTS. */
const FULL_MS = 250

/** Milliseconds between two events in addition to the request, if each statement takes as long as its limit allows. */
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

/**
 * Returns half of the bound plus a random part of the other half, so that streams that failed together are not retried
 * together.
 */
const withJitter = (bound_ms: number) => Math.round(bound_ms * (0.5 + Math.random() / 2))

class FailedAttempt extends Error {
  readonly attempt: Attempt
  constructor(attempt: Attempt) {
    super(attempt.error ?? `responded with ${attempt.status}`)
    this.attempt = attempt
  }
}

export class Deliveries {
  readonly #client: Client
  readonly #locks: Locks
  readonly #poster: Poster
  readonly #config: WebhookDeps['config']
  readonly #metrics: WebhookDeps['metrics']
  readonly #log: Log
  #stopping = false
  /** One controller for each stream that is being delivered. It aborts the stream's request. */
  readonly #inFlight = new Set<AbortController>()
  /**
   * Breakers by endpoint. /readyz does not include them, because a customer's server that is down does not make this
   * process unready.
   */
  readonly #breakers = new Map<string, CircuitBreaker<[() => Promise<Attempt>], Attempt>>()

  constructor({ client, locks, poster, config, metrics, log }: WebhookDeps) {
    this.#client = client
    this.#locks = locks
    this.#poster = poster
    this.#config = config
    this.#metrics = metrics
    this.#log = log
  }

  /** Delivers the pending events of the stream, for TURN_MS at most. The next poll finds the rest. */
  async process(stream: DeliveryStream): Promise<void> {
    const { endpoint, resource } = stream
    const name = createHash('sha256').update(`${endpoint} ${resource}`).digest('hex').slice(0, 32)
    const lease = await this.#locks.tryAcquire(`webhook:${name}`, {
      job: `${endpoint} ${resource}`,
      progress_ms: this.#config.timeout_ms + STEP_MS,
    })
    if (!lease) return
    const until = performance.now() + TURN_MS
    const cut = new AbortController()
    this.#inFlight.add(cut)
    lease.signal.addEventListener('abort', () => cut.abort(), { once: true })
    try {
      while (!this.#stopping && performance.now() < until) {
        const claimed = await claimStream(this.#client, stream, lease.token)
        if (!claimed || !(await this.#deliverPage(claimed, lease, cut.signal, until))) return
      }
    } finally {
      this.#inFlight.delete(cut)
      await lease.release()
    }
  }

  stop(): void {
    this.#stopping = true
    for (const cut of this.#inFlight) cut.abort()
    for (const one of this.#breakers.values()) one.shutdown()
  }

  #breakerFor(endpoint: string) {
    const known = this.#breakers.get(endpoint)
    if (known) return known
    const made = new CircuitBreaker((body: () => Promise<Attempt>) => body(), {
      timeout: false,
      // If more than half of at least five requests fail, no stream sends the endpoint a request for this time.
      resetTimeout: this.#config.retry_ms,
      errorThresholdPercentage: 50,
      volumeThreshold: 5,
      capacity: CONCURRENT_REQUESTS,
    })
    this.#breakers.set(endpoint, made)
    return made
  }

  /**
   * Makes one attempt through the endpoint's breaker. If the breaker rejects it, returns the milliseconds until the
   * next attempt.
   */
  async #attempt(stream: ClaimedStream, event: Event, signal: AbortSignal): Promise<Attempt | number> {
    const secrets = stream.previous_secret === null ? [stream.secret] : [stream.secret, stream.previous_secret]
    try {
      return await this.#breakerFor(stream.endpoint).fire(async () => {
        const made = await this.#poster.post(stream.url, event, secrets, signal)
        if (!isAccepted(made)) throw new FailedAttempt(made)
        return made
      })
    } catch (error) {
      if (error instanceof FailedAttempt) return error.attempt
      return this.#breakerFor(stream.endpoint).opened ? this.#config.retry_ms : FULL_MS
    }
  }

  /**
   * Delivers one event and records the outcome. Returns true if the stream has advanced, so that the next event may be
   * delivered.
   */
  async #deliver(stream: ClaimedStream, event: Event, lease: Lease, signal: AbortSignal): Promise<boolean> {
    const { token } = lease
    lease.assertValid()
    lease.progress()
    const made = await this.#attempt(stream, event, signal)
    if (signal.aborted) return false
    if (typeof made === 'number') {
      await defer(this.#client, stream, token, withJitter(made))
      return false
    }
    this.#metrics.webhooks.inc({ outcome: isAccepted(made) ? 'taken' : 'failed' })
    if (isAccepted(made)) {
      const ours = await recordDelivered(this.#client, stream, token, event, made)
      Object.assign(stream, { delivered_sequence: event.sequence, outbox_id: parseEventId(event.id).id, attempts: 0 })
      return ours
    }
    const pause_ms = withJitter(Math.min(LONGEST_PAUSE_MS, this.#config.retry_ms * 2 ** Math.min(stream.attempts, 30)))
    const for_ms = await recordFailure(this.#client, stream, token, event, made, pause_ms)
    const { endpoint, resource } = stream
    this.#log.info({ endpoint, resource, event: event.id, ...made }, 'a webhook delivery failed')
    if (made.status === 410) await disable(this.#client, endpoint, 'the endpoint responded with 410 Gone')
    else if (for_ms !== undefined && for_ms > this.#config.give_up_h * HOUR_MS) {
      await disable(
        this.#client,
        endpoint,
        `the endpoint has not accepted event ${event.id} of ${resource} for ${this.#config.give_up_h} hours`,
      )
      this.#log.warn({ endpoint, resource, event: event.id }, 'a webhook endpoint was disabled')
    }
    return false
  }

  /** Delivers one page of the stream. Returns true if there may be more events. */
  async #deliverPage(stream: ClaimedStream, lease: Lease, signal: AbortSignal, until: number): Promise<boolean> {
    const { token } = lease
    // Read without a horizon: within one resource, visible events are final, because their numbers become visible in
    // order.
    const after = { id: stream.outbox_id, n: 0 }
    const { events } = await readEvents(this.#client, {
      after,
      horizon: Number.MAX_SAFE_INTEGER,
      resource: stream.resource,
      limit: ROWS,
    })
    const news = events.filter((event) => event.sequence > stream.delivered_sequence)
    let skipped: Event | undefined
    for (const event of news) {
      if (stream.events !== null && !stream.events.includes(event.type)) {
        skipped = event
        continue
      }
      if (skipped !== undefined) {
        if (!(await skipTo(this.#client, stream, token, skipped.sequence, parseEventId(skipped.id).id))) return false
        stream.delivered_sequence = skipped.sequence
        skipped = undefined
      }
      if (!(await this.#deliver(stream, event, lease, signal)) || performance.now() > until) return false
    }
    if (skipped !== undefined) {
      if (!(await skipTo(this.#client, stream, token, skipped.sequence, parseEventId(skipped.id).id))) return false
    }
    return news.length > 0
  }
}
