/**
 * What the routes share: schema pieces, headers, cursors. Invariant: a header or parameter that cannot be understood
 * is a 400 that names it, except preferences, which HTTP lets a server ignore (RFC 7240 §2).
 */
import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import Type, { type TSchema } from 'typebox'
import { badField, Problem, problemBody } from '../shared/problem.ts'
import { ID_PATTERN, REF_PATTERN, TYPE_PATTERN } from '../shared/resource.ts'
import { forbidden } from './auth.ts'

/** Seconds that Prefer: wait may ask for. */
const MAX_WAIT_S = 30
/** Rows of one page. */
const MAX_LIMIT = 100

export const ACCOUNT_PATTERN = `^account:${ID_PATTERN}$`
export const CURRENCY_PATTERN = '^[A-Za-z]{3}$'
export const LEASE_ID_PATTERN = '^[A-Za-z0-9_-]+$'
export const TOKEN_PATTERN = '^[\\x21-\\x7e]+$'

/** Format of text that Postgres stores as it is: it has no NUL and no half of a surrogate pair. */
export const PLAIN_TEXT = 'plain-text'
export const isPlainText = (text: string) => !text.includes('\0') && !/\p{Surrogate}/u.test(text)

/**
 * Format of what is compared or counted: a customer, a rider, a lock's owner. What is not seen would make two of one, so it
 * is refused: control characters, every character that has no glyph of its own (zero width, bidirectional controls,
 * variation selectors), and white space outside.
 */
export const IDENTIFIER = 'identifier'
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|^\p{White_Space}|\p{White_Space}$/u
export const isIdentifier = (text: string) => isPlainText(text) && !UNSEEN.test(text)
/** Keyword by which the validator replaces a text by its Unicode NFC, so that whatever reads it compares letters. */
export const NFC = 'x-nfc'
export const IdentifierText = {
  maxLength: 200,
  format: IDENTIFIER,
  [NFC]: true,
  description: 'Compared in Unicode NFC; no control or invisible characters, no white space outside',
}
export const Identifier = (options: { description?: string } = {}) =>
  Type.String({ minLength: 1, ...IdentifierText, ...options })

export const Nullable = <T extends TSchema>(schema: T) =>
  Type.Unsafe<Type.Static<T> | null>({ ...schema, type: [(schema as unknown as { type: string }).type, 'null'] })

export const Ref = (examples: string[], description = '`type:id`') =>
  Type.String({ pattern: REF_PATTERN, maxLength: 161, description, examples })

export const Time = Type.String({ format: 'date-time' })

export const ResourceParams = Type.Object({
  type: Type.String({ pattern: `^${TYPE_PATTERN}$`, examples: ['product'] }),
  id: Type.String({ pattern: `^${ID_PATTERN}$`, examples: ['1'] }),
})

// The pattern beside the format: Ajv's also takes `urn:uuid:…`, which Postgres does not.
const UUID_PATTERN = '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
export const IdParams = (example: string) =>
  Type.Object({ id: Type.String({ format: 'uuid', pattern: UUID_PATTERN, examples: [example] }) })

const A_UUID = 'a UUID, for example 01935f5e-0000-7000-8000-000000000001'
/** Pattern or format of a schema → what a caller is told who sends something else: an example says more than the pattern. */
export const WORDS: Readonly<Record<string, string>> = {
  [REF_PATTERN]: 'type:id, for example product:1',
  [`^${TYPE_PATTERN}$`]: 'lower-case letters, digits, _ and -, 32 at most, a letter first, for example product',
  [`^${ID_PATTERN}$`]: 'letters, digits, and . _ ~ - after the first, 128 at most, for example 42 or summer-2027',
  [ACCOUNT_PATTERN]: 'an account as account:id, for example account:7',
  [CURRENCY_PATTERN]: 'a currency of three letters, for example USD',
  [LEASE_ID_PATTERN]: 'a lease_id as it was given out: letters, digits, _ and -, for example bGVhc2U_MQ-',
  [TOKEN_PATTERN]: 'printable ASCII without spaces, for example tok_visa',
  [UUID_PATTERN]: A_UUID,
  uuid: A_UUID,
  'date-time': 'a time with its offset, for example 2030-06-01T15:00:00+02:00',
}

export const Prefer = Type.Optional(
  Type.String({
    description: `wait=N: answer when settled, at most N seconds (N ≤ ${MAX_WAIT_S})`,
    examples: ['wait=10'],
  }),
)
export const Key = Type.Optional(Type.String({ description: 'The same key and body give the same row, once' }))

export const pageQuery = <T extends Record<string, TSchema>>(filters: T) =>
  Type.Object(
    {
      ...filters,
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_LIMIT, default: 20 })),
      cursor: Type.Optional(Type.String({ maxLength: 400, description: 'next_cursor of the page before' })),
    },
    { additionalProperties: false },
  )

export const page = (items: TSchema) => Type.Object({ data: Type.Array(items), next_cursor: Nullable(Type.String()) })

export const REPLAYED = 'idempotent-replayed'
const HEADERS = {
  etag: Type.String({ description: 'The version, for If-Match' }),
  location: Type.String({ description: 'Where it is from now on' }),
  'retry-after': Type.Integer({ description: 'Seconds after which asking again makes sense' }),
  'preference-applied': Type.String({ description: 'The wait that was taken into account' }),
  'idempotent-replayed': Type.String({ description: 'true: an earlier request with this key did it' }),
}

