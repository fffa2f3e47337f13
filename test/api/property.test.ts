/**
 * Random bodies to every route: no 5xx, every refusal is a well-formed problem of a documented status, and accepted requests
 * keep the invariants. fast-check prints seed and path of a counterexample.
 */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { startApi } from '../../src/api/server.ts'
import { readConfig } from '../../src/shared/config.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { BOOKING_COMMANDS } from '../../src/shared/domain/booking.ts'
import { PURCHASE_COMMANDS } from '../../src/shared/domain/purchase.ts'
import { verify } from '../../src/shared/invariants.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { openWorld, until } from '../support/environment.ts'
import { faultOf } from '../support/openapi-contract.ts'

/** Bodies a route, PROPERTY_RUNS=30000 for more, and how many of them are on their way at once. */
const PROPERTY_RUNS = Number(process.env.PROPERTY_RUNS ?? 1_000)
const AT_ONCE = 50

const world = await openWorld(t)
await world.startWorker()
const api = await startApi({
  config: readConfig({ ...world.env, LAB_PAUSE_MS: '1' }),
  metrics: createMetrics(),
  log: createLog('silent', 'test'),
})
t.teardown(() => api.close())
const db = openDb(world.env.DATABASE_URL ?? '', { max: 1, name: 'test', idle_in_transaction_ms: 60_000 })
t.teardown(() => db.close())

type Json = fc.JsonValue
interface Shot {
  method: 'PUT' | 'POST' | 'DELETE'
  url: string
  payload: string
  headers: Record<string, string>
}

/** Sends one request and returns what is wrong with its response. */
async function fire(shot: Shot) {
  const { statusCode: status, headers: got, body: text } = await api.app.inject(shot)
  const headers = new Headers()
  for (const [name, value] of Object.entries(got)) headers.set(name, String(value))
  const body = /json/.test(headers.get('content-type') ?? '') ? JSON.parse(text) : text
  const fault = status >= 500 ? 'a fault of the server' : faultOf(shot.method, shot.url, { status, headers, body })
  return { status, body, fault: fault && `${JSON.stringify(shot)} → ${status} ${text.slice(0, 300)}: ${fault}` }
}

/** Sends so many requests; some must be accepted and some refused, else the generator proves nothing. */
async function bombard(t: Test, shots: fc.Arbitrary<Shot>, count = PROPERTY_RUNS): Promise<void> {
  const seen = new Map<number, number>()
  const bodies = fc.array(shots, { minLength: AT_ONCE, maxLength: AT_ONCE })
  const property = fc.asyncProperty(bodies, async (batch) => {
    for (const { status, fault } of await Promise.all(batch.map(fire))) {
      if (fault) throw new Error(fault)
      seen.set(status, (seen.get(status) ?? 0) + 1)
    }
  })
  // A failing batch is reported unshrunk: shrinking fifty requests would exceed the timeout.
  await fc.assert(property, { numRuns: count / AT_ONCE, endOnFailure: true })
  const statuses = [...seen].sort(([a], [b]) => a - b)
  const [taken, refused] = [(status: number) => status < 300, (status: number) => status >= 400].map((of) =>
    statuses.reduce((sum, [status, n]) => sum + (of(status) ? n : 0), 0),
  )
  const told = statuses.map(([status, n]) => `${n} × ${status}`).join(', ')
  t.ok(Number(taken) >= 10 && Number(refused) >= 10, `answers: ${told}`)
}

const ODD: Json[] = [
  '',
  '\0',
  '\ud800',
  'a\udc00',
  '💥',
  '__proto__',
  'constructor',
  ' ',
  "'; DROP TABLE resources; --",
  '{}',
]
const SIZES: Json[] = [0, -0, -1, 0.5, 1e9, 1e9 + 1, 2 ** 53, -(2 ** 53), 1e21, 1e308, '1', 'x'.repeat(10_000)]
const odd = fc.oneof(
  fc.constantFrom<Json>(...ODD, ...SIZES, null, true, [], {}, [[]], { length: 1 }, { toString: 1 }),
  fc.jsonValue(),
  fc.string({ unit: 'binary' }),
  fc.double(),
  fc.maxSafeInteger(),
)

