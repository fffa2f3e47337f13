/**
 * A payment provider for one machine: the part of Stripe's HTTP API that the gateway uses, with Stripe's rules, and
 * tokens for every way a payment can fail. Invariant: an intent is authorized once and captured once, and refunds
 * never exceed what was captured. State is in memory and ends with the process.
 *
 * Tokens `tok_NAME` or `pm_card_NAME`: Stripe's visa, mastercard, chargeDeclined, chargeDeclinedInsufficientFunds,
 * chargeDeclinedExpiredCard, chargeDeclinedProcessingError, authenticationRequired and pendingRefund (its refund stays
 * pending); and, of the sandbox alone, slow, error, errorOnce and refundErrorOnce (500, the first time),
 * refundRefusedOnce (`balance_insufficient`, the first time), and timeout (the money is reserved, and no response is ever
 * sent).
 *
 * Changes by an operator at the provider: POST /v1/refunds, POST /v1/payment_intents/{id}/cancel; by a bank: POST
 * /v1/test_helpers/disputes `payment_intent`, and /v1/test_helpers/refunds/{id} or /v1/test_helpers/disputes/{id} with the
 * new `status`.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

export interface SandboxOptions {
  /** the only valid API key */
  secret_key: string
  /** receiver of events; undefined: none are sent */
  webhook_url: string | undefined
  webhook_secret: string
  /** milliseconds for a confirm with the token `slow` */
  slow_ms: number
}

