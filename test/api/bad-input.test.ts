/** Malformed requests: always a 4xx problem that names the field, never a 5xx, and no row is written. */
import { once } from 'node:events'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { cursors } from '../../src/api/http/pagination.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { openWorld } from '../support/environment.ts'
import { type Answer, contract, faultOfProblem, type Request } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const api = await world.startApi()
const call = contract(api.url)
const db = openDb(world.env.DATABASE_URL ?? '', { max: 1, name: 'test', idle_in_transaction_ms: 60_000 })
t.teardown(() => db.close())

const GOOD = { name: 'Good', kind: 'units', total: 10, price: { amount: 100, currency: 'USD' } }
await call('PUT', '/api/resources/good/1', { body: GOOD })
await call('PUT', '/api/resources/account/1', { body: GOOD })
await call('PUT', '/api/resources/room/1', { body: { name: 'Room', kind: 'calendar' } })
// A resource created while such an id was allowed.
await db.client`INSERT INTO resources (id, kind) VALUES ('account:time', 'calendar')`
const HELD = '01935f5e-0000-7000-8000-000000000001'
await db.client`
  INSERT INTO purchases (id, queue, items, hold_seconds)
  VALUES (${HELD}, 'good:1', '[{"resource": "good:1", "units": 1}]', 60)`

/** Returns every row that a request could have written. */
async function written(): Promise<unknown> {
  const rows = await db.client`
    SELECT (SELECT json_agg(r ORDER BY id) FROM resources r) AS resources,
           (SELECT count(*) FROM purchases) AS purchases, (SELECT count(*) FROM bookings) AS bookings,
           (SELECT count(*) FROM ledger_entries) AS movements, (SELECT count(*) FROM commands) AS commands,
           (SELECT count(*) FROM charges) AS charges, (SELECT count(*) FROM outbox) AS outbox,
           (SELECT count(*) FROM webhook_endpoints) AS endpoints, (SELECT count(*) FROM forced_releases) AS releases,
           (SELECT count(*) FROM lab_counts) AS counts, (SELECT count(*) FROM lab_orders) AS orders,
           (SELECT count(*) FROM lab_drivers) AS drivers`
  return [rows[0], (await call('GET', '/api/locks')).body.data]
}

interface Case extends Request {
  /** the mistake */
  name: string
  method?: string
  path?: string
  status?: number
  /** the field that `errors` must name; null if there is none */
  field: string | null
  code?: string
}

/** Sends each case and asserts the status, the field and that no row was written. */
async function refused(t: Test, cases: Case[]) {
  const before = await written()
  for (const { name, method = 'POST', path = '/api/purchases', status = 400, field, code, ...request } of cases) {
    const answer = await call(method, path, request)
    const fields = answer.body.errors?.map((one: { field: string }) => one.field).join() ?? null
    // Escape line separators that would end a line of the report.
    const what = `${name.replace(/[^\x20-\x7e]/gu, (one) => `U+${one.codePointAt(0)?.toString(16)}`)}: ${answer.body.detail?.slice(0, 100)}`
    t.same([answer.status, fields, answer.body.code], [status, field, code ?? answer.body.code], what)
  }
  t.same(await written(), before, 'nothing was written')
}

/** Invalid identifiers: control characters, invisible characters, white space at either end. */
const UNCLEAN = [
  'a\u0007',
  'a\nb',
  '\u0085a',
  'a\u009f',
  ' a',
  'a ',
  '\ta',
  '\u00a0a',
  'a\u3000',
  ' ',
  '\u2028',
].concat(['a\u200bb', 'a\u200db', 'a\u2060', '\ufeffa', '\u202ea', 'a\u2066b', 'a\u00adb', 'a\ufe0f', 'a\u{e0041}'])

const line = (resource: unknown = 'good:1', units: unknown = 1) => ({ resource, units })
const purchase = (change: object = {}) => ({ customer: 'ada', lines: [line()], ...change })
const stay = (change: object = {}) => ({
  resource: 'room:1',
  customer: 'ada',
  from: '2030-01-01',
  to: '2030-01-02',
  ...change,
})
/** Returns a period from and to, in milliseconds from now. */
const past = (from_ms: number, to_ms: number) => {
  const [from, to] = [from_ms, to_ms].map((ms) => new Date(Date.now() + ms).toISOString())
  return { from, to }
}
const ride = (change: object = {}) => ({ driver_id: 1, rider_id: 'ada', pickup_lat: 0, pickup_lng: 0, ...change })
/** Returns JSON that JSON.stringify cannot write. */
const withUnits = (literal: string) => `{"customer": "ada", "lines": [{"resource": "good:1", "units": ${literal}}]}`

t.test('units', (t) =>
  refused(t, [
    ...['0', '-0', '-1', '1.5', '1e308', '1e309', '-1e309', '9007199254740992', '1000000001', '0.1e-400'].map(
      (raw) => ({
        name: raw,
        raw: withUnits(raw),
        field: 'lines[0].units',
      }),
    ),
    ...['"1"', 'null', 'true', '[1]', '{}', '""'].map((raw) => ({
      name: raw,
      raw: withUnits(raw),
      field: 'lines[0].units',
    })),
    ...['NaN', 'Infinity', '01', '0x10', '1_000', ''].map((raw) => ({
      name: raw,
      raw: withUnits(raw),
      field: 'body',
    })),
    {
      name: 'too many together',
      body: purchase({ lines: [line('good:1', 6e8), line('account:1'), line('good:1', 6e8)] }),
      field: 'lines',
    },
  ]),
)

