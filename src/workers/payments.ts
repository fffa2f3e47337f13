/**
 * The saga of a charge, one job a purchase or booking: create → confirm → (the line sells) → capture, or give back.
 * Invariants: no lease is held that a line waits for; each step begins from what the row and the provider say now, so a
 * job may be lost, run twice or stop anywhere; nothing is called unpaid unless the provider can no longer take it.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pRetry from 'p-retry'
import { type Breaker, UnavailableError } from '../shared/breaker.ts'
import type { Client } from '../shared/db.ts'
import type { Log } from '../shared/log.ts'
import type { Metrics } from '../shared/metrics.ts'
import { type Gateway, type Intent, RefusedError } from '../shared/payments/gateway.ts'
import { captured, conclude, givenBack, givingUp, later, type Money, readMoney, sent } from './money.ts'

export interface PaymentDeps {
  client: Client
  gateway: Gateway
  breaker: Breaker
  metrics: Metrics
  log: Log
  nudge(resources: Iterable<string>): void
}

/** Tries of one step before its job stops: about three seconds, so that buyers hear of an outage soon. */
const TRIES = 5
/** Milliseconds of the first pause and of the longest; each is drawn between zero and its bound (full jitter). */
const PAUSE_MS = 250
const LONGEST_PAUSE_MS = 4_000
/** Steps of one job: a charge has five at most, unless others move it too. */
const STEPS = 12

export const isPaymentAnswer = (error: unknown) => error instanceof RefusedError

