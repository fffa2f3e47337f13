/**
 * Errors as problems. Invariant: the API answers every error as a problem, including an error that Node raises before a route
 * is chosen, and an error of the client is never a 5xx.
 */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { UnavailableError } from '../../shared/breaker.ts'
import { LeaseLostError, LockBusyError } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { fieldProblem, Problem, problemBody, sendProblem } from '../../shared/problem.ts'
import { lockBusy } from '../http/lock-problems.ts'
import { BODY_LIMIT, fieldErrors } from './validation.ts'

/** `onUnavailable`: called for each response with a status above 500; a 500 is logged as an error instead. */
export function answerErrors(app: FastifyInstance, log: Log, onUnavailable: () => void): void {
  app.setErrorHandler((error, request, reply) => {
    const problem = toProblem(error)
    // Log the route without its query: a query may name a customer.
    const { url = request.url } = request.routeOptions
    if (problem.status === 500) log.error({ error, method: request.method, url }, 'request failed')
    else log.debug({ error, method: request.method, url }, 'request refused')
    if (problem.status > 500) onUnavailable()
    if (problem.status === 413) readRest(request, reply)
    return sendProblem(problem, request, reply)
  })
}

/**
 * Reads and drops the rest of a body that is too large, for requestTimeout at most. Fastify would close the connection; a
 * client that is still sending would then get a reset and lose the answer.
 */
function readRest({ raw }: FastifyRequest, reply: FastifyReply): void {
  reply.removeHeader('connection')
  raw.resume()
}

/** Returns the problem for an error. This is the only place that maps errors to problems. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof UnavailableError) {
    return new Problem(503, 'unavailable', `${error.dependency} does not answer. Nothing was lost; try again.`, {
      retry_after: 1,
    })
  }
  if (error instanceof LockBusyError) return lockBusy(error)
  if (error instanceof LeaseLostError) {
    return new Problem(503, 'lease_lost', 'The lease was lost during the request; nothing was written.', {
      retry_after: 1,
    })
  }
  const { validation, code, statusCode = 500, message } = error as FastifyError
  if (validation) {
    const errors = fieldErrors(error as FastifyError)
    const detail = errors.map((one) => `${one.field} ${one.detail}`).join('; ')
    return new Problem(400, 'invalid_request', detail, { errors })
  }
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new Problem(413, 'body_too_large', `The body is larger than ${BODY_LIMIT} bytes.`, {
      errors: [{ field: 'body', detail: `is larger than ${BODY_LIMIT} bytes` }],
    })
  }
  if (code === 'FST_ERR_BAD_URL') return fieldProblem('path', 'is not a valid percent-encoding')
  if (statusCode >= 400 && statusCode < 500) {
    const field = statusCode === 415 ? 'Content-Type' : 'body'
    const named = statusCode === 400 || statusCode === 415 ? { errors: [{ field, detail: message }] } : {}
    return new Problem(statusCode, CODES[statusCode] ?? 'bad_request', message, named)
  }
  return new Problem(500, 'internal_error', 'Internal server error. The error has been logged.')
}

const CODES: Record<number, string> = { 400: 'invalid_request', 404: 'not_found', 415: 'unsupported_media_type' }

/** Answers a request that Node could not parse: there is no route and no reply, only the socket. */
export function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  const [status, code, detail] = UNREADABLE[error.code ?? ''] ?? [400, 'invalid_request', 'Malformed HTTP request.']
  const body = JSON.stringify(problemBody(new Problem(status, code, detail), '/'))
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  if (socket.writable) socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
  socket.destroy(error)
}
const UNREADABLE: Record<string, [number, string, string]> = {
  HPE_HEADER_OVERFLOW: [431, 'headers_too_large', 'The headers are larger than 16 KiB.'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'request_timeout', 'The request took too long to arrive.'],
}
