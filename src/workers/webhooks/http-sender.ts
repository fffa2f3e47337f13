/**
 * Makes one attempt to deliver an event. Invariants: an attempt ends within its time limit, whatever the endpoint does;
 * it never connects to an address that is not public, because it checks the resolved address when it makes the
 * connection; it does not follow redirects.
 */
import http from 'node:http'
import https from 'node:https'
import { RequestFilteringHttpAgent, RequestFilteringHttpsAgent } from 'request-filtering-agent'
import { Webhook } from 'standardwebhooks'
import type { Config } from '../../shared/config.ts'
import type { Event } from '../../shared/outbox.ts'

/** Most bytes of a response body that the sender reads and discards, so that it can reuse the connection. */
const ANSWER_BYTES = 64 * 1024
/** Most characters of an error message that are stored. */
const ERROR_LENGTH = 300

export interface Attempt {
  /** HTTP status; undefined if there was no response */
  status?: number
  error?: string
  duration_ms: number
}

export const isAccepted = ({ status = 0 }: Attempt) => status >= 200 && status < 300

/** Returns the headers of the request, signed as Standard Webhooks specifies with each secret, the newest first. */
function headersOf(event: Event, body: string, secrets: readonly string[]): Record<string, string> {
  const at = new Date()
  return {
    'content-type': 'application/json',
    'user-agent': 'holdfast-webhooks',
    'webhook-id': event.id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': secrets.map((secret) => new Webhook(secret).sign(event.id, at, body)).join(' '),
  }
}

export function createPoster({ allow_private, timeout_ms }: Pick<Config['webhooks'], 'allow_private' | 'timeout_ms'>) {
  const options = { keepAlive: true, maxSockets: 64, allowPrivateIPAddress: allow_private }
  const agents = { http: new RequestFilteringHttpAgent(options), https: new RequestFilteringHttpsAgent(options) }

  /**
   * Sends the request and returns the status of the response. @throws the error of the connection, or an error if the
   * time limit is over
   */
  function send(url: URL, body: string, headers: Record<string, string>, signal: AbortSignal): Promise<number> {
    const secure = url.protocol === 'https:'
    return new Promise((resolve, reject) => {
      const request = (secure ? https : http).request(url, {
        method: 'POST',
        agent: secure ? agents.https : agents.http,
        headers: { ...headers, 'content-length': Buffer.byteLength(body) },
        signal,
      })
      // Do not use AbortSignal.any: the signal that it returns lives as long as the long-lived signal on which it
      // depends.
      const late = setTimeout(() => request.destroy(new Error(`no response within ${timeout_ms} ms`)), timeout_ms)
      request.once('close', () => clearTimeout(late))
      request.once('error', (error: NodeJS.ErrnoException) => {
        // The endpoint had closed a kept-alive connection, and no response came: retry at once on a new connection.
        const stale = request.reusedSocket && error.code === 'ECONNRESET' && !signal.aborted
        if (stale) send(url, body, headers, signal).then(resolve, reject)
        else reject(error)
      })
      request.once('response', (response) => {
        let bytes = 0
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > ANSWER_BYTES) response.destroy()
        })
        response.once('error', () => {})
        response.once('close', () => resolve(response.statusCode ?? 0))
      })
      request.end(body)
    })
  }

  return {
    /** Makes one attempt and returns its outcome. Never throws: if the signal aborts, the outcome has an error. */
    async post(url: string, event: Event, secrets: readonly string[], signal: AbortSignal): Promise<Attempt> {
      const body = JSON.stringify(event)
      const since = performance.now()
      const took = () => Math.round(performance.now() - since)
      try {
        const headers = headersOf(event, body, secrets)
        const status = await send(new URL(url), body, headers, signal)
        return { status, duration_ms: took() }
      } catch (error) {
        const message = (error as Error).message || String(error)
        return { error: message.slice(0, ERROR_LENGTH), duration_ms: took() }
      }
    },
    close() {
      agents.http.destroy()
      agents.https.destroy()
    },
  }
}

export type Poster = ReturnType<typeof createPoster>
