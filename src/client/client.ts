/**
 * `holdfast/client`: the HTTP contract as typed calls. Invariant: the client retries a request only if a retry cannot take
 * effect twice: a GET, or a request with an Idempotency-Key, which every retry repeats.
 */
import { setTimeout } from 'node:timers/promises'
import createFetchClient, { type FetchResponse, type MaybeOptionalInit } from 'openapi-fetch'
import { type components, KEYED, type paths } from './generated/openapi.ts'

export type Purchase = components['schemas']['Purchase']
export type Booking = components['schemas']['Booking']
/** what has happened to a purchase or booking, and what it waits for */
export type History = components['schemas']['History']
/** RFC 9457 */
export type Problem = components['schemas']['Problem']

/** Thrown for a response other than 2xx. `code` is stable: `sold_out`, `conflict`, `payment_declined` … */
export class ProblemError extends Error {
  readonly status: number
  readonly code: string
  /** true if the same request may succeed later */
  readonly retryable: boolean
  /** the whole body of the response: `available`, `conflicting_ids`, `errors` … */
  readonly problem: Problem
  constructor(problem: Problem) {
    super(`${problem.status} ${problem.code}: ${problem.detail}`)
    this.name = 'ProblemError'
    this.status = problem.status
    this.code = problem.code
    this.retryable = problem.retryable
    this.problem = problem
  }

  /** Makes the error from a response, even if a proxy has sent a body that is not a problem. */
  static async of(response: Response): Promise<ProblemError> {
    const text = await response.text()
    let body: unknown
    try {
      body = JSON.parse(text)
    } catch {
      body = undefined
    }
    const found = (typeof body === 'object' && body !== null ? body : {}) as Partial<Problem>
    return new ProblemError({
      type: 'about:blank',
      title: response.statusText,
      status: response.status,
      detail: typeof found.detail === 'string' ? found.detail : text.slice(0, 200) || response.statusText,
      instance: new URL(response.url || 'http://localhost/').pathname,
      code: `http_${response.status}`,
      retryable: response.status === 503,
      ...found,
    })
  }
}

/** Milliseconds between two polls of `waitFor`: the first pause, and the longest. */
const POLL_MS = 50
const POLL_MAX_MS = 1_000
/** Milliseconds before a retry when the response had no Retry-After. */
const RETRY_MS = 500

export interface ClientOptions {
  /** base URL of the API: http://localhost:3000 */
  url: string
  /** API key */
  key?: string
  /** for how many milliseconds after the first attempt a failed request is retried; 0: never */
  retry_for_ms?: number
  /** time limit for one response, in milliseconds; must exceed the wait of `Prefer: wait` */
  timeout_ms?: number
  fetch?: typeof globalThis.fetch
}

type Verb = 'get' | 'put' | 'post' | 'delete'
type PathsOf<V extends Verb> = { [P in keyof paths]: paths[P] extends Record<V, object> ? P : never }[keyof paths]
type Init<V extends Verb, P extends PathsOf<V>> = MaybeOptionalInit<paths[P], V>
type Answer<V extends Verb, P extends PathsOf<V>, I> =
  FetchResponse<paths[P][V] & object, I, `${string}/${string}`> extends infer R
    ? R extends { data: infer D }
      ? D
      : never
    : never

/** Sends a request and returns the body of a 2xx response. @throws ProblemError */
type Call<V extends Verb> = <P extends PathsOf<V>, I extends Init<V, P>>(
  path: P,
  ...init: undefined extends I ? [init?: I] : [init: I]
) => Promise<Answer<V, P, I>>

export interface Client {
  get: Call<'get'>
  put: Call<'put'>
  post: Call<'post'>
  delete: Call<'delete'>
  /**
   * Polls until the purchase or booking is settled and its card charge has ended, and returns it; read its `status`.
   * @throws DOMException TimeoutError when that takes longer than `timeout_ms` (30 s)
   */
  waitFor<Row extends Purchase | Booking>(
    row: Row,
    options?: { timeout_ms?: number; signal?: AbortSignal },
  ): Promise<Row>
}