t.test('items and their resources', (t) =>
  refused(t, [
    { name: 'no lines', body: purchase({ lines: [] }), field: 'lines' },
    { name: '1,000 lines', body: purchase({ lines: Array.from({ length: 1_000 }, () => line()) }), field: 'lines' },
    { name: '101 lines', body: purchase({ lines: Array.from({ length: 101 }, () => line()) }), field: 'lines' },
    { name: 'missing', body: { customer: 'ada' }, field: 'lines' },
    ...[null, 'good:1', 1, true, {}, { length: 1 }].map((lines) => ({
      name: `lines ${JSON.stringify(lines)}`,
      body: purchase({ lines }),
      field: 'lines',
    })),
    ...[null, 'good:1', 1, []].map((one) => ({
      name: `a line ${JSON.stringify(one)}`,
      body: purchase({ lines: [line(), one] }),
      field: 'lines[1]',
    })),
    { name: 'a line without units', body: purchase({ lines: [{ resource: 'good:1' }] }), field: 'lines[0].units' },
    { name: 'a line without resource', body: purchase({ lines: [{ units: 1 }] }), field: 'lines[0].resource' },
    { name: 'a price of its own', body: purchase({ lines: [{ ...line(), price: 1 }] }), field: 'lines[0].price' },
    ...[
      'good',
      'good:',
      ':1',
      'GOOD:1',
      'good:1 ',
      'good:1\n',
      'good:\u0000',
      'good:é',
      'good:💥',
      '',
      `good:${'a'.repeat(129)}`,
    ]
      .concat(['good:1/../2', "good:1' OR 1=1 --", 'good:{1}', 'good:*'])
      .map((resource) => ({ name: resource, body: purchase({ lines: [line(resource)] }), field: 'lines[0].resource' })),
    ...[null, 1, {}, ['good:1']].map((resource) => ({
      name: `resource ${JSON.stringify(resource)}`,
      body: purchase({ lines: [line(resource)] }),
      field: 'lines[0].resource',
    })),
    {
      name: 'unknown resource',
      body: purchase({ lines: [line(), line('good:none')] }),
      status: 422,
      field: 'lines[1].resource',
    },
    { name: 'a calendar', body: purchase({ lines: [line('room:1')] }), status: 422, field: 'lines[0].resource' },
    {
      name: 'an account',
      body: purchase({ lines: [line(), line('account:1')] }),
      status: 422,
      code: 'wrong_kind',
      field: 'lines[1].resource',
    },
    {
      name: 'the account that pays',
      body: purchase({ lines: [line('account:1')], payment: { method: 'wallet', account: 'account:1' } }),
      status: 422,
      code: 'wrong_kind',
      field: 'lines[0].resource',
    },
  ]),
)

t.test('other fields of a purchase', (t) =>
  refused(t, [
    { name: 'unknown field', body: purchase({ discount: 1 }), field: 'discount' },
    { name: 'a status of its own', body: purchase({ status: 'confirmed' }), field: 'status' },
    { name: 'no customer', body: { lines: [line()] }, field: 'customer' },
    ...[null, 1, '', [], {}, 'a'.repeat(201), 'a\u0000b', '\ud800', 'a\udc00', '\ud800\ud800', ...UNCLEAN].map(
      (customer) => ({
        name: `customer ${JSON.stringify(customer)?.slice(0, 20)}`,
        body: purchase({ customer }),
        field: 'customer',
      }),
    ),
    ...[0, -1, 1.5, '60', null, 604_801, 2 ** 53, [], true].map((hold_seconds) => ({
      name: `hold_seconds ${JSON.stringify(hold_seconds)}`,
      body: purchase({ hold_seconds }),
      field: 'hold_seconds',
    })),
    ...[null, 'none', 1, []].map((payment) => ({
      name: `payment ${JSON.stringify(payment)}`,
      body: purchase({ payment }),
      field: 'payment',
    })),
    ...[undefined, null, 'cash', '', 1, '__proto__', 'constructor', 'NONE'].map((method) => ({
      name: `method ${JSON.stringify(method)}`,
      body: purchase({ payment: { method } }),
      field: 'payment.method',
    })),
    { name: 'none with token', body: purchase({ payment: { method: 'none', token: 'x' } }), field: 'payment.token' },
    ...[undefined, null, '', 1, 'a b', 'a'.repeat(201), 'tok\u0000', 'é'].map((token) => ({
      name: `token ${JSON.stringify(token)?.slice(0, 20)}`,
      body: purchase({ payment: { method: 'card', token } }),
      field: 'payment.token',
    })),
    ...[undefined, null, '', 1, '1', 'good:1', 'account:', 'account:\u0000', 'account:1 '].map((account) => ({
      name: `account ${JSON.stringify(account)}`,
      body: purchase({ payment: { method: 'wallet', account } }),
      field: 'payment.account',
    })),
    {
      name: 'unknown account',
      body: purchase({ payment: { method: 'wallet', account: 'account:none' } }),
      status: 422,
      field: 'payment.account',
    },
  ]),
)

