/**
 * Calls an API and compares each answer with openapi.json. Invariant: an answer whose status, media type, headers or
 * body is not in the document fails the test that sent the request.
 */
import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { IDENTIFIER, isIdentifier, isPlainText, PLAIN_TEXT } from '../../src/api/http/schemas.ts'

type Json = null | boolean | number | string | Json[] | { [key: string]: Json | undefined }
type Method = 'get' | 'put' | 'post' | 'delete'

interface Parameter {
  in: 'path' | 'query' | 'header'
  name: string
  required: boolean
  example?: string
  schema: { default?: string | number; [keyword: string]: unknown }
}
export interface Operation {
  operationId: string
  tags: string[]
  parameters?: Parameter[]
  requestBody?: { content: { 'application/json': { schema: object; example: Json } } }
  responses: Record<
    string,
    { description: string; headers?: object; content?: Record<string, { schema: object; example?: Json }> }
  >
}
export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  body: any
}

export const document = JSON.parse(readFileSync(new URL('../../openapi.json', import.meta.url), 'utf8')) as {
  paths: Record<string, Partial<Record<Method, Operation>>>
}

/** Every operation with its path and method, as Swagger UI lists them. */
export const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method as Method, operation })),
)

const ajv = new Ajv2020({ strict: false, allErrors: true })
addFormats.default(ajv).addFormat(PLAIN_TEXT, isPlainText).addFormat(IDENTIFIER, isIdentifier)
ajv.addSchema(document, 'openapi')

/** Returns the validator of the schema at one place in the document. */
export function schemaAt(...path: string[]) {
  const pointer = path.map((key) => encodeURIComponent(key.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/')
  const found = ajv.getSchema(`openapi#/${pointer}`)
  if (!found) throw new Error(`openapi.json has no ${path.join(' ')}`)
  return (value: unknown): string => (found(value) ? '' : ajv.errorsText(found.errors))
}

function find(method: string, url: string) {
  const path = url.split('?')[0] ?? ''
  return operations.find(
    (one) => one.method === method.toLowerCase() && new RegExp(`^${one.path.replace(/\{\w+\}/g, '[^/]+')}$`).test(path),
  )
}

const PROBLEM_MEMBERS = ['type', 'title', 'status', 'detail', 'instance', 'code', 'retryable'] as const

/** Returns the fault of an answer with status 400 or above as a problem (RFC 9457), or '' if it has none. */
export function faultOfProblem(status: number, media: string | null | undefined, body: Answer['body'], url: string) {
  if (!/^application\/problem\+json\b/.test(media ?? '')) return `media type is ${media}`
  const missing = PROBLEM_MEMBERS.filter((member) => body?.[member] === undefined)
  if (missing.length > 0) return `has no ${missing.join(', ')}`
  if (body.status !== status) return `says status ${body.status}`
  if (body.type !== `urn:holdfast:problem:${body.code}`) return `has type ${body.type} and code ${body.code}`
  if (body.instance !== url.split('?')[0]) return `says instance ${body.instance}`
  if (body.detail === '' || body.title === '') return 'says nothing'
  return schemaAt('components', 'schemas', 'Problem')(body)
}

/**
 * Returns the fault of an answer by openapi.json, or '' if it has none. A path without an operation must be answered
 * 404.
 */
export function faultOf(method: string, url: string, answer: Answer): string {
  const { status, headers, body } = answer
  const media = headers.get('content-type')?.split(';')[0] ?? ''
  const found = find(method, url)
  // Health and the refusals of the lab's tutorials have their own shapes.
  const own = found?.operation.responses[status]?.content?.['application/json'] && media === 'application/json'
  if (status >= 400 && !own) {
    const fault = faultOfProblem(status, media, body, url)
    if (fault) return fault
  }
  if (!found) return status >= 400 ? '' : 'no operation of this path'
  const response = found.operation.responses[status]
  if (!response) return `${found.operation.operationId} does not document ${status}`
  if (!response.content) return body === '' ? '' : `${found.operation.operationId} ${status} documents no body`
  if (!response.content[media]) return `${found.operation.operationId} ${status} does not document ${media}`
  for (const name of ['etag', 'location', 'preference-applied', 'idempotent-replayed']) {
    if (status < 300 && headers.has(name) && !Object.hasOwn(response.headers ?? {}, name))
      return `does not document ${name}`
  }
  return schemaAt('paths', found.path, found.method, 'responses', String(status), 'content', media, 'schema')(body)
}

export interface Request {
  body?: unknown
  /** the body as text, sent unchanged instead of `body` */
  raw?: string
  headers?: Record<string, string>
}

/** Returns `call(method, path)` for one API. It throws if the answer differs from openapi.json. */
export function contract(base: string) {
  return async (method: string, path: string, { body, raw, headers = {} }: Request = {}): Promise<Answer> => {
    const text = raw ?? (body === undefined ? undefined : JSON.stringify(body))
    const url = new URL(path, base)
    const response = await fetch(url, {
      method,
      headers: { ...(text === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...(text === undefined ? {} : { body: text }),
      redirect: 'manual',
    })
    const got = await response.text()
    const json = /json/.test(response.headers.get('content-type') ?? '')
    const answer = { status: response.status, headers: response.headers, body: json ? JSON.parse(got) : got }
    const fault = faultOf(method, url.pathname, answer)
    if (fault) throw new Error(`${method} ${path} → ${answer.status} ${got.slice(0, 500)}: ${fault}`)
    return answer
  }
}