export function createPayments({ client, gateway, breaker, metrics, log, nudge }: PaymentDeps) {
  const stop = new AbortController()

  /** Tries until the provider has answered. @throws RefusedError, or that nothing is known */
  function persist<T>(body: (attempt: number) => Promise<T>): Promise<T> {
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
  const ask = <T>(body: () => Promise<T>) => breaker.run(body)

  /** One step; true when there may be another one. */
  async function step(money: Money): Promise<boolean> {
    if (money.refund === 'pending') return await giveBack(money)
    if (money.status === 'pending') return await begin(money)
    if (money.status === 'sent') return await confirm(money, money.provider_id)
    if (money.status === 'capturing') return await capture(money)
    return false
  }

  async function begin(money: Money): Promise<boolean> {
    // Nothing was ever sent: what is to be paid for is gone or about to be, and so is the reason to charge.
    if (!money.open) return await end(money, 'pending', 'unavailable', 'too_late')
    const { id, of, amount, currency, token } = money
    let intent: Intent
    try {
      intent = await persist(() => ask(() => gateway.create({ id, of, amount, currency, token })))
    } catch (error) {
      if (isPaymentAnswer(error)) return await end(money, 'pending', 'declined', (error as Error).message)
      if (stop.signal.aborted) return false
      // An intent that was created and not confirmed never takes anything.
      return await end(money, 'pending', 'unavailable', wordOf(error))
    }
    // From this write on the provider has to be asked: a confirm may be on its way.
    if (!(await sent(client, money, intent.id))) return true
    return await confirm(money, intent.id, intent)
  }

  async function confirm(money: Money, id: string, created?: Intent): Promise<boolean> {
    if (money.giving_up) return await giveUp(money, id)
    let intent: Intent | undefined
    try {
      intent = await persist(async (attempt) => {
        const known = attempt === 1 && created ? created : await ask(() => gateway.find(id))
        if (known.status !== 'created') return known
        // Its time is over, and nothing was reserved: nothing shall be.
        return money.open ? await ask(() => gateway.confirm(id)) : undefined
      })
    } catch (error) {
      if (stop.signal.aborted) return false
      // The tries are used up.
      log.warn({ subject: money.id, error }, 'the outcome of a charge is not known')
    }
    // Not within the try: a write whose answer was lost may have happened, and what it says has been reserved must stay so.
    return intent ? await learn(money, intent) : await giveUp(money, id)
  }

  /** Written down before it is asked for: from then on another job that hears of a reservation does not have it sold. */
  async function giveUp(money: Money, id: string): Promise<boolean> {
    if (!money.giving_up && !(await givingUp(client, money.charge))) return true
    // A cancelled intent takes nothing, also when a confirm of ours arrives late.
    const intent = await ask(() => gateway.cancel(id)).catch(() => undefined)
    const over = intent?.status === 'cancelled' || intent?.status === 'declined'
    return over ? await learn(money, intent) : await later(client, money.id)
  }

  async function learn(money: Money, { status, reason }: Intent): Promise<boolean> {
    if (status === 'authorized' || status === 'captured') return await end(money, 'sent', 'authorized', null)
    if (status === 'declined') return await end(money, 'sent', 'declined', reason)
    if (status === 'cancelled') return await end(money, 'sent', 'unavailable', reason ?? 'cancelled')
    return await later(client, money.id)
  }

  async function capture(money: Money): Promise<boolean> {
    const { id, of, provider_id } = money
    const intent = await persist(() => ask(() => gateway.capture(provider_id))).catch(() => undefined)
    if (!intent || intent.status === 'authorized' || intent.status === 'processing') return await later(client, id)
    const status = intent.status === 'captured' ? 'captured' : 'lost'
    if (await captured(client, money, status)) {
      if (status === 'lost') log.error({ subject: id, intent }, `a ${of} is sold whose money the provider let go`)
      metrics.charges.inc({ purpose: 'charge', status })
    }
    return true
  }

  /** Ends the reservation, or returns what was captured; whichever it is by then. */
  async function giveBack(money: Money): Promise<boolean> {
    const { status, id, provider_id, amount } = money
    if (status === 'pending') return await end(money, 'pending', 'unavailable', 'given_up')
    let returned = false
    if (status !== 'declined' && status !== 'unavailable' && status !== 'released' && status !== 'lost') {
      try {
        returned = await persist(async (attempt) => {
          const found = await ask(() => gateway.find(provider_id))
          if (found.status === 'processing') throw new Error('the provider is still at it')
          const ended = found.status === 'captured' ? found : await ask(() => gateway.cancel(provider_id))
          if (ended.status !== 'captured') return false
          // The provider repeats its first answer to a key, an error too. Another key gives nothing back twice: it is all
          // that was captured, or refused.
          const key = attempt === 1 ? `${id}-refund` : `${id}-refund-${randomUUID()}`
          await ask(() => gateway.refund(provider_id, amount, key))
          return true
        })
      } catch (error) {
        log.warn({ subject: id, error }, 'money could not be given back yet')
        return await later(client, id)
      }
    }
    if (await givenBack(client, id, returned)) {
      metrics.charges.inc({ purpose: 'refund', status: returned ? 'refunded' : 'released' })
    }
    return true
  }

  /** Writes how it ended together with the command that tells the line. */
  async function end(
    money: Money,
    from: 'pending' | 'sent',
    to: 'authorized' | 'declined' | 'unavailable',
    reason: string | null,
  ): Promise<boolean> {
    if (await conclude(client, money, from, to, reason)) {
      metrics.charges.inc({ purpose: 'charge', status: to })
      log.info({ subject: money.id, resource: money.queue, charge: to, reason }, 'charge')
      nudge([money.queue])
    }
    return true
  }

  return {
    /** Carries the charge of this purchase or booking as far as it goes now. Rejects when the database does not answer. */
    async serve(id: string): Promise<void> {
      const since = performance.now()
      for (let n = 0; n < STEPS && !stop.signal.aborted; n++) {
        const money = await readMoney(client, id)
        if (!money || !(await step(money))) break
      }
      metrics.payment_seconds.observe((performance.now() - since) / 1000)
    },
    /** Ends the pauses between tries; what is not known then is asked about by another worker. */
    stop() {
      stop.abort(new Error('the worker is stopping'))
    },
  }
}

const wordOf = (error: unknown) =>
  error instanceof UnavailableError && !error.attempted ? 'breaker_open' : 'unreachable'