/** Each route with a body, and a body that it accepts. */
const LEASE = { mode: 'exclusive', resource: 'job:1', ttl_ms: 1_000, owner: 'ada' }
const TAKES = [
  ['POST', '/api/leases', LEASE],
  ['POST', '/api/purchases', purchase()],
  ['POST', '/api/bookings', stay()],
  ['POST', '/api/resources/good/1/restock', { delta: 1, reason: 'delivery' }],
  ['PUT', '/api/resources/new/1', GOOD],
] as const

t.test('unreadable bodies', (t) =>
  refused(
    t,
    TAKES.flatMap(([method, path, good]): Case[] => {
      const json = JSON.stringify(good)
      const bodies: [name: string, raw: string | undefined][] = [
        ['no body', undefined],
        ['an empty body', ''],
        ['null', 'null'],
        ['an array', '[]'],
        ['the body in an array', `[${json}]`],
        ['a string', '"x"'],
        ['a string of JSON', JSON.stringify(json)],
        ['a number', '1'],
        ['broken JSON', json.slice(0, -1)],
        ['two documents', json + json],
        ['a comma too many', `${json.slice(0, -1)},}`],
        ['a comment', `/* */${json}`],
        ['a member __proto__', `{"__proto__": {"x": 1}, ${json.slice(1)}`],
        ['a member __proto__, escaped', `{"\\u005f_proto__": {"x": 1}, ${json.slice(1)}`],
        ['a member constructor.prototype', `{"constructor": {"prototype": {"x": 1}}, ${json.slice(1)}`],
        ['100,000 brackets', '['.repeat(100_000)],
        ['a form', 'customer=ada'],
      ]
      const media: [name: string, type: string][] = [
        ['text/plain', 'text/plain'],
        ['a form', 'application/x-www-form-urlencoded'],
        ['multipart', 'multipart/form-data; boundary=x'],
        ['xml', 'application/xml'],
        ['json in name only', 'application/jsonx'],
        ['no media type', 'json'],
      ]
      // The schema selects by `kind`, so an empty body is first rejected for that field.
      const first = method === 'PUT' ? 'kind' : Object.keys(good)[0]
      const on = `${method} ${path}`
      return [
        ...bodies.map(([name, raw]) => ({
          name: `${on} with ${name}`,
          method,
          path,
          ...(raw === undefined ? {} : { raw }),
          field: 'body',
        })),
        { name: `${on} with {}`, method, path, raw: '{}', field: first ?? null },
        { name: `${on} with an unknown field`, method, path, body: { ...good, 'a.b/c~d': 1 }, field: 'a.b/c~d' },
        {
          name: `${on} with 2 MB`,
          method,
          path,
          raw: JSON.stringify({ ...good, filler: 'x'.repeat(2 ** 21) }),
          status: 413,
          field: 'body',
        },
        ...media.map(([name, type]) => ({
          name: `${on} as ${name}`,
          method,
          path,
          raw: json,
          headers: { 'content-type': type },
          status: 415,
          field: 'Content-Type',
        })),
      ]
    }),
  ),
)

t.test('resources', (t) => {
  const put = (name: string, body: unknown, field: string): Case => {
    return { name, method: 'PUT', path: '/api/resources/new/1', body, field }
  }
  const { price: _, ...unpriced } = GOOD
  return refused(t, [
    ...[undefined, null, 1, '', [], 'a'.repeat(201), 'a\u0000', '\udfff'].map((name) =>
      put(`name ${JSON.stringify(name)?.slice(0, 20)}`, { ...GOOD, name }, 'name'),
    ),
    ...[undefined, null, 1, 'unit', 'UNITS', '__proto__', {}].map((kind) =>
      put(`kind ${JSON.stringify(kind)}`, { ...GOOD, kind }, 'kind'),
    ),
    ...[undefined, null, -1, 0.5, '10', 1e12 + 1, 2 ** 53, 1e308, []].map((total) =>
      put(`total ${JSON.stringify(total)}`, { ...GOOD, total }, 'total'),
    ),
    put('no price', unpriced, 'price'),
    put('price 1', { ...GOOD, price: 1 }, 'price'),
    ...[undefined, null, -1, 0.5, '1', 1e12 + 1, 1e308].map((amount) =>
      put(`amount ${JSON.stringify(amount)}`, { ...GOOD, price: { amount, currency: 'USD' } }, 'price.amount'),
    ),
    ...[undefined, null, '', 'US', 'USDX', 'U$D', 840, 'ZZZ', 'Qqq', 'XXX', 'XTS', 'XAU', 'DEM', 'ſek'].map(
      (currency) =>
        put(`currency ${JSON.stringify(currency)}`, { ...GOOD, price: { amount: 1, currency } }, 'price.currency'),
    ),
    put('unknown field in price', { ...GOOD, price: { ...GOOD.price, vat: 1 } }, 'price.vat'),
    put('unknown field', { ...GOOD, available: 10 }, 'available'),
    put('a calendar with a total', { name: 'Room', kind: 'calendar', total: 1 }, 'total'),
    {
      ...put('an account as a calendar', { name: 'Wallet', kind: 'calendar' }, 'kind'),
      path: '/api/resources/account/new',
      status: 422,
      code: 'wrong_kind',
    },
    ...['banana', 'W/"1"', '"1', '1.0', '""', '"1";', '1 2', '-1', '"9999999999999999"'].map((match) => ({
      ...put(`If-Match ${match}`, GOOD, 'If-Match'),
      path: '/api/resources/good/1',
      headers: { 'if-match': match },
    })),
    { ...put('no If-Match', GOOD, ''), path: '/api/resources/good/1', status: 428, field: null },
    ...[undefined, null, 0, 0.5, '1', 1e12 + 1, -1e12 - 1, 2 ** 53, 1e308, []].map((delta) => ({
      name: `delta ${JSON.stringify(delta)}`,
      path: '/api/resources/good/1/restock',
      body: { delta, reason: 'x' },
      field: 'delta',
    })),
    ...[undefined, null, 1, '', 'a'.repeat(201), '\u0000', '\ud83d'].map((reason) => ({
      name: `reason ${JSON.stringify(reason)?.slice(0, 20)}`,
      path: '/api/resources/good/1/restock',
      body: { delta: 1, reason },
      field: 'reason',
    })),
  ])
})

