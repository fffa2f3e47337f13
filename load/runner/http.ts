/**
 * The parts of `k6/http` that the scripts use. Invariant: a sent request is counted once, with the status of its answer
 * or with 0; requests of an iteration whose time is over are not counted.
 */
import { Agent, type IncomingMessage, type RequestOptions, request as requestHttp } from 'node:http'
import { request as requestHttps, Agent as SecureAgent } from 'node:https'
import type { Socket } from 'node:net'
import { running } from './iteration.ts'
import { record, register, type Tags } from './metrics.ts'
import { secondsOf } from './scenarios.ts'

interface Expected {
  readonly expects: (status: number) => boolean
}
interface Params {
  headers?: Record<string, string>
  tags?: Record<string, string>
  timeout?: string | number
  responseType?: 'text' | 'none'
  responseCallback?: Expected
}
type Timings = Record<'blocked' | 'connecting' | 'sending' | 'waiting' | 'receiving' | 'duration', number>

const PARAMS = ['headers', 'tags', 'timeout', 'responseType', 'responseCallback']
const METRICS = {
  reqs: register('http_reqs', 'counter'),
  failed: register('http_req_failed', 'rate'),
  duration: register('http_req_duration', 'trend', true),
  blocked: register('http_req_blocked', 'trend', true),
  connecting: register('http_req_connecting', 'trend', true),
  sending: register('http_req_sending', 'trend', true),
  waiting: register('http_req_waiting', 'trend', true),
  receiving: register('http_req_receiving', 'trend', true),
  sent: register('data_sent', 'counter'),
  received: register('data_received', 'counter'),
}
/** Time limit of a request in seconds, as in k6. */
const TIMEOUT_S = 60
/** k6's error codes: of any error without its own code, and of a timeout. */
const ERROR = 1000
const ERROR_TIMEOUT = 1050

const plain = new Agent({ keepAlive: true })
const secure = new SecureAgent({ keepAlive: true })
/** connection → bytes already counted: [read, written] */
const counted = new WeakMap<Socket, [number, number]>()

/** Callback for every answer, called when it arrives. */
export const watch: { answered(status: number, ms: number, failed: boolean): void } = { answered() {} }

export function expectedStatuses(...wanted: (number | { min: number; max: number })[]): Expected {
  return {
    expects: (status) =>
      wanted.some((one) => (typeof one === 'number' ? one === status : one.min <= status && status <= one.max)),
  }
}

let callback = expectedStatuses({ min: 200, max: 399 })

export function setResponseCallback(expected: Expected): void {
  callback = expected
}

class Response {
  readonly url: string
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
  readonly error: string
  readonly error_code: number
  readonly timings: Timings
  constructor(answer: Omit<Response, 'json'>) {
    this.url = answer.url
    this.status = answer.status
    this.headers = answer.headers
    this.body = answer.body
    this.error = answer.error
    this.error_code = answer.error_code
    this.timings = answer.timings
  }
  /** `selector`: names and indices, separated by dots */
  json(selector?: string): unknown {
    const whole = JSON.parse(this.body ?? '') as unknown
    if (selector === undefined) return whole
    return selector.split('.').reduce((at, key) => (at as Record<string, unknown> | undefined)?.[key], whole)
  }
}

export async function asyncRequest(method: string, url: string, body?: string | null, params: Params | null = {}) {
  const said = params ?? {}
  const unknown = Object.keys(said).filter((key) => !PARAMS.includes(key))
  if (unknown.length > 0) throw new TypeError(`requests of this runner do not know ${unknown.join(', ')}`)
  if (typeof (body ?? '') !== 'string') throw new TypeError('a body is a string in this runner')
  const iteration = running.getStore()
  const { answer, socket } = await send(method, url, body ?? undefined, said)
  // The iteration's time is over: it never continues, and is not counted.
  if (iteration?.interrupted) return await new Promise<never>(() => {})
  const { expects } = said.responseCallback ?? callback
  count(answer, socket, {
    ...said.tags,
    name: said.tags?.name ?? url,
    url,
    method,
    status: String(answer.status),
    expected_response: String(expects(answer.status)),
  })
  watch.answered(answer.status, answer.timings.duration, !expects(answer.status))
  return answer
}

function count({ timings }: Response, socket: Socket | undefined, tags: Tags): void {
  record(METRICS.reqs, 1, tags)
  record(METRICS.failed, tags.expected_response === 'true' ? 0 : 1, tags)
  for (const [name, ms] of Object.entries(timings)) record(METRICS[name as keyof Timings], ms, tags)
  if (!socket) return
  const [read, written] = counted.get(socket) ?? [0, 0]
  record(METRICS.received, socket.bytesRead - read, tags)
  record(METRICS.sent, socket.bytesWritten - written, tags)
  counted.set(socket, [socket.bytesRead, socket.bytesWritten])
}

function send(method: string, url: string, body: string | undefined, params: Params) {
  const timeout_s = params.timeout === undefined ? TIMEOUT_S : secondsOf(params.timeout)
  const https = url.startsWith('https:')
  const options: RequestOptions = {
    method,
    agent: https ? secure : plain,
    headers: { ...params.headers, ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }) },
  }
  return new Promise<{ answer: Response; socket: Socket | undefined }>((resolve) => {
    const began = performance.now()
    let [socket_at, ready, sent, first] = [began, 0, 0, 0]
    let socket: Socket | undefined
    let timed_out = false
    const request = (https ? requestHttps : requestHttp)(url, options)
    const timer = setTimeout(() => {
      timed_out = true
      request.destroy(new Error('request timeout'))
    }, timeout_s * 1_000)

    function finish(status: number, headers: Record<string, string>, text: string | null, error?: Error) {
      clearTimeout(timer)
      const end = performance.now()
      ready ||= end
      sent = Math.max(sent || end, ready)
      first = Math.max(first || end, sent)
      const timings = {
        blocked: socket_at - began,
        connecting: ready - socket_at,
        sending: sent - ready,
        waiting: first - sent,
        receiving: end - first,
        duration: end - ready,
      }
      const error_code = error ? (timed_out ? ERROR_TIMEOUT : ERROR) : 0
      const said = error ? error.message || String((error as NodeJS.ErrnoException).code) : ''
      resolve({ socket, answer: new Response({ url, status, headers, body: text, error: said, error_code, timings }) })
    }

    request.once('socket', (one) => {
      socket = one
      socket_at = performance.now()
      const open = () => {
        ready = performance.now()
      }
      if (one.connecting) one.once(https ? 'secureConnect' : 'connect', open)
      else ready = socket_at
    })
    request.once('finish', () => {
      sent = performance.now()
    })
    request.once('error', (error) => finish(0, {}, null, error))
    request.once('response', (response: IncomingMessage) => {
      first = performance.now()
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('error', (error) => finish(0, {}, null, error))
      response.once('end', () => {
        const { statusCode = 0, headers } = response
        if (statusCode >= 301 && statusCode <= 308 && headers.location)
          return finish(0, {}, null, new Error('this runner follows no redirect'))
        const text = params.responseType === 'none' ? null : Buffer.concat(chunks).toString()
        finish(statusCode, named(headers), text)
      })
    })
    request.end(body)
  })
}

/** Returns the headers with names capitalized as in k6: `Retry-After`. */
function named(headers: IncomingMessage['headers']): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name.replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase()),
      Array.isArray(value) ? value.join(', ') : (value ?? ''),
    ]),
  )
}

export default { asyncRequest, expectedStatuses, setResponseCallback }
