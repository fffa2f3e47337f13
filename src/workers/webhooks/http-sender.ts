/**
 * One attempt to deliver an event. Invariants: it ends within its time limit, whatever the endpoint does; it never connects
 * to an address that is not public, because the resolved address is checked when the connection is made; it does not follow
 * redirects.
 */
import http from 'node:http'
import https from 'node:https'
import { RequestFilteringHttpAgent, RequestFilteringHttpsAgent } from 'request-filtering-agent'
import { Webhook } from 'standardwebhooks'
import type { Config } from '../../shared/config.ts'
import type { Event } from '../../shared/outbox.ts'

/** Bytes of a response body that are read and discarded, so that the connection can be reused. */
const ANSWER_BYTES = 64 * 1024
/** Characters of an error message that are stored. */
const ERROR_LENGTH = 300

export interface Attempt {
  /** undefined: there was no response */
  status?: number
  error?: string
  duration_ms: number
}

export const isAccepted = ({ status = 0 }: Attempt) => status >= 200 && status < 300

/** Signed by Standard Webhooks with each secret, the newest first. */
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

  /** The status of the response. @throws the error of the connection, or that the time limit is over */
  function send(url: URL, body: string, headers: Record<string, string>, signal: AbortSignal): Promise<number> {
    const secure = url.protocol === 'https:'
    return new Promise((resolve, reject) => {
      const request = (secure ? https : http).request(url, {
        method: 'POST',
        agent: secure ? agents.https : agents.http,
        headers: { ...headers, 'content-length': Buffer.byteLength(body) },
        signal,
      })
      // Not AbortSignal.any: its signal lives as long as the long-lived signal that it depends on.
      const late = setTimeout(() => request.destroy(new Error(`no response within ${timeout_ms} ms`)), timeout_ms)
      request.once('close', () => clearTimeout(late))
      request.once('error', (error: NodeJS.ErrnoException) => {
        // The endpoint had closed a kept connection: no response came, so retry at once on a new connection.
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
    /** Never throws. A signal that aborts ends it with an error. */
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