t.test('bookings', (t) => {
  const book = (name: string, body: unknown, field: string, status = 400): Case => {
    return { name, path: '/api/bookings', body, field, status }
  }
  const { to: _, ...endless } = stay()
  return refused(t, [
    ...[null, 1, '', 'room', 'room:', 'room:1 ', "room:1' OR 1=1 --", {}, ['room:1']].map((resource) =>
      book(`resource ${JSON.stringify(resource)}`, stay({ resource }), 'resource'),
    ),
    book('an unknown resource', stay({ resource: 'room:none' }), 'resource', 422),
    book('what is sold by units', stay({ resource: 'good:1' }), 'resource', 422),
    book('an account', stay({ resource: 'account:1' }), 'resource', 422),
    book('the time of an account', stay({ resource: 'account:time' }), 'resource', 422),
    book(
      'an account of time',
      stay({ payment: { method: 'wallet', account: 'account:time' } }),
      'payment.account',
      422,
    ),
    ...[null, 1, '', [], 'a'.repeat(201), 'a\u0000', '\ud800', ...UNCLEAN].map((customer) =>
      book(`customer ${JSON.stringify(customer)?.slice(0, 20)}`, stay({ customer }), 'customer'),
    ),
    ...[null, 1, '', 'soon', '2030-02-30', '2030-1-1', '2030-01-01T10:00', '2030-01-01T10:00:00', '2030-01-01T25:00Z']
      .concat([
        '2030-01-01T10:00:00+25:00',
        '1999-12-31',
        '2101-01-01',
        '+002030-01-01',
        '2030-01-01\u0000',
        'a'.repeat(50),
      ])
      .flatMap((at) => [
        book(`from ${JSON.stringify(at)?.slice(0, 30)}`, stay({ from: at }), 'from'),
        book(`to ${JSON.stringify(at)?.slice(0, 30)}`, stay({ to: at }), 'to'),
      ]),
    book('no end', endless, 'to'),
    book('no time at all', stay({ to: '2030-01-01' }), 'to'),
    book('the end before the beginning', stay({ to: '2029-01-01' }), 'to'),
    book('a stay that is over', stay({ from: '2020-01-01', to: '2020-01-05' }), 'to'),
    book('a stay that was over five minutes ago', stay(past(-86_400_000, -300_000)), 'to'),
    book('a stay that was over, held', stay({ ...past(-86_400_000, -300_000), hold_seconds: 60 }), 'to'),
    book('more than a year', stay({ to: '2031-01-03' }), 'to'),
    ...[0, -1, 1.5, '60', null, 604_801].map((hold_seconds) =>
      book(`hold_seconds ${JSON.stringify(hold_seconds)}`, stay({ hold_seconds }), 'hold_seconds'),
    ),
    ...[undefined, null, '', 1, 'a b', 'a'.repeat(201), 'é'].map((token) =>
      book(
        `token ${JSON.stringify(token)?.slice(0, 20)}`,
        stay({ payment: { method: 'card', token } }),
        'payment.token',
      ),
    ),
    book('a ride by card', ride({ payment: { method: 'card', token: 'tok_visa' } }), 'payment'),
    book(
      'an unknown account',
      stay({ payment: { method: 'wallet', account: 'account:none' } }),
      'payment.account',
      422,
    ),
    book(
      'an account that is no account',
      stay({ payment: { method: 'wallet', account: 'room:1' } }),
      'payment.account',
    ),
    book('a status of its own', stay({ status: 'accepted' }), 'status'),
    book('a ride with dates', ride({ from: '2030-01-01' }), 'from'),
    ...[null, '', ' ', -1, 1.5, 'a b', 'a\u0000', 2 ** 53, {}, 'a'.repeat(129)].map((driver_id) =>
      book(`driver_id ${JSON.stringify(driver_id)?.slice(0, 20)}`, ride({ driver_id }), 'driver_id'),
    ),
    book('an unknown driver', ride({ driver_id: 'none' }), 'driver_id', 422),
    ...[null, '', -1, 1.5, 'a\u0000', '\ud800', {}, 'a'.repeat(201), ...UNCLEAN].map((rider_id) =>
      book(`rider_id ${JSON.stringify(rider_id)?.slice(0, 20)}`, ride({ rider_id }), 'rider_id'),
    ),
    ...[null, '1', 91, -90.5, 1e308].flatMap((degrees) => [
      book(`pickup_lat ${degrees}`, ride({ pickup_lat: degrees }), 'pickup_lat'),
      book(
        `pickup_lng ${degrees}`,
        ride({ pickup_lng: degrees === 91 ? 181 : degrees === -90.5 ? -181 : degrees }),
        'pickup_lng',
      ),
    ]),
    { name: 'a command on no id', path: '/api/bookings/1/accept', field: 'id' },
    { name: 'a command on an unknown id', path: `/api/bookings/${HELD}/accept`, status: 404, field: null },
    { name: 'a command for purchases', path: `/api/bookings/${HELD}/refund`, status: 404, field: null },
    ...[
      ['', 'from'],
      ['?from=2030-01-01', 'to'],
      ['?from=2030-01-01&to=2030-01-01', 'to'],
      ['?from=2030-01-01&to=2031-01-03', 'to'],
      ['?from=soon&to=2031-01-01', 'from'],
      ['?from=2030-01-01T00:00:00+02:00&to=2030-02-01', 'from'],
      ['?from=2030-01-01&to=2030-02-01&at=1', 'at'],
    ].map(([query, field]): Case => {
      const path = `/api/resources/room/1/availability${query}`
      return { name: path, method: 'GET', path, field: field ?? null }
    }),
    {
      name: 'availability of units',
      method: 'GET',
      path: '/api/resources/good/1/availability?from=2030-01-01&to=2030-02-01',
      status: 409,
      field: 'id',
    },
    {
      name: 'availability of nothing',
      method: 'GET',
      path: '/api/resources/room/none/availability?from=2030-01-01&to=2030-02-01',
      status: 404,
      field: null,
    },
  ])
})