interface Intent {
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
interface Refund {
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
interface Dispute {
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
interface Answer {
  status: number
  body: object
  /** stored response of the first request with this key */
  replayed?: true
}
type Form = Record<string, string>

/** Declines, by what follows `tok_` or `pm_card_`. */
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

/** Bytes of a request at most: requests of the gateway have a few hundred. */
const BODY_LIMIT = 64 * 1024
const WEBHOOK_TRIES = 3

class Refusal extends Error {
  readonly answer: Answer
  constructor(status: number, type: string, code: string, message: string, more: object = {}) {
    super(message)
    this.answer = { status, body: { error: { type, code, message, ...more } } }
  }
}
const invalid = (code: string, message: string, more: object = {}) =>
  new Refusal(400, 'invalid_request_error', code, message, more)

/** The server, not yet listening. */
export function createSandbox({ secret_key, webhook_url, webhook_secret, slow_ms }: SandboxOptions) {
  const intents = new Map<string, Intent>()
  const refunds: Refund[] = []
  const disputes: Dispute[] = []
  /** idempotency key → its request and response, errors included */
  const keys = new Map<string, { asked: string; answer: Answer | undefined }>()
  const erred = new Set<string>()

  const id = (prefix: string) => `${prefix}_${randomBytes(12).toString('hex')}`
  const now_s = () => Math.floor(Date.now() / 1000)

  async function emit(type: string, object: Intent | Refund | Dispute | ReturnType<typeof chargeOf>): Promise<void> {
    if (webhook_url === undefined) return
    const body = JSON.stringify({ id: id('evt'), object: 'event', type, created: now_s(), data: { object } })
    for (let tried = 0; tried < WEBHOOK_TRIES; tried++) {
      const t = now_s()
      const v1 = createHmac('sha256', webhook_secret).update(`${t}.${body}`).digest('hex')
      const headers = { 'content-type': 'application/json', 'stripe-signature': `t=${t},v1=${v1}` }
      const signal = AbortSignal.timeout(5_000)
      const sent = await fetch(webhook_url, { method: 'POST', headers, body, signal }).catch(() => undefined)
      await sent?.arrayBuffer().catch(() => undefined)
      if (sent?.ok) return
      await sleep(500 * 2 ** tried)
    }
  }

  function intentOf(name: string | undefined): Intent {
    const found = intents.get(name ?? '')
    if (found) return found
    throw new Refusal(404, 'invalid_request_error', 'resource_missing', `No such payment_intent: '${name}'`)
  }

  function need(intent: Intent, verb: string, ...statuses: Intent['status'][]): void {
    if (statuses.includes(intent.status)) return
    const message = `This PaymentIntent could not be ${verb} because it has a status of ${intent.status}.`
    throw invalid('payment_intent_unexpected_state', message, { payment_intent: intent })
  }

  function create(form: Form): Intent {
    const amount = Number(form.amount)
    if (!Number.isSafeInteger(amount) || amount < 1) throw invalid('parameter_invalid_integer', 'Invalid amount')
    if (!/^[a-z]{3}$/.test(form.currency ?? '')) throw invalid('parameter_invalid', 'Invalid currency')
    const token = form.payment_method ?? form['payment_method_data[card][token]'] ?? ''
    if (!/^(tok|pm_card)_/.test(token) || !(GOOD.has(nameOf(token)) || DECLINES[nameOf(token)])) {
      throw invalid('resource_missing', `No such PaymentMethod: '${token}'`, { param: 'payment_method' })
    }
    const intent: Intent = {
      id: id('pi'),
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
    intents.set(intent.id, intent)
    return intent
  }

  async function confirm(intent: Intent): Promise<Intent> {
    const name = nameOf(intent.payment_method)
    if (name === 'slow') await sleep(slow_ms)
    const fails = name === 'error' || (name === 'errorOnce' && !erred.has(intent.id))
    erred.add(intent.id)
    if (fails) throw new Refusal(500, 'api_error', 'api_error', 'The token asked for this.')
    need(intent, 'confirmed', 'requires_confirmation', 'requires_payment_method')
    const [code, decline_code] = DECLINES[name] ?? []
    if (code !== undefined && decline_code !== undefined) {
      intent.status = 'requires_payment_method'
      const message = 'Your card was declined.'
      intent.last_payment_error = { type: 'card_error', code, decline_code, message }
      void emit('payment_intent.payment_failed', intent)
      throw new Refusal(402, 'card_error', code, message, { decline_code, payment_intent: intent })
    }
    intent.status = 'requires_capture'
    intent.amount_capturable = intent.amount
    void emit('payment_intent.amount_capturable_updated', intent)
    // The client has closed the connection long before.
    if (name === 'timeout') await sleep(600_000, undefined, { ref: false })
    return intent
  }

  function capture(intent: Intent): Intent {
    need(intent, 'captured', 'requires_capture')
    intent.status = 'succeeded'
    intent.amount_received = intent.amount_capturable
    intent.amount_capturable = 0
    void emit('payment_intent.succeeded', intent)
    return intent
  }

  function cancel(intent: Intent): Intent {
    need(intent, 'canceled', 'requires_confirmation', 'requires_payment_method', 'requires_capture')
    intent.status = 'canceled'
    intent.amount_capturable = 0
    void emit('payment_intent.canceled', intent)
    return intent
  }

  /** Minor units of this intent that were refunded or will be. */
  const given = (intent: Intent) =>
    refunds.reduce(
      (sum, one) => (one.payment_intent === intent.id && one.status !== 'failed' ? sum + one.amount : sum),
      0,
    )

  /** The charge of an intent, as events show it: it has the intent's metadata. */
  const chargeOf = (intent: Intent) => ({
    id: intent.id.replace('pi_', 'ch_'),
    object: 'charge',
    payment_intent: intent.id,
    amount: intent.amount,
    amount_refunded: given(intent),
    refunded: given(intent) === intent.amount_received,
    metadata: intent.metadata,
  })

  /** True the first time. */
  function first(what: string): boolean {
    const is = !erred.has(what)
    erred.add(what)
    return is
  }

  function refund(form: Form): Refund {
    const intent = intentOf(form.payment_intent)
    const name = nameOf(intent.payment_method)
    const left = intent.amount_received - given(intent)
    if (name === 'refundErrorOnce' && first(`refund of ${intent.id}`)) {
      throw new Refusal(500, 'api_error', 'api_error', 'The token asked for this.')
    }
    if (name === 'refundRefusedOnce' && first(`refund of ${intent.id}`)) {
      throw invalid('balance_insufficient', 'Insufficient funds in your Stripe balance to refund this amount.')
    }
    if (disputes.some((one) => one.payment_intent === intent.id && one.status !== 'won')) {
      throw invalid('charge_disputed', 'The charge has been charged back. Cannot issue a refund.')
    }
    const amount = form.amount === undefined ? left : Number(form.amount)
    if (left === 0 && given(intent) > 0) {
      throw invalid('charge_already_refunded', 'The charge has already been refunded.')
    }
    if (!Number.isSafeInteger(amount) || amount < 1 || amount > left) {
      throw invalid('amount_too_large', `Refund amount (${amount}) is greater than unrefunded amount (${left})`)
    }
    const made: Refund = {
      id: id('re'),
      object: 'refund',
      amount,
      currency: intent.currency,
      payment_intent: intent.id,
      charge: chargeOf(intent).id,
      status: name === 'pendingRefund' ? 'pending' : 'succeeded',
      metadata: metadataOf(form),
      created: now_s(),
    }
    refunds.push(made)
    void emit('refund.created', made)
    void emit('charge.refunded', chargeOf(intent))
    return made
  }

  function dispute(form: Form): Dispute {
    const intent = intentOf(form.payment_intent)
    const opened: Dispute = {
      id: id('dp'),
      object: 'dispute',
      amount: intent.amount_received,
      currency: intent.currency,
      payment_intent: intent.id,
      charge: chargeOf(intent).id,
      reason: form.reason ?? 'fraudulent',
      status: 'needs_response',
      balance_transactions: [],
      metadata: {},
      created: now_s(),
    }
    disputes.push(opened)
    void emit('charge.dispute.created', opened)
    return opened
  }

  /** Applies a bank's decision about a refund or a dispute. */
  function decided(form: Form, kind: string | undefined, name: string | undefined): Refund | Dispute {
    const refund = refunds.find((one) => kind === 'refunds' && one.id === name)
    if (refund) {
      refund.status = form.status as Refund['status']
      if (form.failure_reason !== undefined) refund.failure_reason = form.failure_reason
      void emit(refund.status === 'failed' ? 'refund.failed' : 'refund.updated', refund)
      return refund
    }
    const dispute = disputes.find((one) => kind === 'disputes' && one.id === name)
    if (!dispute) throw new Refusal(404, 'invalid_request_error', 'resource_missing', `No such ${kind}: '${name}'`)
    dispute.status = form.status as Dispute['status']
    void emit('charge.dispute.closed', dispute)
    return dispute
  }

  const list = (data: object[]) => ({ object: 'list', has_more: false, data })

  async function answer(method: string, path: string, form: Form): Promise<object> {
    const [, , kind, name, verb] = path.split('/')
    if (kind === 'payment_intents' && method === 'POST') {
      if (name === undefined) return create(form)
      const intent = intentOf(name)
      if (verb === 'confirm') return await confirm(intent)
      if (verb === 'capture') return capture(intent)
      if (verb === 'cancel') return cancel(intent)
    }
    if (kind === 'payment_intents' && method === 'GET') {
      if (name !== undefined && name !== 'search') return intentOf(name)
      const [, key, value] = /^metadata\['(\w+)'\]:'([^']+)'$/.exec(form.query ?? '') ?? []
      return list([...intents.values()].filter((one) => key === undefined || one.metadata[key] === value))
    }
    if (kind === 'refunds' && method === 'POST') return refund(form)
    if (kind === 'test_helpers' && method === 'POST') {
      return verb === undefined && name === 'disputes' ? dispute(form) : decided(form, name, verb)
    }
    const all: readonly (Refund | Dispute)[] | undefined =
      kind === 'refunds' ? refunds : kind === 'disputes' ? disputes : undefined
    if (all && method === 'GET') {
      return list(all.filter((one) => form.payment_intent === undefined || one.payment_intent === form.payment_intent))
    }
    throw new Refusal(404, 'invalid_request_error', 'url_invalid', `Unrecognized request URL (${method}: ${path}).`)
  }

