/**
 * The payments of the sandbox, with Stripe's rules and tokens for every way a payment can fail. Invariant: an intent is
 * authorized once and captured once, and refunds never exceed what was captured.
 *
 * Tokens `tok_NAME` or `pm_card_NAME`: Stripe's visa, mastercard, chargeDeclined, chargeDeclinedInsufficientFunds,
 * chargeDeclinedExpiredCard, chargeDeclinedProcessingError, authenticationRequired and pendingRefund (its refund stays
 * pending); and, of the sandbox alone, slow, error, errorOnce and refundErrorOnce (500, the first time),
 * refundRefusedOnce (`balance_insufficient`, the first time), and timeout (the money is reserved, and no response is ever
 * sent).
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

export interface Intent {
  id: string
  object: 'payment_intent'
  amount: number
  amount_capturable: number
  amount_received: number
  currency: string
  status: 'requires_confirmation' | 'requires_payment_method' | 'requires_capture' | 'succeeded' | 'canceled'
  capture_method: 'manual'
  metadata: Record<string, string>
  payment_method: string
  last_payment_error: { type: 'card_error'; code: string; decline_code: string; message: string } | null
  created: number
}
export interface Refund {
  id: string
  object: 'refund'
  amount: number
  currency: string
  payment_intent: string
  charge: string
  status: 'pending' | 'succeeded' | 'failed'
  failure_reason?: string
  metadata: Record<string, string>
  created: number
}
export interface Dispute {
  id: string
  object: 'dispute'
  amount: number
  currency: string
  payment_intent: string
  charge: string
  reason: string
  status: 'needs_response' | 'won' | 'lost'
  balance_transactions: []
  metadata: Record<string, string>
  created: number
}
/** The fields of a request's form or query. */
export type Form = Record<string, string>

/** Thrown to answer a request with one of Stripe's errors. */
export class Refusal extends Error {
  readonly answer: { status: number; body: object }
  constructor(status: number, type: string, code: string, message: string, more: object = {}) {
    super(message)
    this.answer = { status, body: { error: { type, code, message, ...more } } }
  }
}
export const invalid = (code: string, message: string, more: object = {}) =>
  new Refusal(400, 'invalid_request_error', code, message, more)
const missing = (kind: string, id: string | undefined) =>
  new Refusal(404, 'invalid_request_error', 'resource_missing', `No such ${kind}: '${id}'`)
const asked = () => new Refusal(500, 'api_error', 'api_error', 'The token asked for this.')

export const newId = (prefix: string) => `${prefix}_${randomBytes(12).toString('hex')}`
export const now_s = () => Math.floor(Date.now() / 1000)

/** Card name (the part of a token after `tok_` or `pm_card_`) → the codes with which that card is declined. */
const DECLINES: Record<string, [code: string, decline_code: string]> = {
  chargeDeclined: ['card_declined', 'generic_decline'],
  visa_chargeDeclined: ['card_declined', 'generic_decline'],
  chargeDeclinedInsufficientFunds: ['card_declined', 'insufficient_funds'],
  visa_chargeDeclinedInsufficientFunds: ['card_declined', 'insufficient_funds'],
  chargeDeclinedExpiredCard: ['expired_card', 'expired_card'],
  chargeDeclinedProcessingError: ['processing_error', 'processing_error'],
  authenticationRequired: ['authentication_required', 'authentication_required'],
}
const GOOD = new Set([
  'visa',
  'mastercard',
  'amex',
  'discover',
  'slow',
  'error',
  'errorOnce',
  'refundErrorOnce',
  'refundRefusedOnce',
  'pendingRefund',
  'timeout',
])
const nameOf = (token: string) => token.replace(/^(tok|pm_card)_/, '')

export interface SandboxPaymentsDeps {
  /** milliseconds that a confirm with the token `slow` takes */
  slow_ms: number
  /** sends an event to the webhook; never throws */
  emit(type: string, object: object): void
}

