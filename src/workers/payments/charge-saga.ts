/**
 * The saga of a charge, one job for a purchase or booking: create → confirm → (the queue worker sells) → capture, or
 * refund; later it checks for refunds and disputes made outside Holdfast.
 * Invariants: a job holds no lease that a queue waits for; each step starts from the current state of the row and of
 * the provider, so a job may be lost, run twice or stop anywhere; a charge is reported unpaid only once the provider
 * can no longer take the money.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pRetry from 'p-retry'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import type { ChargeStatus } from '../../shared/domain/charge.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { type Gateway, type Intent, type PaymentSnapshot, RefusedError } from '../../shared/payments/gateway.ts'
import {
  type ChargeState,
  loadCharge,
  markCancelling,
  markConfirming,
  type OwnRefund,
  recordCapture,
  recordOutcome,
  recordRelease,
  scheduleRecheck,
} from './charge-store.ts'
import { keyOf, record, recordRefundRefusal, recordRefundResult, scheduleNextCheck } from './provider-findings.ts'

export interface ChargeSagaDeps {
  client: Client
  gateway: Gateway
  breaker: Breaker
  metrics: Metrics
  log: Log
  nudge(resources: Iterable<string>): void
}

/** Attempts of one step before its job stops. They take about three seconds, so that buyers learn of an outage soon. */
const TRIES = 5
/**
 * Bounds of the first and of the longest pause between attempts, in milliseconds. Each pause is random between zero and
 * its bound (full jitter).
 */
const PAUSE_MS = 250
const LONGEST_PAUSE_MS = 4_000
/** Most steps of one job. A charge has five at most, unless other jobs change it meanwhile. */
const STEPS = 12

/** Final statuses of charges that took no money and need no refund. */
const TOOK_NOTHING: ReadonlySet<ChargeStatus> = new Set(['declined', 'unavailable', 'released', 'authorization_lost'])

export const isRefusal = (error: unknown) => error instanceof RefusedError

export class ChargeSaga {
  readonly #client: Client
  readonly #gateway: Gateway
  readonly #breaker: Breaker
  readonly #metrics: Metrics
  readonly #log: Log
  readonly #nudge: ChargeSagaDeps['nudge']
  readonly #stop = new AbortController()

  constructor({ client, gateway, breaker, metrics, log, nudge }: ChargeSagaDeps) {
    this.#client = client
    this.#gateway = gateway
    this.#breaker = breaker
    this.#metrics = metrics
    this.#log = log
    this.#nudge = nudge
  }