/** Puts something odd somewhere into a body: in the place of a value, as one more member, or nothing where there was one. */
function spoil(body: Json, at: number, how: 'replace' | 'remove' | 'add', value: Json): Json {
  const copy = structuredClone(body)
  const places: [container: Record<string, unknown>, key: string][] = []
  const visit = (container: unknown) => {
    for (const [key, inner] of Object.entries(container as Record<string, unknown>)) {
      places.push([container as Record<string, unknown>, key])
      if (inner !== null && typeof inner === 'object') visit(inner)
    }
  }
  visit(copy)
  const [container, key] = places[at % places.length] ?? [{}, '']
  if (how === 'replace') container[key] = value
  else if (how === 'remove') delete container[key]
  else if (Array.isArray(container)) container.push(value)
  else container[typeof value === 'string' ? value : 'extra'] = value
  return copy
}

/** Texts of bodies: as they should be, nearly so, and garbage. */
function texts(good: fc.Arbitrary<object>): fc.Arbitrary<string> {
  const how = fc.constantFrom('replace' as const, 'remove' as const, 'add' as const)
  const spoilt = fc.tuple(good, fc.nat(40), how, odd).map((all) => spoil(all[0] as Json, all[1], all[2], all[3]))
  const whole = fc.oneof(
    { weight: 4, arbitrary: good },
    { weight: 6, arbitrary: spoilt },
    { weight: 1, arbitrary: odd },
  )
  const text = whole.map((body) => JSON.stringify(body) ?? '')
  const cut = fc.tuple(text, fc.nat()).map(([all, n]) => all.slice(0, n % (all.length + 1)))
  return fc.oneof({ weight: 12, arbitrary: text }, { weight: 1, arbitrary: cut }, { weight: 1, arbitrary: fc.string() })
}

/** Headers that matter to some route, good and bad. */
const headers = fc
  .record(
    {
      prefer: fc.constantFrom('wait=0', 'wait=1', 'wait=', 'respond-async', 'wait=99999999999', ''),
      'if-match': fc.constantFrom('*', '"1"', '"2", "3"', 'W/"1"', '"', '0'),
      'idempotency-key': fc.oneof(fc.constantFrom('a', 'b', 'c', ' ', 'x'.repeat(300), 'clé'), fc.uuid()),
    },
    { requiredKeys: [] },
  )
  .map((some) => ({ 'content-type': 'application/json', ...some }))

const REFS = Array.from({ length: 8 }, (_, n) => `prop:${n}`)
const ACCOUNTS = ['account:0', 'account:1']
const ROOMS = ['room:0', 'room:1', 'driver:0', 'driver:1']
const path = (ref: string) => `/api/resources/${ref.replace(':', '/')}`
for (const ref of [...REFS, ...ACCOUNTS]) {
  const payload = { name: ref, kind: 'units', total: 400, price: { amount: 3, currency: 'USD' } }
  await api.app.inject({ method: 'PUT', url: path(ref), payload })
}

for (const ref of ROOMS) {
  const payload = { name: ref, kind: 'calendar', price: { amount: 3, currency: 'USD' } }
  await api.app.inject({ method: 'PUT', url: path(ref), payload })
}

const name = fc.string({ minLength: 1, maxLength: 20 })
const shot = (method: Shot['method'], urls: fc.Arbitrary<string>, good: fc.Arbitrary<object>): fc.Arbitrary<Shot> =>
  fc.record({ method: fc.constant(method), url: urls, payload: texts(good), headers })

t.test(`PUT /api/resources/{type}/{id}, ${PROPERTY_RUNS} bodies`, (t) => {
  const price = fc.record({ amount: fc.nat(1_000), currency: fc.constantFrom('USD', 'EUR', 'usd') })
  const units = fc.record({ name, kind: fc.constant('units'), total: fc.nat(1_000), price })
  const calendar = fc.record({ name, kind: fc.constant('calendar'), price }, { requiredKeys: ['name', 'kind'] })
  const ids = fc.oneof(
    fc.constantFrom(...REFS).map(path),
    fc.nat(500).map((n) => `/api/resources/new/${n}`),
  )
  return bombard(t, shot('PUT', ids, fc.oneof(units, calendar)))
})

t.test(`POST /api/resources/{type}/{id}/restock, ${PROPERTY_RUNS} bodies`, (t) => {
  const good = fc.record({ delta: fc.integer({ min: -50, max: 60 }), reason: name })
  const urls = fc.constantFrom(...REFS, ...ACCOUNTS, 'prop:none').map((ref) => `${path(ref)}/restock`)
  return bombard(t, shot('POST', urls, good))
})

