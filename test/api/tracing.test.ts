/**
 * One purchase is one trace, from the client's request through API and queue to the settled row. Without OTEL_* there
 * are no traces.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gunzipSync } from 'node:zlib'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { card, openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

interface Span {
  service: string
  traceId: string
  spanId: string
  parentSpanId?: string
  name: string
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes: Record<string, unknown>
}
interface Sent {
  resourceSpans: {
    resource: { attributes: Attribute[] }
    scopeSpans: { spans: (Omit<Span, 'service' | 'attributes'> & { attributes: Attribute[] })[] }[]
  }[]
}
type Attribute = { key: string; value: Record<string, unknown> }

const plain = (attributes: Attribute[]) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]))

/** Starts a minimal OpenTelemetry collector that receives OTLP over HTTP. */
async function collector(t: Test) {
  const spans: Span[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    const json = request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body
    for (const { resource, scopeSpans } of (JSON.parse(String(json)) as Sent).resourceSpans) {
      const service = String(plain(resource.attributes)['service.name'])
      for (const span of scopeSpans.flatMap((scope) => scope.spans)) {
        spans.push({ ...span, service, attributes: plain(span.attributes) })
      }
    }
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return { spans, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const CALLER = '00f067aa0ba902b7'
const traceparent = (trace: string, flags = '01') => ({ traceparent: `00-${trace}-${CALLER}-${flags}` })

t.test('purchase by card: one trace from the request to the settled row', async (t) => {
  const world = await openWorld(t)
  const { spans, url } = await collector(t)
  const sandbox = await world.startSandbox()
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_BSP_SCHEDULE_DELAY: '50', SANDBOX_URL: sandbox.url }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 5)
  const buy = { customer: 'ada', lines: [{ resource: ref, units: 1 }], payment: card('tok_visa') }
  const { status, body } = await shop.buy(buy, { prefer: 'wait=20', ...traceparent(TRACE) })
  t.equal(status, 201)

  const settled = (to: string) => spans.find((one) => one.name === 'settle' && one.attributes['holdfast.status'] === to)
  const last = await until(() => settled('confirmed'), { what: 'the settling span', timeout_ms: 30_000 })
  const request = await until(() => spans.find((one) => one.name === 'POST /api/purchases'), {
    what: 'the request',
    timeout_ms: 30_000,
  })
  t.match(last, { service: 'holdfast-worker', traceId: TRACE, attributes: { 'holdfast.id': body.id } })
  t.match(request, { service: 'holdfast-api', traceId: TRACE, parentSpanId: CALLER })
  t.match(request.attributes, { 'http.request.method': 'POST', 'http.route': '/api/purchases' })
  t.match(settled('held'), { traceId: TRACE }, 'so is the batch that set the units aside')
  const wait = spans.find((one) => one.name === 'wait in queue')
  t.match(wait, { traceId: TRACE, attributes: { 'holdfast.resource': ref } })

  const above = (span: Span): Span[] => {
    const parent = spans.find((one) => one.spanId === span.parentSpanId)
    return parent ? [parent, ...above(parent)] : []
  }
  for (const span of [last, wait as Span]) t.ok(above(span).includes(request), `${span.name} descends from the request`)
  for (const { name, startTimeUnixNano: from, endTimeUnixNano: until } of spans) {
    t.ok(BigInt(from) <= BigInt(until), `${name} ends after it begins`)
  }
  t.notOk(
    spans.some(({ name }) => /livez|metrics/.test(name)),
    'health is not traced',
  )

  const other = 'a'.repeat(32)
  await shop.buy({ ...buy, payment: { method: 'none' } }, { prefer: 'wait=20', ...traceparent(other, '00') })
  await shop.buy({ ...buy, payment: { method: 'none' } }, { prefer: 'wait=20' })
  await until(() => spans.filter(({ name }) => name === 'settle').length === 3, {
    what: 'a trace of its own',
    timeout_ms: 30_000,
  })
  t.notOk(
    spans.some(({ traceId }) => traceId === other),
    'what the caller does not sample is not sent',
  )
  await shop.verified()
})

t.test('collector that does not answer: delays no request', async (t) => {
  const world = await openWorld(t)
  const api = await world.startApi({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9' })
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 5)
  const { status, body } = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
  t.equal(status, 202)
  const redis = new Redis(world.env.REDIS_URL)
  t.teardown(() => redis.disconnect())
  const key = `${world.env.REDIS_PREFIX}trace:${body.id}`
  await until(async () => (await redis.ttl(key)) > 0, { what: 'a trace that ends by itself' })
  t.ok((await redis.ttl(key)) <= 600, 'kept for at most ten minutes')
  api.kill('SIGTERM')
  t.equal(await api.exited, 'code 0', 'nor does stopping wait for it')
})
