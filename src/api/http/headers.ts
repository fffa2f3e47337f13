/**
 * Request headers of the contract. Invariant: a header that cannot be parsed is a 400 that names it, except Prefer, which
 * a server may ignore (RFC 7240 section 2).
 */
import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import Type from 'typebox'
import { fieldProblem } from '../../shared/problem.ts'

/** Longest wait that `Prefer: wait=N` can request, in seconds. */
const MAX_WAIT_S = 30

export const Prefer = Type.Optional(
  Type.String({
    description: `wait=N: respond once the purchase, booking or command is settled, after at most N seconds (N ≤ ${MAX_WAIT_S})`,
    examples: ['wait=10'],
  }),
)
export const Key = Type.Optional(
  Type.String({ description: 'A repeated request with the same key and body returns the row of the first request' }),
)

const header = (request: FastifyRequest, name: string): string | undefined => {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** Returns the seconds of `Prefer: wait=N`, at most MAX_WAIT_S; undefined when the header is absent or malformed. */
export function preferredWait(request: FastifyRequest): number | undefined {
  const prefer = header(request, 'prefer')
  const match = prefer === undefined ? undefined : /(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?(?=$|[,;\s])/i.exec(prefer)
  return match?.[1] === undefined ? undefined : Math.min(Number(match[1]), MAX_WAIT_S)
}

/** Returns the Idempotency-Key header, or null if it is absent. @throws Problem 400 when it is malformed */
export function idempotencyKey(request: FastifyRequest): string | null {
  const key = header(request, 'idempotency-key')
  if (key === undefined) return null
  if (!/^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$/.test(key)) {
    throw fieldProblem('Idempotency-Key', 'must be 1 to 255 printable ASCII characters')
  }
  return key
}

/** Returns the scope of an Idempotency-Key: the same key on another route, or from another caller, is another key. */
export function idempotencyScope(request: FastifyRequest, route: string): string {
  return createHash('sha256').update(`${route}\n${request.caller}`).digest('base64url').slice(0, 22)
}

/** Returns the versions that If-Match names; '*' for any; undefined without the header. An ETag is written as `"3"`. */
export function ifMatch(request: FastifyRequest): Set<number> | '*' | undefined {
  const value = header(request, 'if-match')?.trim()
  if (value === undefined) return undefined
  if (value === '*') return '*'
  const tags = value.split(',').map((tag) => /^(?:"(\d{1,15})"|(\d{1,15}))$/.exec(tag.trim()))
  if (tags.some((tag) => tag === null)) throw fieldProblem('If-Match', 'must be an ETag of this resource, as in "3"')
  return new Set(tags.map((tag) => Number(tag?.[1] ?? tag?.[2])))
}
