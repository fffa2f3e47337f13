/**
 * `holdfast/client`: the HTTP contract as typed calls. Invariant: a request is sent again only when that cannot do anything
 * twice: a GET, or one that carries an Idempotency-Key, always the same one.
 */
import createFetchClient, { type FetchResponse, type MaybeOptionalInit } from 'openapi-fetch'
import { type components, KEYED, type paths } from './generated/openapi.ts'

export type Purchase = components['schemas']['Purchase']
export type Booking = components['schemas']['Booking']
/** RFC 9457 */
export type Problem = components['schemas']['Problem']

/** An answer that is none of success. `code` is stable: `sold_out`, `conflict`, `payment_declined` … */
export class ProblemError extends Error {
  readonly status: number
  readonly code: string
  /** the same request may succeed later */
  readonly retryable: boolean
  /** all that the answer said: `available`, `conflicting_ids`, `errors` … */
  readonly problem: Problem
  constructor(problem: Problem) {
    super(`${problem.status} ${problem.code}: ${problem.detail}`)
    this.name = 'ProblemError'
    this.status = problem.status
    this.code = problem.code
    this.retryable = problem.retryable
    this.problem = problem
  }

  /** From an answer; whoever stands between may have answered something else than a problem. */
  static async of(response: Response): Promise<ProblemError> {
    const text = await response.text()
    let said: unknown
    try {
      said = JSON.parse(text)
    } catch {
      said = undefined
    }
    const found = (typeof said === 'object' && said !== null ? said : {}) as Partial<Problem>
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

/** Milliseconds between two looks of `waitFor`: at first, and at most. */
const LOOK_MS = 50
const LOOK_MAX_MS = 1_000
/** Milliseconds before a request is sent again whose answer named no Retry-After. */
const RETRY_MS = 500

export interface ClientOptions {
  /** where the API is: http://localhost:3000 */
  url: string
  /** API key */
  key?: string
  /** milliseconds from the first try in which a request that could not be taken is sent again; 0: never */
  retry_for_ms?: number
  /** milliseconds for one answer; above what is asked for with `Prefer: wait` */
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

/** The body of a 2xx answer. @throws ProblemError */
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
   * The purchase or booking once it has left its line, and its card was asked: look at its `status`.
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

  /** One try: what was answered, or why nothing was. */
  const attempt = (request: Request): Promise<Response | Error> => {
    const signal = AbortSignal.any([request.signal, AbortSignal.timeout(timeout_ms)])
    // A body is read once, so each try has a copy.
    return send(new Request(request.clone(), { signal })).catch((error: Error) => error)
  }

  /** Tries until it was taken, while there is time. */
  async function persist(request: Request): Promise<Response> {
    const harmless = request.method === 'GET' || request.headers.has('idempotency-key')
    const deadline = performance.now() + (harmless ? retry_for_ms : 0)
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
    fetch: persist,
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
      for (let pause_ms = LOOK_MS; standing(now); pause_ms = Math.min(LOOK_MAX_MS, pause_ms * 2)) {
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

/** Milliseconds until the next try; undefined where a next one would be told the same. */
function pauseBefore(answer: Response | undefined): number | undefined {
  if (answer && answer.status !== 503 && answer.status !== 429) return undefined
  const named = answer?.headers.get('retry-after')
  const ms = named && /^\d+$/.test(named) ? Number(named) * 1_000 : RETRY_MS
  // Everybody was told the same number: they do not come back at once.
  return ms * (1 + Math.random() / 4)
}

/** In its line; or set aside while its card is asked, which is the only reason for a hold that nobody has asked for. */
function standing(row: Purchase | Booking): boolean {
  if (row.status === 'queued') return true
  const aside = row.status === 'held' || row.status === 'requested'
  return aside && row.payment.method === 'card' && row.hold_seconds === null
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const abort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal.addEventListener('abort', abort, { once: true })
  })
}