  /** Like Stripe: the first response to a key is repeated, also an error; other parameters with the same key get a 400. */
  async function once(key: string, asked: string, body: () => Promise<Answer>): Promise<Answer> {
    const first = keys.get(key)
    if (first && first.asked !== asked) {
      const message =
        'Keys for idempotent requests can only be used with the same parameters they were first used with.'
      return new Refusal(400, 'idempotency_error', 'idempotency_key_in_use', message).answer
    }
    if (first) {
      const busy = new Refusal(
        409,
        'idempotency_error',
        'idempotency_key_in_use',
        'A request with this key is under way.',
      )
      return first.answer ? { ...first.answer, replayed: true } : busy.answer
    }
    const entry: { asked: string; answer: Answer | undefined } = { asked, answer: undefined }
    keys.set(key, entry)
    entry.answer = await body()
    return entry.answer
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = 'GET', headers } = request
    const url = new URL(request.url ?? '/', 'http://sandbox')
    if (url.pathname === '/livez') return send(response, { status: 200, body: { status: 'ok' } })
    if (!isKey(headers.authorization, secret_key)) {
      const refusal = new Refusal(401, 'invalid_request_error', 'api_key_invalid', 'Invalid API Key provided.')
      return send(response, refusal.answer)
    }
    const text = await read(request)
    const form = Object.fromEntries(method === 'GET' ? url.searchParams : new URLSearchParams(text))
    const body = () =>
      answer(method, url.pathname, form).then(
        // A copy: the intent changes later, the stored response does not.
        (object) => ({ status: 200, body: structuredClone(object) }),
        (error) => {
          if (error instanceof Refusal) return structuredClone(error.answer)
          throw error
        },
      )
    const key = headers['idempotency-key']
    const asked = `${method} ${url.pathname} ${text}`
    const result = method === 'POST' && typeof key === 'string' ? await once(key, asked, body) : await body()
    send(response, result)
  }

  return createServer((request, response) => {
    serve(request, response).catch((error: Error) => {
      const refusal = new Refusal(500, 'api_error', 'api_error', error.message)
      send(response, refusal.answer)
    })
  })
}

function metadataOf(form: Form): Record<string, string> {
  return Object.fromEntries(
    Object.entries(form).flatMap(([name, value]) => {
      const [, key] = /^metadata\[(.+)\]$/.exec(name) ?? []
      return key === undefined ? [] : [[key, value]]
    }),
  )
}

function send(response: ServerResponse, { status, body, replayed }: Answer): void {
  if (response.destroyed) return
  response.writeHead(status, {
    'content-type': 'application/json',
    'request-id': `req_${randomBytes(7).toString('hex')}`,
    ...(replayed && { 'idempotent-replayed': 'true' }),
  })
  response.end(JSON.stringify(body))
}

async function read(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) {
    text += chunk
    if (text.length > BODY_LIMIT) throw invalid('request_too_large', 'The body is too large.')
  }
  return text
}

function isKey(authorization = '', key: string): boolean {
  const [given, wanted] = [Buffer.from(authorization), Buffer.from(`Bearer ${key}`)]
  return given.length === wanted.length && timingSafeEqual(given, wanted)
}
