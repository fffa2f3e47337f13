/**
 * A payment provider for one machine: the part of Stripe's HTTP API that the gateway uses. The rules of payments and the test
 * cards are in sandbox-payments.ts. Invariant: the sandbox repeats its first response to an idempotency key. Its state is in
 * memory and ends with the process.
 *
 * These routes simulate an operator who changes a payment at the provider: POST /v1/refunds, POST
 * /v1/payment_intents/{id}/cancel. These routes simulate a bank: POST /v1/test_helpers/disputes with `payment_intent`, and
 * POST /v1/test_helpers/refunds/{id} or /v1/test_helpers/disputes/{id} with the new `status`.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Form, invalid, newId, now_s, Refusal, SandboxPayments } from './sandbox-payments.ts'

export interface SandboxOptions {
  /** the only valid API key */
  secret_key: string
  /** URL that receives events; undefined: the sandbox sends none */
  webhook_url: string | undefined
  webhook_secret: string
  /** milliseconds that a confirm with the token `slow` takes */
  slow_ms: number
}

interface Answer {
  status: number
  body: object
  /** true if this is the stored response of the first request with this key */
  replayed?: true
}
/** idempotency key → the first request with the key and its response, errors included */
type Keys = Map<string, { asked: string; answer: Answer | undefined }>

/** Maximum size of a request, in bytes: requests of the gateway have a few hundred. */
const BODY_LIMIT = 64 * 1024
const WEBHOOK_TRIES = 3

/** Creates the server; it does not listen yet. */
export function createSandbox(options: SandboxOptions): Server {
  const keys: Keys = new Map()
  const payments = new SandboxPayments({
    slow_ms: options.slow_ms,
    emit: (type, object) => void sendEvent(options, type, object),
  })

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = 'GET', headers } = request
    const url = new URL(request.url ?? '/', 'http://sandbox')
    if (url.pathname === '/livez') return send(response, { status: 200, body: { status: 'ok' } })
    if (!isKey(headers.authorization, options.secret_key)) {
      const refusal = new Refusal(401, 'invalid_request_error', 'api_key_invalid', 'Invalid API Key provided.')
      return send(response, refusal.answer)
    }
    const text = await read(request)
    const form = Object.fromEntries(method === 'GET' ? url.searchParams : new URLSearchParams(text))
    const body = () =>
      route(payments, method, url.pathname, form).then(
        // Store a copy: the intent changes later, but the stored response must not.
        (object) => ({ status: 200, body: structuredClone(object) }),
        (error) => {
          if (error instanceof Refusal) return structuredClone(error.answer)
          throw error
        },
      )
    const key = headers['idempotency-key']
    const asked = `${method} ${url.pathname} ${text}`
    const result = method === 'POST' && typeof key === 'string' ? await once(keys, key, asked, body) : await body()
    send(response, result)
  }

  return createServer((request, response) => {
    serve(request, response).catch((error: Error) => {
      const refusal = new Refusal(500, 'api_error', 'api_error', error.message)
      send(response, refusal.answer)
    })
  })
}

async function route(payments: SandboxPayments, method: string, path: string, form: Form): Promise<object> {
  const [, , kind, name, verb] = path.split('/')
  if (kind === 'payment_intents' && method === 'POST') {
    if (name === undefined) return payments.create(form)
    const intent = payments.intent(name)
    if (verb === 'confirm') return await payments.confirm(intent)
    if (verb === 'capture') return payments.capture(intent)
    if (verb === 'cancel') return payments.cancel(intent)
  }
  if (kind === 'payment_intents' && method === 'GET') {
    if (name !== undefined && name !== 'search') return payments.intent(name)
    const [, key, value] = /^metadata\['(\w+)'\]:'([^']+)'$/.exec(form.query ?? '') ?? []
    return list(payments.search(key, value))
  }
  if (kind === 'refunds' && method === 'POST') return payments.refund(form)
  if (kind === 'test_helpers' && method === 'POST') {
    return verb === undefined && name === 'disputes' ? payments.openDispute(form) : payments.decide(form, name, verb)
  }
  if ((kind === 'refunds' || kind === 'disputes') && method === 'GET') {
    const all = kind === 'refunds' ? payments.refunds : payments.disputes
    return list(all.filter((one) => form.payment_intent === undefined || one.payment_intent === form.payment_intent))
  }
  throw new Refusal(404, 'invalid_request_error', 'url_invalid', `Unrecognized request URL (${method}: ${path}).`)
}

const list = (data: object[]) => ({ object: 'list', has_more: false, data })

/** Repeats the first response to a key, including an error, as Stripe does; other parameters with the same key get a 400. */
async function once(keys: Keys, key: string, asked: string, body: () => Promise<Answer>): Promise<Answer> {
  const first = keys.get(key)
  if (first && first.asked !== asked) {
    const message = 'Keys for idempotent requests can only be used with the same parameters they were first used with.'
    return new Refusal(400, 'idempotency_error', 'idempotency_key_in_use', message).answer
  }
  if (first) {
    const message = 'A request with this key is under way.'
    const busy = new Refusal(409, 'idempotency_error', 'idempotency_key_in_use', message)
    return first.answer ? { ...first.answer, replayed: true } : busy.answer
  }
  const entry: { asked: string; answer: Answer | undefined } = { asked, answer: undefined }
  keys.set(key, entry)
  entry.answer = await body()
  return entry.answer
}

/** Sends an event with Stripe's signature; never throws. */
async function sendEvent(
  { webhook_url, webhook_secret }: Pick<SandboxOptions, 'webhook_url' | 'webhook_secret'>,
  type: string,
  object: object,
): Promise<void> {
  if (webhook_url === undefined) return
  const body = JSON.stringify({ id: newId('evt'), object: 'event', type, created: now_s(), data: { object } })
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