export function createClient(options: ClientOptions): Client {
  const { url, key, retry_for_ms = 30_000, timeout_ms = 60_000 } = options
  const send = options.fetch ?? globalThis.fetch

  /** Sends the request once. Returns the response, or the error if there is no response. */
  const attempt = (request: Request): Promise<Response | Error> => {
    const signal = AbortSignal.any([request.signal, AbortSignal.timeout(timeout_ms)])
    // A body can be read once, so each attempt gets a clone.
    return send(new Request(request.clone(), { signal })).catch((error: Error) => error)
  }

  /** Sends the request, and retries until success, a final response or the deadline. */
  async function sendWithRetry(request: Request): Promise<Response> {
    const retryable = request.method === 'GET' || request.headers.has('idempotency-key')
    const deadline = performance.now() + (retryable ? retry_for_ms : 0)
    for (;;) {
      const outcome = await attempt(request)
      request.signal.throwIfAborted()
      const answered = outcome instanceof Response
      if (answered && outcome.ok) return outcome
      const pause_ms = pauseBefore(answered ? outcome : undefined)
      if (pause_ms === undefined || performance.now() + pause_ms > deadline) {
        throw answered ? await ProblemError.of(outcome) : outcome
      }
      if (answered) await outcome.body?.cancel()
      await sleep(pause_ms, request.signal)
    }
  }

  const raw = createFetchClient<paths>({
    baseUrl: url.replace(/\/$/, ''),
    fetch: sendWithRetry,
    ...(key !== undefined && { headers: { 'x-api-key': key } }),
  })
  raw.use({
    onRequest({ request, schemaPath }) {
      if (KEYED.has(`${request.method} ${schemaPath}`) && !request.headers.has('idempotency-key'))
        request.headers.set('idempotency-key', crypto.randomUUID())
    },
  })

  const call = (verb: Uppercase<Verb>) =>
    (async (path: string, init?: object) => {
      const method = raw[verb] as (path: string, init?: object) => Promise<{ data?: unknown }>
      return (await method(path, init)).data
    }) as never
  const client: Client = {
    get: call('GET'),
    put: call('PUT'),
    post: call('POST'),
    delete: call('DELETE'),
    async waitFor(row, wait = {}) {
      const late = AbortSignal.timeout(wait.timeout_ms ?? 30_000)
      const signal = wait.signal ? AbortSignal.any([wait.signal, late]) : late
      const params = { path: { id: row.id } }
      let now: Purchase | Booking = row
      for (let pause_ms = POLL_MS; isPending(now); pause_ms = Math.min(POLL_MAX_MS, pause_ms * 2)) {
        await sleep(pause_ms, signal)
        now =
          'lines' in row
            ? await client.get('/api/purchases/{id}', { params, signal })
            : await client.get('/api/bookings/{id}', { params, signal })
      }
      return now as typeof row
    },
  }
  return client
}

/** Returns the milliseconds until the next attempt; undefined when a retry would get the same response. */
function pauseBefore(answer: Response | undefined): number | undefined {
  if (answer && answer.status !== 503 && answer.status !== 429) return undefined
  const named = answer?.headers.get('retry-after')
  const ms = named && /^\d+$/.test(named) ? Number(named) * 1_000 : RETRY_MS
  // Add jitter, so that clients with the same Retry-After do not all retry at the same moment.
  return ms * (1 + Math.random() / 4)
}

/**
 * Returns whether the row is queued, or held while its card charge is in progress. A card charge in progress is the only
 * reason for a hold without hold_seconds.
 */
function isPending(row: Purchase | Booking): boolean {
  if (row.status === 'queued') return true
  const held = row.status === 'held' || row.status === 'requested'
  return held && row.payment.method === 'card' && row.hold_seconds === null
}

/** Resolves after `ms` milliseconds. @throws the reason of the signal, as soon as it aborts */
async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeout(ms, undefined, { signal }).catch(() => signal.throwIfAborted())
}