t.test('leases', (t) => {
  const lease = (name: string, change: object, field: string): Case => {
    return { name, path: '/api/leases', body: { ...LEASE, ...change }, field }
  }
  const each = (field: string, values: unknown[], more: object = {}) =>
    values.map((value) => lease(`${field} ${JSON.stringify(value)?.slice(0, 20)}`, { ...more, [field]: value }, field))
  return refused(t, [
    ...each('mode', [undefined, null, 1, '', 'write', 'EXCLUSIVE', '__proto__', 'constructor', {}]),
    ...each('resource', [
      undefined,
      null,
      1,
      '',
      'job',
      'job:',
      ':1',
      'Job:1',
      'job:1 ',
      'job:\u0000',
      'job:{1}',
      'job:é',
    ]),
    ...each('resource', [`job:${'a'.repeat(129)}`, ['job:1'], 'job:1/2', 'job:*']),
    ...each('ttl_ms', [undefined, null, 0, -1, 99, 86_400_001, 1.5, '1000', 2 ** 53, 1e308, [], true]),
    ...each('wait_ms', [null, -1, 60_001, 0.5, '0', 2 ** 53, {}]),
    ...each('owner', [undefined, null, 1, '', 'a'.repeat(201), 'a\u0000b', '\ud800', 'a\udc00', []]),
    ...each('limit', [1]),
    ...each('limit', [1], { mode: 'shared' }),
    ...each('limit', [undefined, null, 0, -1, 1_001, 1.5, '1', []], { mode: 'permit' }),
    lease('a token of its own', { fencing_token: 1 }, 'fencing_token'),
    ...['a b', 'é', '%00', 'a.b', 'a=', 'a'.repeat(4_001), 'x', '__proto__', 'AAAA'].flatMap((id): Case[] =>
      ['PUT', 'DELETE'].map((method) => {
        return { name: `${method} ${id.slice(0, 20)}`, method, path: `/api/leases/${id}`, field: 'lease_id' }
      }),
    ),
    ...['PUT', 'DELETE'].flatMap((method): Case[] => [
      { name: `${method} with broken JSON`, method, path: '/api/leases/x', raw: '{', field: 'body' },
      {
        name: `${method} as text`,
        method,
        path: '/api/leases/x',
        raw: 'x',
        headers: { 'content-type': 'text/plain' },
        status: 415,
        field: 'Content-Type',
      },
    ]),
  ])
})

t.test('locks', (t) => {
  const bad = (path: string, field: string | null, method = 'GET', status = 400): Case => {
    return { name: `${method} ${path}`.slice(0, 60), method, path, field, status }
  }
  const names = [
    'job',
    'job:',
    ':1',
    'Job:1',
    'job:%00',
    'job:%C3%A9',
    'job:%7B1%7D',
    'job:*',
    `job:${'a'.repeat(129)}`,
  ]
  return refused(t, [
    ...names.flatMap((name) => ['GET', 'DELETE'].map((method) => bad(`/api/locks/${name}`, 'resource', method))),
    ...['', '%00', 'a'.repeat(501), 'a&reason=b'].map((reason) =>
      bad(`/api/locks/job:1?reason=${reason}`, 'reason', 'DELETE'),
    ),
    bad('/api/locks/job:1?force=1', 'force', 'DELETE'),
    ...['0', '-1', '169', '1.5', 'x', ''].map((hours) => bad(`/api/locks/stats?hours=${hours}`, 'hours')),
    bad('/api/locks/stats?minutes=1', 'minutes'),
    ...['0', '101', 'ten', ''].map((limit) => bad(`/api/locks?limit=${limit}`, 'limit')),
    ...['', 'x', '====', Buffer.from('17').toString('base64url')].map((id) => bad(`/api/locks?cursor=${id}`, 'cursor')),
    bad('/api/locks?offset=1', 'offset'),
    bad('/api/locks/stats', null, 'POST', 405),
    bad('/api/locks/job:1', null, 'POST', 405),
  ])
})