export class SandboxPayments {
  readonly #slow_ms: number
  readonly #emit: SandboxPaymentsDeps['emit']
  readonly #intents = new Map<string, Intent>()
  readonly refunds: Refund[] = []
  readonly disputes: Dispute[] = []
  /** requests that were made before, for the tokens that fail only the first time */
  readonly #seen = new Set<string>()

  constructor({ slow_ms, emit }: SandboxPaymentsDeps) {
    this.#slow_ms = slow_ms
    this.#emit = emit
  }

  intent(id: string | undefined): Intent {
    const found = this.#intents.get(id ?? '')
    if (found) return found
    throw missing('payment_intent', id)
  }

  /** Returns the intents with this metadata; without a key, all intents. */
  search(key: string | undefined, value: string | undefined): Intent[] {
    return [...this.#intents.values()].filter((one) => key === undefined || one.metadata[key] === value)
  }

  create(form: Form): Intent {
    const amount = Number(form.amount)
    if (!Number.isSafeInteger(amount) || amount < 1) throw invalid('parameter_invalid_integer', 'Invalid amount')
    if (!/^[a-z]{3}$/.test(form.currency ?? '')) throw invalid('parameter_invalid', 'Invalid currency')
    const token = form.payment_method ?? form['payment_method_data[card][token]'] ?? ''
    if (!/^(tok|pm_card)_/.test(token) || !(GOOD.has(nameOf(token)) || DECLINES[nameOf(token)])) {
      throw invalid('resource_missing', `No such PaymentMethod: '${token}'`, { param: 'payment_method' })
    }
    const intent: Intent = {
      id: newId('pi'),
      object: 'payment_intent',
      amount,
      amount_capturable: 0,
      amount_received: 0,
      currency: form.currency ?? '',
      status: 'requires_confirmation',
      capture_method: 'manual',
      metadata: metadataOf(form),
      payment_method: token,
      last_payment_error: null,
      created: now_s(),
    }
    this.#intents.set(intent.id, intent)
    return intent
  }

  async confirm(intent: Intent): Promise<Intent> {
    const name = nameOf(intent.payment_method)
    if (name === 'slow') await sleep(this.#slow_ms)
    const first = this.#isFirst(intent.id)
    if (name === 'error' || (name === 'errorOnce' && first)) throw asked()
    assertStatus(intent, 'confirmed', 'requires_confirmation', 'requires_payment_method')
    const [code, decline_code] = DECLINES[name] ?? []
    if (code !== undefined && decline_code !== undefined) {
      intent.status = 'requires_payment_method'
      const message = 'Your card was declined.'
      intent.last_payment_error = { type: 'card_error', code, decline_code, message }
      this.#emit('payment_intent.payment_failed', intent)
      throw new Refusal(402, 'card_error', code, message, { decline_code, payment_intent: intent })
    }
    intent.status = 'requires_capture'
    intent.amount_capturable = intent.amount
    this.#emit('payment_intent.amount_capturable_updated', intent)
    // The client will have closed the connection long before this ends.
    if (name === 'timeout') await sleep(600_000, undefined, { ref: false })
    return intent
  }

  capture(intent: Intent): Intent {
    assertStatus(intent, 'captured', 'requires_capture')
    intent.status = 'succeeded'
    intent.amount_received = intent.amount_capturable
    intent.amount_capturable = 0
    this.#emit('payment_intent.succeeded', intent)
    return intent
  }

  cancel(intent: Intent): Intent {
    assertStatus(intent, 'canceled', 'requires_confirmation', 'requires_payment_method', 'requires_capture')
    intent.status = 'canceled'
    intent.amount_capturable = 0
    this.#emit('payment_intent.canceled', intent)
    return intent
  }

  refund(form: Form): Refund {
    const intent = this.intent(form.payment_intent)
    const name = nameOf(intent.payment_method)
    const refunded = this.#refundedOf(intent)
    const left = intent.amount_received - refunded
    if (name === 'refundErrorOnce' && this.#isFirst(`refund of ${intent.id}`)) throw asked()
    if (name === 'refundRefusedOnce' && this.#isFirst(`refund of ${intent.id}`)) {
      throw invalid('balance_insufficient', 'Insufficient funds in your Stripe balance to refund this amount.')
    }
    if (this.disputes.some((one) => one.payment_intent === intent.id && one.status !== 'won')) {
      throw invalid('charge_disputed', 'The charge has been charged back. Cannot issue a refund.')
    }
    const amount = form.amount === undefined ? left : Number(form.amount)
    if (left === 0 && refunded > 0) {
      throw invalid('charge_already_refunded', 'The charge has already been refunded.')
    }
    if (!Number.isSafeInteger(amount) || amount < 1 || amount > left) {
      throw invalid('amount_too_large', `Refund amount (${amount}) is greater than unrefunded amount (${left})`)
    }
    const refund: Refund = {
      id: newId('re'),
      object: 'refund',
      amount,
      currency: intent.currency,
      payment_intent: intent.id,
      charge: chargeIdOf(intent),
      status: name === 'pendingRefund' ? 'pending' : 'succeeded',
      metadata: metadataOf(form),
      created: now_s(),
    }
    this.refunds.push(refund)
    this.#emit('refund.created', refund)
    this.#emit('charge.refunded', this.#chargeOf(intent))
    return refund
  }

  openDispute(form: Form): Dispute {
    const intent = this.intent(form.payment_intent)
    const dispute: Dispute = {
      id: newId('dp'),
      object: 'dispute',
      amount: intent.amount_received,
      currency: intent.currency,
      payment_intent: intent.id,
      charge: chargeIdOf(intent),
      reason: form.reason ?? 'fraudulent',
      status: 'needs_response',
      balance_transactions: [],
      metadata: {},
      created: now_s(),
    }
    this.disputes.push(dispute)
    this.#emit('charge.dispute.created', dispute)
    return dispute
  }

  /** Applies a bank's decision about a refund or a dispute. */
  decide(form: Form, kind: string | undefined, id: string | undefined): Refund | Dispute {
    const refund = this.refunds.find((one) => kind === 'refunds' && one.id === id)
    if (refund) {
      refund.status = form.status as Refund['status']
      if (form.failure_reason !== undefined) refund.failure_reason = form.failure_reason
      this.#emit(refund.status === 'failed' ? 'refund.failed' : 'refund.updated', refund)
      return refund
    }
    const dispute = this.disputes.find((one) => kind === 'disputes' && one.id === id)
    if (!dispute) throw missing(`${kind}`, id)
    dispute.status = form.status as Dispute['status']
    this.#emit('charge.dispute.closed', dispute)
    return dispute
  }

  /** Returns how much of this intent was refunded or will be, in minor units. */
  #refundedOf(intent: Intent): number {
    const refunds = this.refunds.filter((one) => one.payment_intent === intent.id && one.status !== 'failed')
    return refunds.reduce((sum, one) => sum + one.amount, 0)
  }

  /** Returns the charge of an intent as events show it, with the intent's metadata. */
  #chargeOf(intent: Intent): object {
    const amount_refunded = this.#refundedOf(intent)
    return {
      id: chargeIdOf(intent),
      object: 'charge',
      payment_intent: intent.id,
      amount: intent.amount,
      amount_refunded,
      refunded: amount_refunded === intent.amount_received,
      metadata: intent.metadata,
    }
  }

  #isFirst(what: string): boolean {
    const first = !this.#seen.has(what)
    this.#seen.add(what)
    return first
  }
}

const chargeIdOf = (intent: Intent) => intent.id.replace('pi_', 'ch_')

function assertStatus(intent: Intent, verb: string, ...statuses: Intent['status'][]): void {
  if (statuses.includes(intent.status)) return
  const message = `This PaymentIntent could not be ${verb} because it has a status of ${intent.status}.`
  throw invalid('payment_intent_unexpected_state', message, { payment_intent: intent })
}

function metadataOf(form: Form): Record<string, string> {
  return Object.fromEntries(
    Object.entries(form).flatMap(([name, value]) => {
      const [, key] = /^metadata\[(.+)\]$/.exec(name) ?? []
      return key === undefined ? [] : [[key, value]]
    }),
  )
}
