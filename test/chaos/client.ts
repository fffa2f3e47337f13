/**
 * Buyers as they are: they ask one of the API processes, give up after a while, and ask again with the same key when they
 * have one. Invariant: every request is recorded, whatever becomes of it.
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

/** Milliseconds after which a client hangs up. */
const PATIENCE_MS = 12_000
/** Milliseconds between the tries of one who has a key and was told nothing, and how long they go on. */
const AGAIN_MS = 400
const GOES_ON_MS = 40_000

export interface Client {
  /** one request */
  ask(ask: Ask): Promise<Answer>
  /** as often as it takes to be answered, when it has a key */
  insist(ask: Ask): Promise<Answer>
}

/** `url`: of an API process, chosen anew for each request. `now_ms`: since the load began. */
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
        // As long as it was told to wait, and somewhat more, so that not all come back at once.
        const told_s = Number(answer.answer?.retry_after ?? 0)
        await sleep(Math.max(AGAIN_MS, told_s * 1000) * (1 + Math.random() / 2))
      }
    },
  }
}