t.test('webhook endpoints', (t) => {
  const path = '/api/webhook-endpoints'
  const NONE = '01935f5e-0000-7000-8000-00000000000f'
  const url = 'https://shop.example/hooks'
  const at = (rest: string, id = NONE) => `${path}/${id}${rest}`
  return refused(t, [
    { name: 'no url', path, body: {}, field: 'url' },
    ...[
      '',
      'shop.example',
      'ftp://shop.example/',
      'http://shop.example/',
      'https://ada:secret@shop.example/',
      'https://shop.example/#here',
      'https://127.0.0.1/',
      'https://0x7f.1/',
      'https://[::1]:8080/',
      'https://[::ffff:10.0.0.1]/',
      'https://10.0.0.1/',
      'https://169.254.169.254/latest/meta-data',
      'https://localhost/',
      'https://api.localhost/',
      `https://shop.example/${'x'.repeat(2_000)}`,
      null,
      1,
    ].map((one) => ({ name: `url ${one}`.slice(0, 60), path, body: { url: one }, field: 'url' })),
    { name: 'no types', path, body: { url, events: [] }, field: 'events' },
    { name: 'an unknown type', path, body: { url, events: ['purchase.queued'] }, field: 'events[0]' },
    { name: 'a type twice', path, body: { url, events: Array(2).fill('purchase.held') }, field: 'events' },
    { name: 'a resource that is none', path, body: { url, resource: 'good' }, field: 'resource' },
    { name: 'a secret of its own', path, body: { url, secret: 'whsec_x' }, field: 'secret' },
    { name: 'as text', path, raw: 'x', headers: { 'content-type': 'text/plain' }, status: 415, field: 'Content-Type' },
    { name: '2 MB', path, raw: `"${'x'.repeat(2 ** 21)}"`, status: 413, field: 'body' },
    { name: 'an id that is none', method: 'GET', path: `${path}/1`, field: 'id' },
    { name: 'unknown', method: 'GET', path: at(''), status: 404, field: null },
    { name: 'unknown, deleted', method: 'DELETE', path: at(''), status: 404, field: null },
    { name: 'unknown, rotated', path: at('/rotate'), status: 404, field: null },
    { name: 'unknown, enabled', path: at('/enable'), status: 404, field: null },
    { name: 'unknown, its deliveries', method: 'GET', path: at('/deliveries'), status: 404, field: null },
    { name: 'unknown, replayed', path: at('/replay'), body: { delivery: 1 }, status: 404, field: null },
    { name: 'an overlap of years', path: at('/rotate?overlap_s=604801'), field: 'overlap_s' },
    { name: 'a page of 101', method: 'GET', path: at('/deliveries?limit=101'), field: 'limit' },
    { name: 'a replay from 0', path: at('/replay'), body: { resource: 'good:1', sequence: 0 }, field: 'sequence' },
    { name: 'a replay from 1.5', path: at('/replay'), body: { resource: 'good:1', sequence: 1.5 }, field: 'sequence' },
    { name: 'a replay of text', path: at('/replay'), body: { delivery: '1' }, field: 'delivery' },
    { name: 'a replay of more', path: at('/replay'), body: { since: 1 }, field: 'since' },
  ])
})