  /**
   * Takes the steps of this purchase's or booking's charge that are possible now. Rejects if the database does not
   * answer.
   */
  async process(id: string): Promise<void> {
    const since = performance.now()
    for (let n = 0; n < STEPS && !this.#stop.signal.aborted; n++) {
      const charge = await loadCharge(this.#client, id)
      if (!charge || !(await this.#step(charge))) break
    }
    this.#metrics.charge_job_duration_seconds.observe((performance.now() - since) / 1000)
  }

  /** Ends the pauses between attempts. If an outcome is still unknown, another worker will resolve it. */
  stop(): void {
    this.#stop.abort(new Error('the worker is stopping'))
  }

  #viaBreaker<T>(body: () => Promise<T>): Promise<T> {
    return this.#breaker.run(body)
  }

  /**
   * Runs the body until the provider has answered, TRIES times at most. @throws RefusedError. After any other error the
   * outcome is unknown
   */
  #withRetry<T>(body: (attempt: number) => Promise<T>): Promise<T> {
    return pRetry(body, {
      retries: TRIES - 1,
      minTimeout: 0,
      maxTimeout: 0,
      signal: this.#stop.signal,
      shouldRetry: ({ error }) => !isRefusal(error),
      onFailedAttempt: async ({ error, attemptNumber, retriesLeft }) => {
        if (isRefusal(error) || retriesLeft === 0) return
        const bound = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** (attemptNumber - 1))
        await sleep(Math.random() * bound, undefined, { signal: this.#stop.signal })
      },
    })
  }

  /** Takes one step. Returns true if there may be another one. */
  async #step(charge: ChargeState): Promise<boolean> {
    const { refund } = charge
    const owed = refund?.status === 'pending' || refund?.status === 'failed'
    if (owed && (refund.due || charge.recheck_at)) return await this.#refundCharge(charge)
    if (charge.status === 'pending') return await this.#createIntent(charge)
    if (charge.status === 'confirming' || charge.status === 'cancelling')
      return await this.#confirmIntent(charge, charge.provider_id)
    if (charge.status === 'capturing') return await this.#captureIntent(charge)
    if (charge.status === 'captured' && charge.recheck_at) return await this.#checkProvider(charge)
    return false
  }

  async #createIntent(charge: ChargeState): Promise<boolean> {
    // No intent exists and the hold has ended, so there is no reason to charge.
    if (!charge.open) return await this.#endCharge(charge, 'pending', 'unavailable', 'too_late')
    const { id, of, amount, currency, token, charge_id: key } = charge
    let intent: Intent
    try {
      intent = await this.#withRetry(() =>
        this.#viaBreaker(() => this.#gateway.create({ id, of, amount, currency, token, key })),
      )
    } catch (error) {
      if (isRefusal(error)) return await this.#endCharge(charge, 'pending', 'declined', (error as Error).message)
      if (this.#stop.signal.aborted) return false
      // The provider may have created an intent, but it takes no money without a confirm.
      return await this.#endCharge(charge, 'pending', 'unavailable', reasonOf(error))
    }
    // After this write a confirm may be in flight, so only the provider knows the outcome.
    if (!(await markConfirming(this.#client, charge, intent.id))) return true
    return await this.#confirmIntent(charge, intent.id, intent)
  }

  async #confirmIntent(charge: ChargeState, id: string, created?: Intent): Promise<boolean> {
    if (charge.status === 'cancelling') return await this.#cancelIntent(charge, id)
    let intent: Intent | undefined
    try {
      intent = await this.#withRetry(async (attempt) => {
        const known = attempt === 1 && created ? created : await this.#viaBreaker(() => this.#gateway.find(id))
        if (known.status !== 'created') return known
        // Do not confirm once the hold has ended: nothing is reserved yet.
        return charge.open ? await this.#viaBreaker(() => this.#gateway.confirm(id)) : undefined
      })
    } catch (error) {
      if (this.#stop.signal.aborted) return false
      // All attempts have failed.
      this.#log.warn({ subject: charge.id, error }, 'the outcome of a charge is unknown')
    }
    // Outside the try: if this write fails, we do not know whether it committed. We must not go on to cancel the
    // intent, because a recorded reservation must stay.
    return intent ? await this.#applyIntent(charge, intent) : await this.#cancelIntent(charge, id)
  }

  /**
   * Marks the charge as cancelling before it calls the provider, so that no other job has the units sold if it finds
   * the card authorized. Then cancels the intent. Returns true if there may be another step.
   */
  async #cancelIntent(charge: ChargeState, id: string): Promise<boolean> {
    if (charge.status !== 'cancelling' && !(await markCancelling(this.#client, charge.charge_id))) return true
    // A cancelled intent takes no money, even if a confirm of ours arrives late.
    const intent = await this.#viaBreaker(() => this.#gateway.cancel(id)).catch(() => undefined)
    const over = intent?.status === 'cancelled' || intent?.status === 'declined'
    return over ? await this.#applyIntent(charge, intent) : await scheduleRecheck(this.#client, charge.id)
  }

  async #applyIntent(charge: ChargeState, { id, status, reason }: Intent): Promise<boolean> {
    if (status === 'authorized' || status === 'captured')
      return await this.#endCharge(charge, 'confirming', 'authorized', null)
    if (status === 'declined') {
      // Cancel before recording the decline: a confirm of ours that arrives late must reserve nothing, because the buyer may
      // be paying with another card by then.
      const ended = await this.#withRetry(() => this.#viaBreaker(() => this.#gateway.cancel(id))).catch(() => undefined)
      if (ended?.status === 'cancelled') return await this.#endCharge(charge, 'confirming', 'declined', reason)
    }
    // A cancelled intent keeps the reason why its card was declined.
    if (status === 'cancelled' && reason !== null)
      return await this.#endCharge(charge, 'confirming', 'declined', reason)
    if (status === 'cancelled') return await this.#endCharge(charge, 'confirming', 'unavailable', 'cancelled')
    return await scheduleRecheck(this.#client, charge.id)
  }

  async #captureIntent(charge: ChargeState): Promise<boolean> {
    const { id, of, provider_id } = charge
    const intent = await this.#withRetry(() => this.#viaBreaker(() => this.#gateway.capture(provider_id))).catch(
      () => undefined,
    )
    if (!intent || intent.status === 'authorized' || intent.status === 'processing')
      return await scheduleRecheck(this.#client, id)
    const status = intent.status === 'captured' ? 'captured' : 'authorization_lost'
    if (
      await recordCapture(
        this.#client,
        charge,
        status,
        status === 'authorization_lost' ? (intent.reason ?? intent.status) : null,
      )
    ) {
      if (status === 'authorization_lost')
        this.#log.error({ subject: id, intent }, `authorization expired before capture: the ${of} is sold and not paid`)
      this.#metrics.charges.inc({ kind: 'charge', status })
    }
    return true
  }

  /**
   * Reads refunds and disputes at the provider, and records those made outside Holdfast. Returns true if there may be
   * another step.
   */
  async #checkProvider(charge: ChargeState): Promise<boolean> {
    try {
      const seen = await this.#withRetry(() => this.#viaBreaker(() => this.#gateway.fetchSnapshot(charge.provider_id)))
      await this.#recordFindings(charge, seen)
      return true
    } catch (error) {
      this.#log.warn({ subject: charge.id, error }, 'a charge could not be checked at the provider')
      // Refused: the provider has no such intent, so check again only at the next interval. After any other error the
      // check stays due, and the sweeper adds a new job.
      if (isRefusal(error)) await scheduleNextCheck(this.#client, charge)
      return false
    }
  }

  /**
   * Records and logs refunds and disputes made outside Holdfast. Returns our refund if the caller must request it now.
   */
  async #recordFindings(charge: ChargeState, seen: PaymentSnapshot): Promise<OwnRefund | undefined> {
    const { own, undone, news } = await record(this.#client, charge, seen)
    for (const { kind, status, ...what } of news) {
      this.#metrics.charges.inc({ kind, status })
      this.#log.warn({ subject: charge.id, [kind]: status, ...what }, 'refund or dispute changed at the provider')
    }
    if (undone) this.#nudge([charge.queue])
    return own
  }

  /**
   * Cancels the reservation or refunds the captured money, depending on the state of the intent. Returns true if there
   * may be another step.
   */
  async #refundCharge(charge: ChargeState): Promise<boolean> {
    const { status, id, provider_id } = charge
    if (status === 'pending') return await this.#endCharge(charge, 'pending', 'unavailable', 'given_up')
    if (TOOK_NOTHING.has(status)) return await this.#endReleased(id)
    let own: OwnRefund | undefined
    try {
      // Each attempt reads first, so that it finds a refund whose response was lost and does not request it again.
      const ended = await this.#withRetry(async () => {
        const seen = await this.#viaBreaker(() => this.#gateway.fetchSnapshot(provider_id))
        if (seen.intent.status === 'processing') throw new Error('the intent is still processing')
        const intent =
          seen.intent.status === 'captured'
            ? seen.intent
            : await this.#viaBreaker(() => this.#gateway.cancel(provider_id))
        if (intent.status === 'cancelled') return 'released'
        // An intent in any other state may still take the money.
        if (intent.status !== 'captured') throw new Error(`the provider has not cancelled it: ${intent.status}`)
        own = await this.#recordFindings(charge, seen)
        if (!own) return 'recorded'
        const { amount } = own
        const made = await this.#viaBreaker(() => this.#gateway.refund(provider_id, amount, keyOf(own as OwnRefund)))
        return (await recordRefundResult(this.#client, own, made)) ? made.status : 'recorded'
      })
      if (ended === 'released') return await this.#endReleased(id)
      if (ended === 'refunded') this.#metrics.charges.inc({ kind: 'refund', status: ended })
      return true
    } catch (error) {
      const tried = own ?? charge.refund
      if (error instanceof RefusedError && tried && (await recordRefundRefusal(this.#client, tried, error.message))) {
        this.#metrics.charges.inc({ kind: 'refund', status: 'failed' })
        this.#log.error(
          { subject: id, refund: tried.id, attempt: tried.attempts, reason: error.message },
          'a refund was refused',
        )
        return true
      }
      this.#log.warn({ subject: id, error }, 'a refund failed; will retry')
      return await scheduleRecheck(this.#client, id)
    }
  }

  async #endReleased(id: string): Promise<boolean> {
    if (await recordRelease(this.#client, id)) this.#metrics.charges.inc({ kind: 'refund', status: 'released' })
    return true
  }

  /**
   * Writes the outcome of the charge together with the command for the queue. Returns true: there may be another step.
   */
  async #endCharge(
    charge: ChargeState,
    from: 'pending' | 'confirming',
    to: 'authorized' | 'declined' | 'unavailable',
    reason: string | null,
  ): Promise<boolean> {
    if (await recordOutcome(this.#client, charge, from, to, reason)) {
      this.#metrics.charges.inc({ kind: 'charge', status: to })
      this.#log.info({ subject: charge.id, resource: charge.queue, charge: to, reason }, 'charge ended')
      this.#nudge([charge.queue])
    }
    return true
  }
}

const reasonOf = (error: unknown) =>
  error instanceof UnavailableError && !error.attempted ? 'breaker_open' : 'unreachable'