/** A response in the document: what it means, and the headers it may carry. */
export const answers = <T extends TSchema>(schema: T, description: string, ...names: (keyof typeof HEADERS)[]) => {
  const headers = Object.fromEntries(names.map((name) => [name, HEADERS[name]]))
  return Type.Unsafe<Type.Static<T>>({ ...schema, description, ...(names.length > 0 ? { headers } : {}) })
}

const UNITS = { errors: [{ field: 'lines[0].units', detail: 'must be >= 1' }] }
/** status → what it means, and the problem that the document shows for it. */
const PROBLEMS: Record<number, [description: string, example: Problem]> = {
  400: [
    'The request is malformed; `errors` names the fields',
    new Problem(400, 'invalid_request', 'lines[0].units must be >= 1', UNITS),
  ],
  401: ['No valid API key', new Problem(401, 'unauthorized', 'Send an API key.')],
  402: ['The payment failed', new Problem(402, 'payment_declined', 'The purchase failed: payment_declined.')],
  403: ['The API key is not good for this', forbidden()],
  404: ['Not found', new Problem(404, 'not_found', 'There is no resource product:9.')],
  409: ['The state does not allow it; `code` says why', new Problem(409, 'conflict', 'The state does not allow it.')],
  410: ['The lease has ended', new Problem(410, 'lease_lost', 'The lease is lost: expired.')],
  412: ['If-Match names another version', new Problem(412, 'stale_version', 'product:1 is at version 3.')],
  413: ['The body is too large', new Problem(413, 'body_too_large', 'The body is larger than 262144 bytes.')],
  415: ['The body is not JSON, or is compressed', new Problem(415, 'unsupported_media_type', 'Unsupported Media Type')],
  422: [
    'Understood, but it contradicts what is stored',
    new Problem(422, 'idempotency_key_reused', 'This Idempotency-Key was used with another body.'),
  ],
  428: ['If-Match is missing', new Problem(428, 'if_match_required', 'product:1 exists: send its ETag in If-Match.')],
  429: [
    'More requests a second than RATE_LIMIT; Retry-After says when',
    new Problem(429, 'rate_limited', 'More than 100 requests a second.', { retry_after: 1 }),
  ],
  500: ['A fault of the server', new Problem(500, 'internal_error', 'A fault of the server; it was logged.')],
  503: [
    'Postgres or this process cannot take it now; Retry-After says when',
    new Problem(503, 'unavailable', 'postgres does not answer.', { retry_after: 1 }),
  ],
}

/** Responses of these statuses (or of these examples) as problems; the other five can come from every route. */
export function problems(...wanted: (number | Problem)[]) {
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

const header = (request: FastifyRequest, name: string): string | undefined => {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** Seconds asked for by `Prefer: wait=N`, at most MAX_WAIT_S; undefined when not asked for or not understood. */
export function preferredWait(request: FastifyRequest): number | undefined {
  const prefer = header(request, 'prefer')
  const match = prefer === undefined ? undefined : /(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?(?=$|[,;\s])/i.exec(prefer)
  return match?.[1] === undefined ? undefined : Math.min(Number(match[1]), MAX_WAIT_S)
}

/** The Idempotency-Key header, or null. */
export function idempotencyKey(request: FastifyRequest): string | null {
  const key = header(request, 'idempotency-key')
  if (key === undefined) return null
  if (!/^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$/.test(key)) {
    throw badField('Idempotency-Key', 'must be 1 to 255 printable ASCII characters')
  }
  return key
}

/** Keys are scoped to the caller and the route: the same key elsewhere is another key. */
export function idempotencyScope(request: FastifyRequest, route: string): string {
  return createHash('sha256').update(`${route}\n${request.caller}`).digest('base64url').slice(0, 22)
}

/** Versions named by If-Match; '*' for any; undefined without the header. Tags are compared as written by us: `"3"`. */
export function ifMatch(request: FastifyRequest): Set<number> | '*' | undefined {
  const value = header(request, 'if-match')?.trim()
  if (value === undefined) return undefined
  if (value === '*') return '*'
  const tags = value.split(',').map((tag) => /^(?:"(\d{1,15})"|(\d{1,15}))$/.exec(tag.trim()))
  if (tags.some((tag) => tag === null)) throw badField('If-Match', 'must be an ETag of this resource, as in "3"')
  return new Set(tags.map((tag) => Number(tag?.[1] ?? tag?.[2])))
}

/**
 * The cursors of one list with its filters. A cursor carries a digest of both, so that it goes on in that list alone: in
 * another it would skip rows in silence. `pattern`: of what an item is found by.
 */
export function cursors(list: string, filters: Readonly<Record<string, unknown>>, pattern: RegExp) {
  const named = Object.entries(filters).filter(([, value]) => value !== undefined)
  const whole = JSON.stringify([list, named.sort(([a], [b]) => (a < b ? -1 : 1))])
  const digest = createHash('sha256').update(whole).digest('base64url').slice(0, 8)
  const write = (after: string) => Buffer.from(`${digest}${after}`).toString('base64url')
  return {
    write,
    /** What the item before was found by; undefined without a cursor. @throws Problem 400 */
    read(cursor: string | undefined): string | undefined {
      if (cursor === undefined) return undefined
      const text = Buffer.from(cursor, 'base64url').toString()
      const after = text.slice(digest.length)
      if (!text.startsWith(digest) || !pattern.test(after) || write(after) !== cursor) {
        throw badField('cursor', 'is not a cursor of this list with these filters')
      }
      return after
    },
  }
}

export const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Postgres's text form of a timestamp as RFC 3339. */
export const iso = (at: string) => new Date(at).toISOString()