t.test('paths, queries and cursors', async (t) => {
  const long = 'a'.repeat(300)
  const cursor = (after: string) => Buffer.from(after).toString('base64url')
  const get = (path: string, field: string | null, status = 400): Case => {
    return { name: path.slice(0, 90), method: 'GET', path, field, status }
  }
  const lists = ['/api/resources', '/api/purchases', '/api/resources/good/1/movements']
  // A valid cursor of each list.
  const of = [
    cursors('resources', {}, /./),
    cursors('purchases', {}, /./),
    cursors('movements', { ref: 'good:1' }, /./),
  ]
  const written = ['good:1', '01935f5e-0000-7000-8000-000000000001', '17'].map((after, i) => of[i]?.write(after) ?? '')
  await refused(t, [
    ...['%zz', '%', '%E0%A4', '%ff', 'a%'].flatMap((id) => [
      get(`/api/resources/good/${id}`, 'path'),
      get(`/api/purchases/${id}`, 'path'),
    ]),
    ...['%00', '1%00', '%C3%A9', '%F0%9F%92%A5', 'a%2Fb', '..%2F1', 'a%20b', '-1', long, `${long}${long}`].map((id) =>
      get(`/api/resources/good/${id}`, 'id'),
    ),
    ...['Good', '1good', 'g%00', 'a'.repeat(33), 'a:b', long].map((type) => get(`/api/resources/${type}/1`, 'type')),
    ...[
      HELD.slice(1),
      `urn:uuid:${HELD}`,
      `{${HELD}}`,
      HELD.replaceAll('-', ''),
      `${HELD}%00`,
      '1',
      '__proto__',
      long,
    ].map((id) => get(`/api/purchases/${id}`, 'id')),
    { name: 'a command on no id', path: '/api/purchases/1/cancel', field: 'id' },
    ...lists.flatMap((list, i) => [
      ...['0', '-1', '101', '1.5', 'ten', '', '1e9', '%00', '9007199254740993'].map((n) =>
        get(`${list}?limit=${n}`, 'limit'),
      ),
      get(`${list}?limit=1&limit=2`, 'limit'),
      ...[
        '',
        'x',
        '====',
        '%00',
        'é',
        cursor('\u0000'),
        cursor('good:\u0000'),
        cursor('-1'),
        cursor('1e5'),
        'A'.repeat(401),
      ]
        .concat(['\u0000', 'good:\u0000', '-1', '1e5', ''].map((after) => of[i]?.write(after) ?? ''))
        .concat(written.filter((_, other) => other !== i))
        .concat([`${written[i]}=`, `${written[i]}A`])
        .map((bad) => get(`${list}?cursor=${bad}`, 'cursor')),
      get(`${list}?cursor=${written[i]}&cursor=${written[i]}`, 'cursor'),
      get(`${list}?offset=1`, 'offset'),
      get(`${list}?__proto__=1`, '__proto__'),
    ]),
    get(`/api/resources?type=room&cursor=${written[0]}`, 'cursor'),
    get('/api/resources?type=Good', 'type'),
    get('/api/resources?type=good&type=room', 'type'),
    get('/api/purchases?status=sold', 'status'),
    get('/api/purchases?resource=good', 'resource'),
    get('/api/purchases?resource=good:%00', 'resource'),
    get('/api/purchases?customer=%00', 'customer'),
    get(`/api/purchases?customer=${long}`, 'customer'),
    get('/api/purchases?customer=a&customer=b', 'customer'),
    ...UNCLEAN.flatMap((customer) =>
      ['purchases', 'bookings'].map((list) => get(`/api/${list}?customer=${encodeURIComponent(customer)}`, 'customer')),
    ),
    get('/api/bookings?status=confirmed', 'status'),
    get('/api/bookings?resource=room', 'resource'),
    get('/api/bookings?customer=%00', 'customer'),
    get('/api/bookings?limit=101', 'limit'),
    get(`/api/bookings?cursor=${written[1]}`, 'cursor'),
    get('/api/bookings/1', 'id'),
    get('/api/events?resource=good', 'resource'),
    get('/api/events?type=purchase.queued', 'type'),
    get('/api/events?limit=0', 'limit'),
    get('/api/events?before=1-1', 'before'),
    ...['1', '1-', '-1-1', '1-x', '1e3-1', '9999999999999999-1', '123456789012345-1'].map((id) =>
      get(`/api/events?after=${id}`, 'after'),
    ),
    get('/nowhere', null, 404),
    get('/api', null, 404),
    get('/api/purchase', null, 404),
    get('/api/resources/good/1/2', null, 404),
    { name: 'DELETE', method: 'DELETE', path: `/api/purchases/${HELD}`, status: 405, field: null },
    { name: 'PATCH', method: 'PATCH', path: '/api/resources/good/1', body: {}, status: 405, field: null },
    { name: 'an unknown command', path: `/api/purchases/${HELD}/ship`, status: 404, field: null },
  ])
})

t.test('headers', (t) =>
  refused(t, [
    ...['x', '1', '0-0-0', '123456789012345-1'].map((id) => ({
      name: `Last-Event-ID ${id}`,
      method: 'GET',
      path: '/api/events',
      headers: { 'last-event-id': id },
      field: 'Last-Event-ID',
    })),
    ...['a'.repeat(256), ' ', 'ключ', 'a\tb', 'clé'].flatMap((key) => {
      // A header contains bytes: send the UTF-8 bytes of the key in the form that fetch accepts.
      const headers = { 'idempotency-key': Buffer.from(key).toString('latin1') }
      const name = `Idempotency-Key ${JSON.stringify(key).slice(0, 20)}`
      return [
        { name, body: purchase(), headers, field: 'Idempotency-Key' },
        { name, path: `/api/purchases/${HELD}/cancel`, headers, field: 'Idempotency-Key' },
        {
          name,
          path: '/api/resources/good/1/restock',
          body: { delta: 1, reason: 'x' },
          headers,
          field: 'Idempotency-Key',
        },
      ]
    }),
  ]),
)

t.test('commands', (t) =>
  refused(
    t,
    ['confirm', 'cancel', 'refund'].flatMap((command) => {
      const path = `/api/purchases/${HELD}/${command}`
      return [
        { name: `${command} with broken JSON`, path, raw: '{', field: 'body' },
        { name: `${command} with 2 MB`, path, raw: `"${'x'.repeat(2 ** 21)}"`, status: 413, field: 'body' },
        {
          name: `${command} as text`,
          path,
          raw: 'x',
          headers: { 'content-type': 'text/plain' },
          status: 415,
          field: 'Content-Type',
        },
      ]
    }),
  ),
)