t.test(`POST /api/purchases, ${PROPERTY_RUNS} bodies`, (t) => {
  const resource = fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom(...REFS) },
    { weight: 1, arbitrary: fc.constant('prop:none') },
  )
  const line = fc.record({ resource, units: fc.integer({ min: 1, max: 5 }) })
  const payment = fc.oneof(
    fc.constant({ method: 'none' }),
    fc.record({ method: fc.constant('wallet'), account: fc.constantFrom(...ACCOUNTS) }),
    fc.record({ method: fc.constant('card'), token: fc.constant('tok_visa') }),
  )
  const good = fc.record(
    {
      customer: name,
      lines: fc.array(line, { minLength: 1, maxLength: 6 }),
      payment,
      hold_seconds: fc.integer({ min: 1, max: 600 }),
    },
    { requiredKeys: ['customer', 'lines'] },
  )
  return bombard(t, shot('POST', fc.constant('/api/purchases'), good))
})

t.test(`POST /api/bookings, ${PROPERTY_RUNS} bodies`, (t) => {
  const date = fc.nat(40).map((n) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10))
  const stay = fc.record(
    {
      resource: fc.constantFrom(...ROOMS, 'room:none', 'prop:0'),
      customer: name,
      from: date,
      to: date,
      payment: fc.oneof(
        fc.constant({ method: 'none' }),
        fc.record({ method: fc.constant('wallet'), account: fc.constantFrom(...ACCOUNTS) }),
        fc.record({ method: fc.constant('card'), token: fc.constant('tok_visa') }),
      ),
      hold_seconds: fc.integer({ min: 1, max: 600 }),
    },
    { requiredKeys: ['resource', 'customer', 'from', 'to'] },
  )
  const ride = fc.record({
    driver_id: fc.oneof(fc.nat(3), fc.constantFrom('0', 'none')),
    rider_id: name,
    pickup_lat: fc.integer({ min: -90, max: 90 }),
    pickup_lng: fc.integer({ min: -180, max: 180 }),
  })
  return bombard(t, shot('POST', fc.constant('/api/bookings'), fc.oneof(stay, ride)))
})

const settled = () =>
  until(async () => {
    const rows = await db.client`
      SELECT 1 FROM purchases WHERE status = 'queued' UNION ALL SELECT 1 FROM bookings WHERE status = 'queued' UNION ALL SELECT 1 FROM commands WHERE status = 'queued'`
    return rows.length === 0
  })

t.test(`commands, ${PROPERTY_RUNS} bodies`, async (t) => {
  await settled()
  const purchases = await db.client<{ id: string }[]>`SELECT id FROM purchases ORDER BY id LIMIT 500`
  const bookings = await db.client<{ id: string }[]>`
    SELECT id FROM bookings WHERE status <> 'rejected' ORDER BY id LIMIT 100`
  const of = (list: string, rows: { id: string }[], commands: readonly string[]) =>
    fc
      .tuple(fc.constantFrom(...rows.map((row) => row.id), 'x'), fc.constantFrom(...commands))
      .map(([id, command]) => `/api/${list}/${id}/${command}`)
  const urls = fc.oneof(of('purchases', purchases, PURCHASE_COMMANDS), of('bookings', bookings, BOOKING_COMMANDS))
  await bombard(t, shot('POST', urls, fc.constant({})))
})

t.test(`POST /api/leases, ${PROPERTY_RUNS} bodies`, (t) => {
  const common = {
    resource: fc.nat(500).map((n) => `lease:${n}`),
    ttl_ms: fc.integer({ min: 5_000, max: 10_000 }),
    wait_ms: fc.constantFrom(0, 0, 0, 1, 5),
    owner: name,
  }
  const mode = fc.constantFrom('exclusive', 'shared')
  const whole = fc.record({ ...common, mode }, { requiredKeys: ['resource', 'mode', 'ttl_ms', 'owner'] })
  const permit = fc.record({ ...common, mode: fc.constant('permit'), limit: fc.integer({ min: 1, max: 3 }) })
  // What is spoilt may still be allowed: no wait shall be as long as this test, and no TTL so short that a stalled event
  // loop makes the lock server look dead (its time to answer is a third of the TTL).
  const brief = (one: Shot) => ({
    ...one,
    payload: one.payload
      .replace(/"wait_ms":\d{2,}/, () => '"wait_ms":5')
      .replace(/"ttl_ms":\d{3,4}\b/, () => '"ttl_ms":10000'),
  })
  return bombard(t, shot('POST', fc.constant('/api/leases'), fc.oneof(whole, permit)).map(brief))
})

