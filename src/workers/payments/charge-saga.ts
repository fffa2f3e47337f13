/**
 * The saga of a charge, one job for a purchase or booking: create → confirm → (the queue worker sells) → capture, or
 * refund; and later checks of what was done at the provider.
 * Invariants: a job holds no lease that a queue waits for; each step starts from the current state of the row and of the
 * provider, so a job may be lost, run twice or stop anywhere; a charge is unpaid only when the provider can no longer take it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pRetry from 'p-retry'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import type { ChargeStatus } from '../../shared/db/schema.ts'
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

/** Attempts of one step before its job stops: about three seconds, so that buyers learn of an outage soon. */
const TRIES = 5
/** Milliseconds: bounds of the first pause and of the longest; each pause is random between zero and its bound (full jitter). */
const PAUSE_MS = 250
const LONGEST_PAUSE_MS = 4_000
/** Steps of one job: a charge has five at most, unless other jobs change it meanwhile. */
const STEPS = 12

/** Final statuses of a charge that needs no refund. */
const TOOK_NOTHING: ReadonlySet<ChargeStatus> = new Set(['declined', 'unavailable', 'released', 'authorization_lost'])

export const isPaymentAnswer = (error: unknown) => error instanceof RefusedError

export function createChargeSaga({ client, gateway, breaker, metrics, log, nudge }: ChargeSagaDeps) {
  const stop = new AbortController()

  /** Retries until the provider has answered. @throws RefusedError; any other error: the outcome is unknown */
  function withRetry<T>(body: (attempt: number) => Promise<T>): Promise<T> {
    return pRetry(body, {
      retries: TRIES - 1,
      minTimeout: 0,
      maxTimeout: 0,
      signal: stop.signal,
      shouldRetry: ({ error }) => !isPaymentAnswer(error),
      async onFailedAttempt({ error, attemptNumber, retriesLeft }) {
        if (isPaymentAnswer(error) || retriesLeft === 0) return
        const bound = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** (attemptNumber - 1))
        await sleep(Math.random() * bound, undefined, { signal: stop.signal })
      },
    })
  }
  const viaBreaker = <T>(body: () => Promise<T>) => breaker.run(body)

  /** One step; true when there may be another one. */
  async function step(charge: ChargeState): Promise<boolean> {
    const { refund } = charge
    const owed = refund?.status === 'pending' || refund?.status === 'failed'
    if (owed && (refund.due || charge.recheck_at)) return await refundCharge(charge)
    if (charge.status === 'pending') return await createIntent(charge)
    if (charge.status === 'confirming' || charge.status === 'cancelling')
      return await confirmIntent(charge, charge.provider_id)
    if (charge.status === 'capturing') return await captureIntent(charge)
    if (charge.status === 'captured' && charge.recheck_at) return await checkProvider(charge)
    return false
  }

  async function createIntent(charge: ChargeState): Promise<boolean> {
    // No intent exists, and the hold has ended: there is no reason to charge.
    if (!charge.open) return await endCharge(charge, 'pending', 'unavailable', 'too_late')
    const { id, of, amount, currency, token, charge_id: key } = charge
    let intent: Intent
    try {
      intent = await withRetry(() => viaBreaker(() => gateway.create({ id, of, amount, currency, token, key })))
    } catch (error) {
      if (isPaymentAnswer(error)) return await endCharge(charge, 'pending', 'declined', (error as Error).message)
      if (stop.signal.aborted) return false
      // An intent that was created and not confirmed never takes money.
      return await endCharge(charge, 'pending', 'unavailable', reasonOf(error))
    }
    // From this write on only the provider knows the outcome: a confirm may be in flight.
    if (!(await markConfirming(client, charge, intent.id))) return true
    return await confirmIntent(charge, intent.id, intent)
  }

  async function confirmIntent(charge: ChargeState, id: string, created?: Intent): Promise<boolean> {
    if (charge.status === 'cancelling') return await cancelIntent(charge, id)
    let intent: Intent | undefined
    try {
      intent = await withRetry(async (attempt) => {
        const known = attempt === 1 && created ? created : await viaBreaker(() => gateway.find(id))
        if (known.status !== 'created') return known
        // The hold has ended and nothing is reserved: do not confirm.
        return charge.open ? await viaBreaker(() => gateway.confirm(id)) : undefined
      })
    } catch (error) {
      if (stop.signal.aborted) return false
      // All attempts have failed.
      log.warn({ subject: charge.id, error }, 'the outcome of a charge is unknown')
    }
    // Not within the try: a write whose response was lost may have committed, and a reservation that it recorded must stay.
    return intent ? await applyIntent(charge, intent) : await cancelIntent(charge, id)
  }

  /** Recorded before the request: from then on another job that finds a reservation does not have it sold. */
  async function cancelIntent(charge: ChargeState, id: string): Promise<boolean> {
    if (charge.status !== 'cancelling' && !(await markCancelling(client, charge.charge_id))) return true
    // A cancelled intent takes nothing, also when a confirm of ours arrives late.
    const intent = await viaBreaker(() => gateway.cancel(id)).catch(() => undefined)
    const over = intent?.status === 'cancelled' || intent?.status === 'declined'
    return over ? await applyIntent(charge, intent) : await scheduleRecheck(client, charge.id)
  }

  async function applyIntent(charge: ChargeState, { id, status, reason }: Intent): Promise<boolean> {
    if (status === 'authorized' || status === 'captured')
      return await endCharge(charge, 'confirming', 'authorized', null)
    if (status === 'declined') {
      // Cancel before recording the decline: a confirm of ours that arrives late must reserve nothing, because the buyer may
      // be paying with another card by then.
      const ended = await withRetry(() => viaBreaker(() => gateway.cancel(id))).catch(() => undefined)
      if (ended?.status === 'cancelled') return await endCharge(charge, 'confirming', 'declined', reason)
    }
    // A cancelled intent keeps the reason why its card was declined.
    if (status === 'cancelled' && reason !== null) return await endCharge(charge, 'confirming', 'declined', reason)
    if (status === 'cancelled') return await endCharge(charge, 'confirming', 'unavailable', 'cancelled')
    return await scheduleRecheck(client, charge.id)
  }

  async function captureIntent(charge: ChargeState): Promise<boolean> {
    const { id, of, provider_id } = charge
    const intent = await withRetry(() => viaBreaker(() => gateway.capture(provider_id))).catch(() => undefined)
    if (!intent || intent.status === 'authorized' || intent.status === 'processing')
      return await scheduleRecheck(client, id)
    const status = intent.status === 'captured' ? 'captured' : 'authorization_lost'
    if (
      await recordCapture(
        client,
        charge,
        status,
        status === 'authorization_lost' ? (intent.reason ?? intent.status) : null,
      )
    ) {
      if (status === 'authorization_lost')
        log.error({ subject: id, intent }, `authorization expired before capture: the ${of} is sold and not paid`)
      metrics.charges.inc({ kind: 'charge', status })
    }
    return true
  }

  /** Reads what was done at the provider: refunds, disputes. */
  async function checkProvider(charge: ChargeState): Promise<boolean> {
    try {
      const seen = await withRetry(() => viaBreaker(() => gateway.fetchSnapshot(charge.provider_id)))
      await recordFindings(charge, seen)
      return true
    } catch (error) {
      log.warn({ subject: charge.id, error }, 'a charge could not be checked at the provider')
      // The provider does not know it. After any other error the sweeper adds a job: the check is still due.
      if (isPaymentAnswer(error)) await scheduleNextCheck(client, charge)
      return false
    }
  }

  /** Records and logs what was done at the provider. Returns our refund, when it is to be requested now. */
  async function recordFindings(charge: ChargeState, seen: PaymentSnapshot): Promise<OwnRefund | undefined> {
    const { own, undone, news } = await record(client, charge, seen)
    for (const { kind, status, ...what } of news) {
      metrics.charges.inc({ kind, status })
      log.warn({ subject: charge.id, [kind]: status, ...what }, 'changed at the provider')
    }
    if (undone) nudge([charge.queue])
    return own
  }

  /** Cancels the reservation, or refunds what was captured, depending on the state of the intent. */
  async function refundCharge(charge: ChargeState): Promise<boolean> {
    const { status, id, provider_id } = charge
    if (status === 'pending') return await endCharge(charge, 'pending', 'unavailable', 'given_up')
    if (TOOK_NOTHING.has(status)) return await endReleased(id)
    let own: OwnRefund | undefined
    try {
      // Each attempt reads first: a refund whose response was lost is found, and is not requested again.
      const ended = await withRetry(async () => {
        const seen = await viaBreaker(() => gateway.fetchSnapshot(provider_id))
        if (seen.intent.status === 'processing') throw new Error('the intent is still processing')
        const intent =
          seen.intent.status === 'captured' ? seen.intent : await viaBreaker(() => gateway.cancel(provider_id))
        if (intent.status === 'cancelled') return 'released'
        // Any other intent may still take the money.
        if (intent.status !== 'captured') throw new Error(`the provider has not cancelled it: ${intent.status}`)
        own = await recordFindings(charge, seen)
        if (!own) return 'recorded'
        const { amount } = own
        const made = await viaBreaker(() => gateway.refund(provider_id, amount, keyOf(own as OwnRefund)))
        return (await recordRefundResult(client, own, made)) ? made.status : 'recorded'
      })
      if (ended === 'released') return await endReleased(id)
      if (ended === 'refunded') metrics.charges.inc({ kind: 'refund', status: ended })
      return true
    } catch (error) {
      const tried = own ?? charge.refund
      if (error instanceof RefusedError && tried && (await recordRefundRefusal(client, tried, error.message))) {
        metrics.charges.inc({ kind: 'refund', status: 'failed' })
        log.error(
          { subject: id, refund: tried.id, attempt: tried.attempts, reason: error.message },
          'a refund was refused',
        )
        return true
      }
      log.warn({ subject: id, error }, 'a refund failed; will retry')
      return await scheduleRecheck(client, id)
    }
  }

  async function endReleased(id: string): Promise<boolean> {
    if (await recordRelease(client, id)) metrics.charges.inc({ kind: 'refund', status: 'released' })
    return true
  }

  /** Writes the outcome together with the command for the queue. */
  async function endCharge(
    charge: ChargeState,
    from: 'pending' | 'confirming',
    to: 'authorized' | 'declined' | 'unavailable',
    reason: string | null,
  ): Promise<boolean> {
    if (await recordOutcome(client, charge, from, to, reason)) {
      metrics.charges.inc({ kind: 'charge', status: to })
      log.info({ subject: charge.id, resource: charge.queue, charge: to, reason }, 'charge')
      nudge([charge.queue])
    }
    return true
  }

  return {
    /** Takes the possible steps of the charge of this purchase or booking. Rejects when the database does not answer. */
    async process(id: string): Promise<void> {
      const since = performance.now()
      for (let n = 0; n < STEPS && !stop.signal.aborted; n++) {
        const charge = await loadCharge(client, id)
        if (!charge || !(await step(charge))) break
      }
      metrics.charge_job_duration_seconds.observe((performance.now() - since) / 1000)
    },
    /** Ends the pauses between attempts; another worker finds out what is unknown then. */
    stop() {
      stop.abort(new Error('the worker is stopping'))
    },
  }
}

const reasonOf = (error: unknown) =>
  error instanceof UnavailableError && !error.attempted ? 'breaker_open' : 'unreachable'