t.test('the lab, both variants', (t) => {
  const numbers: [path: string, member: string, values: string[]][] = [
    ['/purchase/without-lock/1', 'quantity', ['0', '-1', '1.5', '1000001', '1e309', '"1"', 'null', '[1]']],
    ['/purchase/with-lock/1', 'quantity', ['0', '-1', '1.5', '1000001', '1e309', '"1"', 'null', '[1]']],
    ['/stock/1/reset', 'stock', ['-1', '0.5', '1000000001', '"1"', 'null']],
    ['/reset/1', 'total_tickets', ['-1', '0.5', '1000000001', '"1"', 'null']],
    ['/book-no-lock/1', 'user_name', ['1', 'null', JSON.stringify('a'.repeat(201))]],
    ['/book-with-lock/1', 'user_name', ['1', 'null', JSON.stringify('a'.repeat(201))]],
    [
      '/demo/drivers/1/request-no-lock',
      'rider_id',
      ['1', 'null', '""', '"a\\u0000b"', JSON.stringify('a'.repeat(201))],
    ],
  ]
  const bodies = numbers.map(([path]) => path)
  const without_body = ['with-lock', 'no-lock'].map((side) => `/demo/race-condition/${side}`)
  const all = [...bodies, ...without_body, '/demo/balance/reset', '/demo/fencing/1', '/demo/redlock']
  return refused(t, [
    ...numbers.flatMap(([path, field, values]) =>
      values.map((value) => ({ name: `${path} ${field} ${value}`, path, raw: `{"${field}": ${value}}`, field })),
    ),
    ...bodies.flatMap((path) =>
      ['null', '[]', '1', '"x"'].map((raw) => ({ name: `${path} ${raw}`, path, raw, field: 'body' })),
    ),
    { name: 'no rider', path: '/demo/drivers/1/request-no-lock', body: {}, field: 'rider_id' },
    ...all.flatMap((path) => [
      { name: `${path} with broken JSON`, path, raw: '{', field: 'body' },
      { name: `${path} with 2 MB`, path, raw: `"${'x'.repeat(2 ** 21)}"`, status: 413, field: 'body' },
      {
        name: `${path} as text`,
        path,
        raw: 'x',
        headers: { 'content-type': 'text/plain' },
        status: 415,
        field: 'Content-Type',
      },
    ]),
    ...['a%20b', '%00', 'é', 'a'.repeat(129)].flatMap((id) => [
      { name: `product ${id}`, path: `/purchase/with-lock/${id}`, body: {}, field: 'product_id' },
      { name: `stock of ${id}`, method: 'GET', path: `/stock/${id}`, field: 'product_id' },
      { name: `event ${id}`, path: `/book-with-lock/${id}`, body: {}, field: 'event_id' },
      { name: `driver ${id}`, path: `/demo/drivers/${id}/reset`, field: 'driver_id' },
      { name: `order ${id}`, path: `/demo/fencing/${id}`, field: 'order_id' },
    ]),
  ])
})

/** Sends a request that fetch refuses to send, as bytes. */
async function send(text: string): Promise<Answer> {
  const socket = connect(Number(new URL(api.url).port), '127.0.0.1')
  let got = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    got += chunk
  })
  socket.on('error', () => {})
  socket.write(text)
  await once(socket, 'close')
  const [head = '', body = ''] = got.split('\r\n\r\n')
  const [status = '', ...fields] = head.split('\r\n')
  const headers = new Headers(
    fields.map((field): [string, string] => [field.split(':')[0] ?? '', field.replace(/^.*?: /, '')]),
  )
  return { status: Number(status.split(' ')[1]), headers, body: body && JSON.parse(body) }
}

t.test('malformed HTTP', async (t) => {
  const before = await written()
  const request = (line: string, body: string, ...headers: string[]) => {
    const head = [`${line} HTTP/1.1`, 'Host: x', 'Connection: close', `Content-Length: ${body.length}`, ...headers]
    return `${head.join('\r\n')}\r\n\r\n${body}`
  }
  const json = JSON.stringify(purchase())
  const post = (...headers: string[]) => request('POST /api/purchases', json, ...headers)
  const put = (...headers: string[]) =>
    request('PUT /api/resources/good/1', JSON.stringify(GOOD), JSON_TYPE, ...headers)
  const JSON_TYPE = 'Content-Type: application/json'
  const cases: [name: string, status: number, text: string, instance: string][] = [
    ['garbage', 400, 'GARBAGE\r\n\r\n', '/'],
    ['an unknown method', 400, 'FOO /api/purchases HTTP/1.1\r\nHost: x\r\n\r\n', '/'],
    ['20 KiB in one header', 431, post(JSON_TYPE, `Idempotency-Key: ${'a'.repeat(20_000)}`), '/'],
    ['a control character in a header', 400, post(JSON_TYPE, 'Idempotency-Key: a\u0001b'), '/'],
    ['a NUL in a header', 400, post(JSON_TYPE, 'Idempotency-Key: a\u0000b'), '/'],
    ['two lengths', 400, post(JSON_TYPE, `Content-Length: ${json.length + 1}`), '/'],
    ['a length and chunks', 400, post(JSON_TYPE, 'Transfer-Encoding: chunked'), '/'],
    ['no Content-Type', 415, post(), '/api/purchases'],
    ['two Content-Types: the first counts', 415, post('Content-Type: text/plain', JSON_TYPE), '/api/purchases'],
    ['two If-Match, one of them bad', 400, put('If-Match: "1"', 'If-Match: banana'), '/api/resources/good/1'],
    ['an absolute URL', 404, request('GET http://x/nowhere', ''), 'http://x/nowhere'],
  ]
  for (const [name, status, text, instance] of cases) {
    const answer = await send(text)
    t.equal(answer.status, status, `${name}: ${answer.body.detail}`)
    t.equal(faultOfProblem(status, answer.headers.get('content-type'), answer.body, instance), '', 'a problem')
  }
  t.same(await written(), before, 'nothing was written')
})

t.test('after all cases: the server has logged no error', async (t) => {
  t.equal(api.logs(), '', 'no fault of its own was logged')
  t.equal((await call('GET', '/readyz')).body.status, 'ready')
})
