/**
 * A client that behaves like a buyer: it asks one of the API processes, gives up after a while, and retries with the
 * same key if it has one. Invariant: every request is recorded, whatever happens to it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Entry, inShort, type Recorder } from './record.ts'

export interface Ask {
  op: string
  intent: string
  method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  path: string
  body?: Record<string, unknown>
  key?: string
  wait_s?: number
  headers?: Record<string, string>
}

export interface Answer extends Entry {
  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  answer: any
}

/** Milliseconds after which a client gives up a request. */
const PATIENCE_MS = 12_000
/** Milliseconds between the retries of a client that has a key and got no answer, and how long it retries. */
const AGAIN_MS = 400
const GOES_ON_MS = 40_000

export interface Client {
  /** sends one request */
  ask(ask: Ask): Promise<Answer>
  /** sends the request, and retries it until it is answered if it has a key */
  insist(ask: Ask): Promise<Answer>
}

/**
 * Creates a client. `url`: returns the address of an API process, for each request anew. `now_ms`: returns the
 * milliseconds since the load began.
 */
export function createClient(url: () => string, recorder: Recorder, now_ms: () => number): Client {
  let n = 0
  async function ask({ headers: more = {}, ...what }: Ask): Promise<Answer> {
    const to = url()
    const entry = { n: ++n, ...what, to, from_ms: now_ms() }
    const headers = {
      ...(what.body && { 'content-type': 'application/json' }),
      ...(what.key !== undefined && { 'idempotency-key': what.key }),
      ...(what.wait_s !== undefined && { prefer: `wait=${what.wait_s}` }),
      ...more,
    }
    let short: Partial<Entry> = {}
    let answer: unknown
    try {
      const response = await fetch(`${to}${what.path}`, {
        method: what.method,
        headers,
        signal: AbortSignal.timeout(PATIENCE_MS),
        ...(what.body && { body: JSON.stringify(what.body) }),
      })
      const text = await response.text()
      answer = text === '' ? undefined : JSON.parse(text)
      short = inShort(what.path, response.status, response.headers, answer)
    } catch (error) {
      const { message, cause } = error as Error
      answer = cause instanceof Error ? `${message}: ${cause.message}` : message
    }
    const made: Entry = { status: 0, ...entry, until_ms: now_ms(), ...short }
    recorder.add(made, answer)
    return { ...made, answer }
  }

  return {
    ask,
    async insist(what) {
      const until = performance.now() + GOES_ON_MS
      for (;;) {
        const answer = await ask(what)
        const open = answer.status === 0 || answer.status === 503 || answer.code === 'stale_lease'
        if (!open || what.key === undefined || performance.now() > until) return answer
        // Wait as long as Retry-After says and a little more, so that not all clients retry at once.
        const told_s = Number(answer.answer?.retry_after ?? 0)
        await sleep(Math.max(AGAIN_MS, told_s * 1000) * (1 + Math.random() / 2))
      }
    },
  }
}
