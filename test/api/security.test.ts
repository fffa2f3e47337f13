/** Keys and scopes, rate limit, browser headers, and secrets that are never logged. */
import { randomBytes } from 'node:crypto'
import { Writable } from 'node:stream'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { startApi } from '../../src/api/server.ts'
import { readKey } from '../../src/shared/api-keys.ts'
import { readConfig } from '../../src/shared/config.ts'
import { openDb } from '../../src/shared/db/client.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { openWorld, until } from '../support/environment.ts'
import { operations } from '../support/openapi-contract.ts'

const world = await openWorld(t)

async function inProcess(t: Test, env: Record<string, string>, redis_url = world.env.REDIS_URL) {
  const config = readConfig({ ...world.env, ...env, REDIS_URL: redis_url })
  const api = await startApi({ config, metrics: createMetrics(), log: createLog('silent', 'api') })
  t.teardown(() => api.close())
  return api.app
}

const digest = (key: string) => {
  const read = readKey(key)
  return typeof read === 'string' ? '' : read.digest.toString('hex')
}

t.test('key: accepted for its scopes only, on every route of the document', async (t) => {
  const [sell, book, lock, any, admin] = Array.from({ length: 5 }, () => randomBytes(16).toString('hex')) as [
    string,
    string,
    string,
    string,
    string,
  ]
  const app = await inProcess(t, {
    API_KEYS: `sell:${sell}, book:sha256:${digest(book)},lock:${lock}, sha256:${digest(any)}`,
    ADMIN_KEYS: `sha256:${digest(admin)}`,
  })
  const ask = async (method: 'get' | 'put' | 'post' | 'delete', path: string, key?: string) => {
    const headers = key === undefined ? {} : { authorization: `Bearer ${key}` }
    // A stream would not end by itself, so send an invalid request, which is rejected after the key check.
    const url = path.replace(/\{\w+\}/g, '!') + (path === '/api/events' ? '?limit=0' : '')
    // Send a body that every route rejects: an accepted key gets 400, and nothing changes.
    const payload =
      method === 'get' ? {} : { payload: '[]', headers: { ...headers, 'content-type': 'application/json' } }
    const { statusCode, body } = await app.inject({ method, url, headers, ...payload })
    return statusCode === 401 || statusCode === 403 ? JSON.parse(body).code : 'let in'
  }
  const NEEDS: Record<string, string[]> = {
    resources: [sell, book],
    purchases: [sell],
    bookings: [book],
    leases: [lock],
    locks: [lock],
    // The dashboard shows data of every scope.
    dashboard: [any],
  }
  const under = operations.filter(({ path }) => path.startsWith('/api/'))
  t.ok(under.length > 20)
  for (const { path, method } of under) {
    const needs = NEEDS[path.split('/')[2] ?? ''] ?? []
    const forAdmins = needs.length === 0 || (method === 'delete' && path === '/api/locks/{resource}')
    const said = await Promise.all(
      [undefined, 'wrong', sell, book, lock, any, admin].map((key) => ask(method, path, key)),
    )
    const expected = forAdmins
      ? ['unauthorized', 'unauthorized', ...Array(4).fill('admin_required'), 'let in']
      : [
          'unauthorized',
          'unauthorized',
          ...[sell, book, lock].map((key) => (needs.includes(key) ? 'let in' : 'scope_required')),
          'let in',
          'let in',
        ]
    t.same(said, expected, `${method} ${path}`)
  }
  t.equal(await ask('get', '/api/purchases', digest(sell)), 'unauthorized', 'a digest is no key')
})

t.test('invalid keys: the process exits at start, and does not print them', async (t) => {
  const wrong: [name: string, value: string, says: RegExp][] = [
    ['API_KEYS', 'sha256:beef', /^API_KEYS has a sha256: without its 64 hexadecimal digits$/],
    ['API_KEYS', 'good,sell+book:', /^API_KEYS has an entry that names no key$/],
    ['ADMIN_KEYS', 'lock:hunter2', /^ADMIN_KEYS takes no scopes: its keys may do everything$/],
    ['RATE_LIMIT', '0', /^RATE_LIMIT must be a whole number from 1 /],
    ['CORS_ORIGINS', 'shop.example', /^CORS_ORIGINS must be origins like /],
    ['CORS_ORIGINS', 'https://shop.example/', /^CORS_ORIGINS /],
    ['CORS_ORIGINS', '*', /^CORS_ORIGINS /],
  ]
  for (const [name, value, message] of wrong) {
    t.throws(() => readConfig({ ...world.env, [name]: value }), { message }, `${name}=${value}`)
  }
  const [odd] = readConfig({ ...world.env, API_KEYS: 'rent:a=b:c' }).api_keys
  t.same(odd, readKey('rent:a=b:c'), 'a key may hold colons')
  t.same(odd?.scopes, ['sell', 'book', 'lock'])
})

