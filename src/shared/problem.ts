/**
 * Errors as RFC 9457 problems: `application/problem+json` with type, title, status, detail, instance, and a stable
 * `code` and `retryable`. Invariant: `code` never changes its meaning; `detail` is for people and may change.
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'

export interface FieldError {
  /** path in the body (`lines[0].units`), or the name of a header, path or query parameter */
  field: string
  detail: string
}

export interface ProblemExtras {
  errors?: FieldError[]
  /** seconds after which a retry may succeed; also sent as Retry-After */
  retry_after?: number
  [extra: string]: unknown
}

export class Problem extends Error {
  readonly status: number
  readonly code: string
  readonly retryable: boolean
  readonly extras: ProblemExtras
  constructor(status: number, code: string, detail: string, extras: ProblemExtras = {}) {
    super(detail)
    this.status = status
    this.code = code
    this.retryable = extras.retry_after !== undefined
    this.extras = extras
  }
}

/** Returns the problem for a request that this process cannot finish because it is shutting down; another process can. */
export const stopping = () =>
  new Problem(503, 'stopping', 'This process is stopping. Nothing was done; try again.', { retry_after: 1 })

export const adminRequired = () => new Problem(403, 'admin_required', 'This route requires a key of ADMIN_KEYS.')

export const reusedKey = () =>
  new Problem(422, 'idempotency_key_reused', 'This Idempotency-Key was used with another body.', {
    errors: [{ field: 'Idempotency-Key', detail: 'was used with another body' }],
  })

/** Returns a problem that names one wrong field; its status is 400 by default. */
export const fieldProblem = (field: string, detail: string, status = 400, code = 'invalid_request') =>
  new Problem(status, code, `${field} ${detail}`, { errors: [{ field, detail }] })

/** Returns the response body of a problem. `instance` is the request's path. */
export function problemBody(problem: Problem, instance: string) {
  return {
    type: `urn:holdfast:problem:${problem.code}`,
    title: STATUS_CODES[problem.status] ?? 'Error',
    status: problem.status,
    detail: problem.message,
    instance,
    code: problem.code,
    retryable: problem.retryable,
    ...problem.extras,
  }
}

/** Sends a problem with the headers that belong to it. */
export function sendProblem(problem: Problem, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (problem.extras.retry_after !== undefined) reply.header('retry-after', problem.extras.retry_after)
  if (problem.status === 401 && !reply.hasHeader('www-authenticate')) reply.header('www-authenticate', 'Bearer')
  const [instance = '/'] = request.url.split('?')
  return reply.code(problem.status).type('application/problem+json').send(problemBody(problem, instance))
}

export const ProblemSchema = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    instance: Type.String(),
    code: Type.String({ description: 'Stable and machine-readable.' }),
    retryable: Type.Boolean({ description: 'The same request may succeed later.' }),
    errors: Type.Optional(Type.Array(Type.Object({ field: Type.String(), detail: Type.String() }))),
    retry_after: Type.Optional(Type.Integer({ description: 'Seconds; also in the Retry-After header.' })),
  },
  { $id: 'Problem', additionalProperties: true },
)
