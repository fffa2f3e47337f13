/**
 * Bodies and their validation. Invariant: a request that reaches a handler matches the schemas of its route; a refused request
 * gets an error that names the first wrong field.
 */
import { Ajv, type ErrorObject } from 'ajv'
import type { DataValidationCxt } from 'ajv/dist/types/index.js'
import addFormats from 'ajv-formats'
import type { FastifyError, FastifyInstance } from 'fastify'
import { type FieldError, fieldProblem } from '../../shared/problem.ts'
import { IDENTIFIER, isIdentifier, isPlainText, NFC, PLAIN_TEXT, WORDS } from '../http/schemas.ts'
import { compileOnce } from './compile-once.ts'

/** Maximum size of a body, in bytes: a purchase of 100 items with the longest references takes a tenth of it. */
export const BODY_LIMIT = 256 * 1024

/** Values in a body are not coerced: "2" is not a number there. Parameters are text, so "2" is coerced to 2. */
export function compileValidators(app: FastifyInstance): void {
  const options = { allErrors: false, discriminator: true, useDefaults: true, strict: false }
  const body = new Ajv({ ...options, coerceTypes: false })
  const text = new Ajv({ ...options, coerceTypes: true })
  for (const ajv of [body, text]) {
    addFormats.default(ajv).addFormat(PLAIN_TEXT, isPlainText).addFormat(IDENTIFIER, isIdentifier)
    ajv.addKeyword({ keyword: NFC, type: 'string', modifying: true, validate: normalize, errors: false })
  }
  const compileBody = compileOnce(({ schema }) => body.compile(schema as object))
  const compileText = compileOnce(({ schema }) => text.compile(schema as object))
  app.setValidatorCompiler((route) => (route.httpPart === 'body' ? compileBody : compileText)(route))
}

function normalize(_schema: boolean, text: string, _parent?: object, context?: DataValidationCxt): boolean {
  const { parentData, parentDataProperty } = context ?? {}
  if (parentData && parentDataProperty !== undefined) parentData[parentDataProperty] = text.normalize('NFC')
  return true
}

/**
 * Registers the parser of bodies. It treats an empty body as absent, even if curl labels it JSON, because some commands take
 * no body. It refuses a compressed body.
 */
export function parseBodies(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers, method }, reply) => {
    const { 'content-encoding': encoding = 'identity' } = headers
    if (encoding.toLowerCase() === 'identity' || method === 'GET' || method === 'HEAD') return
    reply.header('accept-encoding', 'identity')
    const detail = `is ${encoding}: send the body without compression`
    throw fieldProblem('Content-Encoding', detail, 415, 'unsupported_media_type')
  })
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser(['application/json', 'text/plain'])
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined)
    else void parse(request, body as string, done)
  })
}

/** Converts a JSON pointer such as `/lines/0/units` to `lines[0].units`. */
const fieldOf = ({ instancePath, params, keyword }: ErrorObject, context: string): string => {
  const path = instancePath
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  if (keyword === 'required') path.push(params.missingProperty)
  if (keyword === 'additionalProperties') path.push(params.additionalProperty)
  if (keyword === 'discriminator') path.push(params.tag)
  const field = path.reduce((all, part) => (/^\d+$/.test(part) ? `${all}[${part}]` : all ? `${all}.${part}` : part), '')
  return field || context
}

/** Returns the wrong fields of a request that its schema refused, each field once. */
export function fieldErrors(error: FastifyError): FieldError[] {
  const found = (error.validation as unknown as ErrorObject[])
    .filter(({ keyword }) => keyword !== 'if')
    .map((one) => {
      const field = fieldOf(one, error.validationContext ?? 'body')
      if (one.keyword === 'additionalProperties') return { field, detail: 'is not a known field' }
      if (one.keyword === 'format' && one.params.format === PLAIN_TEXT) {
        return { field, detail: 'must not contain NUL or half of a surrogate pair' }
      }
      if (one.keyword === 'format' && one.params.format === IDENTIFIER) {
        return { field, detail: 'must not contain control or invisible characters, nor begin or end with white space' }
      }
      const words = WORDS[one.params.pattern ?? one.params.format]
      if (words) return { field, detail: `must be ${words}` }
      if (one.keyword === 'pattern') return { field, detail: 'does not have the required format' }
      // `not` has only one use in the schemas; test/api/field-messages.test.ts checks that.
      if (one.keyword === 'not') return { field, detail: 'must not be 0' }
      if (one.keyword === 'const') return { field, detail: `must be ${one.params.allowedValue}` }
      if (one.keyword === 'required') return { field, detail: 'is missing' }
      if (one.keyword === 'discriminator') return { field, detail: 'is not one of the known kinds' }
      if (one.keyword === 'enum') return { field, detail: `must be one of ${one.params.allowedValues.join(', ')}` }
      return { field, detail: one.message ?? 'is not valid' }
    })
  return [...new Map(found.map((one) => [one.field, one])).values()]
}