t.test(`PUT and DELETE /api/leases/{lease_id}, ${PROPERTY_RUNS} ids`, async (t) => {
  const ids = await Promise.all(
    Array.from({ length: 100 }, async (_, n) => {
      const payload = { resource: `id:${n}`, mode: 'exclusive', ttl_ms: 60_000, owner: 'ada' }
      const { body } = await api.app.inject({ method: 'POST', url: '/api/leases', payload })
      return JSON.parse(body).lease_id as string
    }),
  )
  // Handles, and what looks like one inside: each part of a good one may be something else.
  const parts = ids.map((id) => JSON.parse(Buffer.from(id, 'base64url').toString()) as Json[])
  const spoilt = fc
    .tuple(fc.constantFrom(...parts), fc.nat(5), odd)
    .map(([good, at, value]) => JSON.stringify(good.with(at, value)))
  const inner = fc.oneof(
    spoilt,
    odd.map((value) => JSON.stringify(value) ?? ''),
    fc.string(),
  )
  const made = inner.map((text) => Buffer.from(text).toString('base64url').slice(0, 4_000) || 'x')
  const id = fc.oneof(fc.constantFrom(...ids), made)
  const urls = id.map((one) => `/api/leases/${one}`)
  const one = shot('PUT', urls, fc.constant({}))
  const methods = fc.constantFrom('PUT' as const, 'PUT' as const, 'DELETE' as const)
  await bombard(
    t,
    fc.tuple(one, methods).map(([all, method]) => ({ ...all, method })),
  )
})

/** Few: at most a hundred endpoints may exist, and each multiplies the deliveries. */
const ENDPOINT_BODIES = 200

t.test(`POST /api/webhook-endpoints, ${ENDPOINT_BODIES} bodies`, (t) => {
  const good = fc.record(
    {
      // A name that never resolves, and a resource without events: nothing is sent.
      url: fc.webPath().map((path) => `https://shop.example${path}`),
      resource: fc.constant('never:1'),
      events: fc.uniqueArray(fc.constantFrom('purchase.held', 'booking.expired'), { minLength: 1 }),
    },
    { requiredKeys: ['url', 'resource'] },
  )
  return bombard(t, shot('POST', fc.constant('/api/webhook-endpoints'), good), ENDPOINT_BODIES)
})

/** Fewer: a reset waits until the worker releases the lease of the same number. */
const LAB_BODIES = 500

t.test(`the lab, ${LAB_BODIES} bodies`, async (t) => {
  const number = fc.nat(7)
  const to = (urls: fc.Arbitrary<string>, good: fc.Arbitrary<object>) => shot('POST', urls, good)
  const pick = (...paths: string[]) =>
    fc.tuple(fc.constantFrom(...paths), number).map(([path, n]) => path.replace('N', `p${n}`))
  const quantity = fc.record({ quantity: fc.integer({ min: 1, max: 3 }) }, { requiredKeys: [] })
  const purchases = to(pick('/purchase/with-lock/N', '/purchase/without-lock/N'), quantity)
  const bookings = to(
    pick('/book-with-lock/N', '/book-no-lock/N'),
    fc.record({ user_name: name }, { requiredKeys: [] }),
  )
  const stocks = to(pick('/stock/N/reset'), fc.record({ stock: fc.nat(20) }))
  const tickets = to(pick('/reset/N'), fc.record({ total_tickets: fc.nat(20) }))
  const riders = to(pick('/demo/drivers/N/request-no-lock'), fc.record({ rider_id: name }))
  const all = [purchases, bookings, riders].map((arbitrary) => ({ weight: 8, arbitrary }))
  await bombard(t, fc.oneof(...all, { weight: 1, arbitrary: stocks }, { weight: 1, arbitrary: tickets }), LAB_BODIES)
})

t.test('after all bodies: the invariants hold', async (t) => {
  await settled()
  for (const { invariant, looked_at, offenders } of await verify(db.client)) {
    t.same(offenders, [], `${invariant} (${looked_at} looked at)`)
  }
})
