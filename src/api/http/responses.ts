/** Builds the OpenAPI responses of a route: headers, statuses, and a problem for each error status. */
import Type, { type TSchema } from 'typebox'
import { adminRequired, Problem, problemBody } from '../../shared/problem.ts'

export const REPLAYED = 'idempotent-replayed'
const HEADERS = {
  etag: Type.String({ description: 'The version, for If-Match' }),
  location: Type.String({ description: 'Path of the created row' }),
  'retry-after': Type.Integer({ description: 'Seconds after which to retry or poll again' }),
  'preference-applied': Type.String({ description: 'The wait that the server applied' }),
  'idempotent-replayed': Type.String({ description: 'true: the answer to an earlier request with this key' }),
}

/** Returns a response of the OpenAPI document: its schema, its meaning, and the headers that it may carry. */
export const response = <T extends TSchema>(schema: T, description: string, ...names: (keyof typeof HEADERS)[]) => {
  const headers = Object.fromEntries(names.map((name) => [name, HEADERS[name]]))
  return Type.Unsafe<Type.Static<T>>({ ...schema, description, ...(names.length > 0 ? { headers } : {}) })
}

const UNITS = { errors: [{ field: 'lines[0].units', detail: 'must be >= 1' }] }
/** status → its meaning, and the problem that the OpenAPI document shows as an example. */
const PROBLEMS: Record<number, [description: string, example: Problem]> = {
  400: [
    'The request is malformed; `errors` names the first wrong field',
    new Problem(400, 'invalid_request', 'lines[0].units must be >= 1', UNITS),
  ],
  401: ['No valid API key', new Problem(401, 'unauthorized', 'Send an API key.')],
  402: ['The payment failed', new Problem(402, 'payment_declined', 'The purchase failed: payment_declined.')],
  403: ['The API key lacks the required scope', adminRequired()],
  404: ['Not found', new Problem(404, 'not_found', 'There is no resource product:9.')],
  409: ['The state does not allow it; `code` says why', new Problem(409, 'conflict', 'The state does not allow it.')],
  410: ['The lease has ended', new Problem(410, 'lease_lost', 'The lease is lost: expired.')],
  412: ['If-Match names another version', new Problem(412, 'stale_version', 'product:1 is at version 3.')],
  413: ['The body is too large', new Problem(413, 'body_too_large', 'The body is larger than 262144 bytes.')],
  415: ['The body is not JSON, or is compressed', new Problem(415, 'unsupported_media_type', 'Unsupported Media Type')],
  422: [
    'Well-formed, but it contradicts stored data',
    new Problem(422, 'idempotency_key_reused', 'This Idempotency-Key was used with another body.'),
  ],
  428: ['If-Match is missing', new Problem(428, 'if_match_required', 'product:1 exists: send its ETag in If-Match.')],
  429: [
    'More requests per second than RATE_LIMIT; Retry-After says when to retry',
    new Problem(429, 'rate_limited', 'More than 100 requests per second.', { retry_after: 1 }),
  ],
  500: [
    'Internal server error',
    new Problem(500, 'internal_error', 'Internal server error. The error has been logged.'),
  ],
  503: [
    'Postgres or this process cannot serve the request now; Retry-After says when to retry',
    new Problem(503, 'unavailable', 'postgres does not answer.', { retry_after: 1 }),
  ],
}

/** Returns the problem responses for these statuses (or examples), and for the five statuses that every route can answer. */
export function problemResponses(...wanted: (number | Problem)[]) {
  const entries = [...wanted, 401, 403, 429, 500, 503].map((one) => {
    const status = typeof one === 'number' ? one : one.status
    const [description, common] = PROBLEMS[status] ?? ['Problem', new Problem(status, 'problem', 'Problem')]
    const example = problemBody(typeof one === 'number' ? common : one, '/api/…')
    const headers = status === 429 || status === 503 ? { headers: { 'retry-after': HEADERS['retry-after'] } } : {}
    const content = { 'application/problem+json': { schema: Type.Ref('Problem'), example } }
    return [status, { description, ...headers, content }]
  })
  return Object.fromEntries(entries) as Record<number, TSchema>
}