t.test('RATE_LIMIT: counted by key, health is never limited', async (t) => {
  const app = await inProcess(t, { API_KEYS: 'one,two', RATE_LIMIT: '5' })
  const ask = (key: string) => app.inject({ url: '/api/purchases?limit=1', headers: { 'x-api-key': key } })
  await until(async () => (await ask('two')).headers['ratelimit-remaining'] === '4', { what: 'Redis to count' })
  // A second may end once between the requests, but not twice. On a busy machine Redis may answer late, and then
  // requests are not counted.
  const refused = await until(
    async () => {
      const all = await Promise.all(Array.from({ length: 20 }, () => ask('one')))
      const late = all.filter(({ statusCode }) => statusCode === 429)
      return late.length >= 10 ? late : undefined
    },
    { what: '10 of 20 to be refused', timeout_ms: 60_000 },
  )
  t.match(refused[0]?.json(), { code: 'rate_limited', retryable: true, retry_after: 1 })
  t.equal(refused[0]?.headers['retry-after'], '1')
  t.match(await ask('two'), { statusCode: 200, headers: { 'ratelimit-limit': '5' } })
  const health = await Promise.all(Array.from({ length: 10 }, () => app.inject('/livez')))
  t.ok(health.every(({ statusCode }) => statusCode === 200))
})

t.test('RATE_LIMIT with a Redis that hangs: requests are not counted, purchases are accepted', async (t) => {
  const redis = await world.ownRedis()
  const app = await inProcess(t, { RATE_LIMIT: '1' }, redis.url)
  const put = (url: string, payload: object) => app.inject({ method: 'PUT', url, payload })
  const product = { name: 'a', kind: 'units', total: 5, price: { amount: 1, currency: 'EUR' } }
  await until(async () => (await put('/api/resources/limit/1', product)).statusCode === 201)
  await redis.stop('SIGSTOP')
  t.teardown(() => redis.stop('SIGCONT'))
  const payload = { customer: 'ada', lines: [{ resource: 'limit:1', units: 1 }] }
  for (let n = 0; n < 3; n++) {
    t.equal((await app.inject({ method: 'POST', url: '/api/purchases', payload })).statusCode, 202)
  }
})

t.test('browsers: other origins read nothing unless they are configured, and no site can frame a page', async (t) => {
  const origin = 'https://shop.example'
  const [closed, open] = [
    await inProcess(t, {}),
    await inProcess(t, { CORS_ORIGINS: `${origin}, http://localhost:5173` }),
  ]
  const ask = (app: typeof open, from: string, method: 'GET' | 'OPTIONS' = 'GET') =>
    app.inject({ method, url: '/api/resources', headers: { origin: from, 'access-control-request-method': 'GET' } })
  t.equal((await ask(closed, origin)).headers['access-control-allow-origin'], undefined)
  t.equal((await ask(open, 'https://evil.example')).headers['access-control-allow-origin'], undefined)
  t.equal((await ask(open, origin)).headers['access-control-allow-origin'], origin)
  const guarded = await inProcess(t, { CORS_ORIGINS: origin, API_KEYS: 'a' })
  t.match(await ask(guarded, origin), {
    statusCode: 401,
    headers: { 'access-control-allow-origin': origin, 'x-content-type-options': 'nosniff' },
  })
  t.match(await ask(open, origin, 'OPTIONS'), { statusCode: 204, headers: { 'access-control-allow-origin': origin } })
  for (const url of ['/api/resources', '/docs/', '/no/such/page']) {
    const { headers } = await closed.inject(url)
    t.match(headers['content-security-policy'], /default-src 'self';.*frame-ancestors 'none'/, url)
    t.notMatch(headers['content-security-policy'], /script-src[^;]*unsafe/)
    t.match(headers, { 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' })
    t.notOk(headers['x-powered-by'] || headers.server)
  }
})

t.test('logs: contain no data of a customer or card from errors', async (t) => {
  const redis = new Redis(world.env.REDIS_URL)
  const db = openDb(world.env.DATABASE_URL, { max: 1, name: 'log', idle_in_transaction_ms: 5_000 })
  t.teardown(async () => {
    redis.disconnect()
    await db.close()
  })
  const lines: string[] = []
  const sink = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk))
      done()
    },
  })
  const log = createLog('info', 'api', { to: sink })
  const caught = async (body: Promise<unknown>) =>
    body.then(
      () => t.fail('did not fail'),
      (error) => {
        log.error({ error, row: { id: 7, customer: 'secret-ada', payment: { token: 'secret-tok' } } }, 'failed')
        log.error({ error: new Error('outer', { cause: error }) }, 'failed')
      },
    )
  await caught(redis.call('HSET', 'secret-key', 'only-one'))
  await caught(db.client`INSERT INTO resources (id, kind, name, total) VALUES ('x:1', 'units', 'secret-name', -1)`)
  const text = lines.join('')
  t.equal(lines.length, 4)
  t.notMatch(text, /secret-/)
  t.match(text, /"id":7/)
  t.match(text, /"code":"23514"/)
})
