/** Messages for a refused value: a description and an example, never a regular expression. */
import t from 'tap'
import { openWorld } from '../support/environment.ts'
import { contract, document, operations } from '../support/openapi-contract.ts'

interface Schema {
  type?: string | string[]
  properties?: Record<string, Schema>
  required?: string[]
  items?: Schema
  oneOf?: Schema[]
  anyOf?: Schema[]
  pattern?: string
  format?: string
  const?: unknown
  enum?: unknown[]
  examples?: unknown[]
  minimum?: number
  not?: object
}
type Change = (schema: Schema, at: string) => unknown

/** Returns a valid value: the first of each choice, and of each object the required and the named members. */
function sample(schema: Schema, at = '', change: Change = () => undefined): unknown {
  const changed = change(schema, at)
  if (changed !== undefined) return changed
  const [choice] = schema.oneOf ?? schema.anyOf ?? []
  if (choice) return sample(choice, at, change)
  if (schema.const !== undefined) return schema.const
  if (schema.enum) return schema.enum[0]
  if (schema.properties) {
    const members = Object.entries(schema.properties).map(([name, one]) => [name, sample(one, `${at}.${name}`, change)])
    return Object.fromEntries(members)
  }
  if (schema.items) return [sample(schema.items, `${at}[0]`, change)]
  if (schema.examples) return schema.examples[0]
  if (schema.type === 'integer' || schema.type === 'number') return schema.minimum ?? 1
  if (schema.type === 'boolean') return true
  return 'a'
}

/** Returns a schema without choices for every choice of the schema. */
function alternatives(schema: Schema): Schema[] {
  const choices = schema.oneOf ?? schema.anyOf
  if (choices) return choices.flatMap(alternatives)
  let all: Schema[] = [schema]
  for (const [name, one] of Object.entries(schema.properties ?? {})) {
    const ways = alternatives(one)
    if (ways.length === 1 && ways[0] === one) continue
    all = all.flatMap((each) => ways.map((way) => ({ ...each, properties: { ...each.properties, [name]: way } })))
  }
  return all
}

/** A value that no pattern and no format accepts. */
const WRONG = 'é'
/** Formats with their own messages. */
const OWN = new Set(['plain-text', 'identifier'])

interface Case {
  method: string
  path: string
  body?: unknown
  name: string
  of: string
}

function* wrongParameters(): Generator<Case> {
  for (const { path, method, operation } of operations) {
    const parameters = operation.parameters ?? []
    const url = (wrong?: string) =>
      path.replaceAll(/\{(\w+)\}/g, (_, name) => {
        const one = parameters.find((parameter) => parameter.name === name)
        return encodeURIComponent(name === wrong ? WRONG : String(one?.example ?? 'a'))
      })
    for (const { in: where, name, schema } of parameters) {
      const of = (schema.pattern ?? schema.format) as string | undefined
      if (of === undefined || OWN.has(of) || where === 'header') continue
      const query = where === 'query' ? `?${name}=${encodeURIComponent(WRONG)}` : ''
      yield { method, path: `${url(where === 'path' ? name : undefined)}${query}`, name, of }
    }
  }
}

function* wrongBodies(): Generator<Case> {
  for (const { path, method, operation } of operations) {
    const body = operation.requestBody?.content['application/json']?.schema as Schema | undefined
    const url = path.replaceAll(/\{(\w+)\}/g, (_, name) =>
      encodeURIComponent(String(operation.parameters?.find((one) => one.name === name)?.example ?? 'a')),
    )
    for (const one of body ? alternatives(body) : []) {
      const places: [at: string, of: string][] = []
      sample(one, '', ({ pattern, format }, at) => {
        const of = pattern ?? format
        if (of !== undefined && !OWN.has(of)) places.push([at, of])
        return undefined
      })
      for (const [wrong, of] of places) {
        const wrongBody = sample(one, '', (_, at) => (at === wrong ? WRONG : undefined))
        yield { method, path: url, body: wrongBody, name: wrong.slice(1), of }
      }
    }
  }
}

t.test('value that violates a pattern: the problem names the field and an example, not the pattern', async (t) => {
  const world = await openWorld(t)
  const { url } = await world.startApi()
  const call = contract(url)
  const failed = new Set<string>()
  for (const { method, path, body, name, of } of [...wrongParameters(), ...wrongBodies()]) {
    const answer = await call(method.toUpperCase(), path, body === undefined ? {} : { body })
    const said = answer.body.errors?.[0]
    const what = `${method} ${path} ${name}: ${said?.detail}`
    if (!t.match(said, { field: name, detail: /, for example \S/ }, what)) continue
    t.notMatch(answer.body.detail, /\^|\[A-Z|pattern|format/i, what)
    failed.add(of)
  }
  const wanted = new Set<string>()
  const look = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    const { pattern, not } = value as Schema
    if (typeof pattern === 'string') wanted.add(pattern)
    if (not) t.same(not, { enum: [0] }, '`not` forbids 0 only, which has its own message')
    for (const one of Object.values(value)) look(one)
  }
  look(document)
  t.same(
    [...wanted].filter((pattern) => !failed.has(pattern)),
    [],
    'every pattern of the document was tried',
  )
})

t.test('refused value: the message is in words', async (t) => {
  const world = await openWorld(t)
  const { url } = await world.startApi()
  const call = contract(url)
  const restock = (body: object) => call('POST', '/api/resources/a/1/restock', { body })
  const nothing = await restock({ delta: 0, reason: 'x' })
  t.match(nothing, { status: 400, body: { errors: [{ field: 'delta', detail: 'must not be 0' }] } })
})
