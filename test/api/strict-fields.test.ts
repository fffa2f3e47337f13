/**
 * Every route that changes something refuses unknown fields of body and query: `refund {"units": 1}` must not refund
 * everything. Iterates over the registered routes, so that a new one is covered too.
 */
import type { InjectOptions, RouteOptions } from 'fastify'
import t from 'tap'
import { buildUnconnectedApp } from '../../ops/checks/unconnected-app.ts'
import { type Operation, operations } from '../support/openapi-contract.ts'

const WRITES = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])
/** Exempt: the provider's webhook has a raw body, and Bull Board is a separate application. */
const APART = new Set(['/api/webhooks/stripe', '/admin/queues', '/admin/queues/*'])

const routes: RouteOptions[] = []
const app = await buildUnconnectedApp(async (app) => {
  app.addHook('onRoute', (route) => {
    routes.push(route)
  })
})
t.teardown(() => app.close())

const writing = routes.flatMap(({ method, url }) =>
  [method].flat().flatMap((verb) => (WRITES.has(verb) && !APART.has(url) ? [{ method: verb, url }] : [])),
)
const documented = new Map(operations.map((one) => [`${one.method.toUpperCase()} ${one.path}`, one.operation]))
const operationOf = ({ method, url }: { method: string; url: string }) =>
  documented.get(`${method} ${url.replace(/:(\w+)/g, '{$1}')}`)

/** Returns the path with the example values of its parameters. */
const filled = (url: string, { parameters = [] }: Operation) =>
  parameters.reduce(
    (path, one) =>
      one.in === 'path' ? path.replace(`:${one.name}`, encodeURIComponent(String(one.example ?? '1'))) : path,
    url,
  )

async function refused(method: string, url: string, payload: object | undefined, query: Record<string, string> = {}) {
  const request = { method: method as 'POST', url, query } as InjectOptions
  const response = await app.inject(payload === undefined ? request : { ...request, payload })
  const body = response.body === '' ? undefined : response.json()
  return {
    status: response.statusCode,
    code: body?.code,
    fields: body?.errors?.map((one: { field: string }) => one.field),
  }
}

/** Yields the body with an unknown field added to each of its objects in turn, and the name of that field. */
function* meddled(body: unknown, path = ''): Generator<[body: unknown, field: string]> {
  if (typeof body !== 'object' || body === null) return
  if (Array.isArray(body)) {
    for (const [i, one] of body.entries()) {
      for (const [inner, field] of meddled(one, `${path}[${i}]`)) yield [body.with(i, inner), field]
    }
    return
  }
  const at = (name: string) => (path === '' ? name : `${path}.${name}`)
  yield [{ ...body, unheard_of: 1 }, at('unheard_of')]
  for (const [name, one] of Object.entries(body)) {
    for (const [inner, field] of meddled(one, at(name))) yield [{ ...body, [name]: inner }, field]
  }
}

t.test('unknown field, on every route that changes something: 400 that names it', async (t) => {
  t.ok(writing.length > 25, `${writing.length} routes`)
  for (const route of writing) {
    const operation = operationOf(route)
    if (!operation) {
      t.fail(`${route.method} ${route.url} is not in the document`)
      continue
    }
    const url = filled(route.url, operation)
    const example = operation.requestBody?.content['application/json'].example ?? {}
    for (const [body, field] of meddled(example)) {
      const answer = await refused(route.method, url, body as object)
      t.same(answer, { status: 400, code: 'invalid_request', fields: [field] }, `${route.method} ${url}: ${field}`)
    }
  }
})

t.test('unknown query parameter: 400', async (t) => {
  for (const route of writing) {
    const operation = operationOf(route)
    if (!operation) continue
    const body = operation.requestBody?.content['application/json'].example as object | undefined
    const answer = await refused(route.method, filled(route.url, operation), body, { unheard_of: '1' })
    t.match(answer, { status: 400, fields: ['unheard_of'] }, `${route.method} ${route.url}`)
  }
})

t.test('objects in bodies: each schema forbids other fields', async (t) => {
  for (const { path, method, operation } of operations) {
    const schema = operation.requestBody?.content['application/json'].schema
    const open = openObjects(schema, `${method} ${path}`)
    t.same(open, [], `${method} ${path}`)
  }
})

/** Returns the paths at which a schema describes an object that allows additional properties. */
function openObjects(schema: unknown, at: string): string[] {
  if (typeof schema !== 'object' || schema === null) return []
  const here = schema as Record<string, unknown>
  const own = here.properties !== undefined && here.additionalProperties !== false ? [at] : []
  return [
    ...own,
    ...Object.entries(here).flatMap(([key, one]) => (key === 'example' ? [] : openObjects(one, `${at}/${key}`))),
  ]
}

const CASES: [command: string, body: object, field: string][] = [
  ['purchases/01935f5e-0000-7000-8000-000000000002/refund', { units: 1 }, 'units'],
  ['purchases/01935f5e-0000-7000-8000-000000000002/confirm', { lines: [{ resource: 'product:1', units: 1 }] }, 'lines'],
  ['purchases/01935f5e-0000-7000-8000-000000000002/cancel', { reason: 'no' }, 'reason'],
  ['bookings/01935f5e-0000-7000-8000-000000000012/cancel', { refund: false }, 'refund'],
  ['bookings/01935f5e-0000-7000-8000-000000000012/accept', { to: '2030-01-01' }, 'to'],
  ['bookings/01935f5e-0000-7000-8000-000000000012/complete', { at: '2030-01-01' }, 'at'],
  ['bookings/01935f5e-0000-7000-8000-000000000012/decline', { note: 'x' }, 'note'],
]
t.test('commands that once ignored their bodies: 400 for an unknown field', async (t) => {
  for (const [path, body, field] of CASES) {
    t.match(await refused('POST', `/api/${path}`, body), { status: 400, fields: [field] }, `${path} ${field}`)
  }
  for (const body of [[], [{ units: 1 }]]) {
    t.match(await refused('POST', `/api/${CASES[0]?.[0]}`, body), { status: 400 }, JSON.stringify(body))
  }
})

t.test('no body, an empty body and `{}`: treated alike', async (t) => {
  const url = '/api/purchases/01935f5e-0000-7000-8000-000000000002/cancel'
  const json = { 'content-type': 'application/json' }
  for (const request of [{}, { headers: json, payload: '' }, { payload: {} }]) {
    const { statusCode } = await app.inject({ method: 'POST', url, ...request })
    t.equal(statusCode, 500, 'the handler was reached, and has no database here')
  }
})
