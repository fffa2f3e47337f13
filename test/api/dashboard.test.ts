/** The dashboard's data: equal to the API's, collected once for all viewers; and who may read it. */
import t, { type Test } from 'tap'
import { Collector } from '../../src/api/dashboard/collector.ts'
import { startApi } from '../../src/api/server.ts'
import { readConfig } from '../../src/shared/config.ts'
import { createDependencies } from '../../src/shared/dependencies.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { openShop, rush } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const log = createLog('silent', 'test')
const [api, worker] = await Promise.all([world.startApi(), world.startWorker()])
const call = contract(api.url)

/** Returns events of /api/dashboard, read until `enough` returns true. */
async function listen(url: string, enough: (events: string[]) => boolean, headers: Record<string, string> = {}) {
  const stop = new AbortController()
  const response = await fetch(`${url}/api/dashboard`, {
    headers: { accept: 'text/event-stream', ...headers },
    signal: stop.signal,
  })
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += Buffer.from(chunk).toString()
    if (enough(text.split('\n\n').slice(0, -1))) break
  }
  stop.abort()
  return { response, events: text.split('\n\n').slice(0, -1) }
}

/** Starts an API in this process that requires keys. */
async function keyed(t: Test) {
  const config = readConfig({ ...world.env, API_KEYS: 'user-key', ADMIN_KEYS: 'admin-key', LAB: '0' })
  const one = await startApi({ config, metrics: createMetrics(), log })
  t.teardown(() => one.close())
  return { url: await one.app.listen({ host: '127.0.0.1', port: 0 }), app: one.app }
}

/** Creates a shop with sold, held and available units, and a lock with a holder and a waiter. */
async function stocked(t: Test) {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  for (const more of [{}, {}, { hold_seconds: 600 }]) {
    const body = { customer: 'ada', lines: [{ resource: ref, units: 1 }], ...more }
    await until(async () => (await shop.buy(body, { prefer: 'wait=10' })).status === 201)
  }
  const lock = `room:${ref.split(':')[1]}`
  const lease = (owner: string, wait_ms: number) =>
    fetch(`${api.url}/api/leases`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ resource: lock, mode: 'exclusive', ttl_ms: 60_000, wait_ms, owner }),
    })
  const held = (await (await lease('ada', 0)).json()) as { lease_id: string; fencing_token: number }
  const waiting = lease('bob', 30_000).catch(() => undefined)
  t.teardown(async () => {
    await fetch(`${api.url}/api/leases/${held.lease_id}`, { method: 'DELETE' }).catch(() => undefined)
    await waiting
  })
  await until(async () => (await call('GET', `/api/locks/${lock}`)).body.waiters.length === 1)
  return { shop, ref, lock, token: held.fencing_token }
}

t.test('snapshot and stream: equal to the routes of the API', async (t) => {
  const { shop, ref, lock, token } = await stocked(t)
  const { body } = await call('GET', '/api/dashboard')
  t.same(
    body.resources.find((one: { resource: string }) => one.resource === ref),
    await shop.resource(ref),
  )
  const shown = body.locks.find((one: { resource: string }) => one.resource === lock)
  t.match(shown, { holders: [{ owner: 'ada', fencing_token: token }], waiters: [{ owner: 'bob' }] })
  t.match(body, { lab: true, queues: [], throughput: { per_second: null } })
  const own = body.processes.find((one: { role: string }) => one.role === 'api')
  t.match(own, { id: `${own.host}:${api.pid}`, breakers: { postgres: 'closed', intake: 'closed' } })

  const counted = (events: string[]) =>
    events.some((one) => /"throughput":\{[^}]*"per_second":[0-9.]*[1-9]/.test(one) && /"wait_p50_ms":\d/.test(one))
  const stream = listen(api.url, counted)
  // A throughput sample covers a second: every sale falls into one of them.
  let stop = false
  void stream.finally(() => {
    stop = true
  })
  while (!stop) await shop.buy({ customer: 'bob', lines: [{ resource: ref, units: 1 }] }, { prefer: 'wait=10' })
  const { response, events } = await stream
  t.match(response.headers.get('content-type'), /^text\/event-stream/)
  t.match(events[0], /^event: samples\ndata: \[/m)
})

t.test('queue without a worker: its length and the age of its oldest row', async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  worker.kill('SIGSTOP')
  await rush(shop, ref, 7)
  const line = async () =>
    (await call('GET', '/api/dashboard')).body.queues.find((one: { resource: string }) => one.resource === ref)
  const seen = await until(async () => ((await line())?.length === 7 ? await line() : undefined))
  t.match(seen, { length: 7, more: false })
  t.ok(seen.oldest_ms < 60_000)
  worker.kill('SIGCONT')
  await until(async () => (await shop.queued()) === 0)
  t.equal((await shop.resource(ref)).sold, 7)
})

t.test('page: public without data; its data needs a key, the queues an admin key', async (t) => {
  const { url, app } = await keyed(t)
  const page = await app.inject('/')
  t.equal(page.statusCode, 200)
  t.match(page.headers['content-security-policy'], /default-src 'none'; script-src 'self'; style-src 'self';/)
  t.notMatch(page.body, /<script>|style=|onclick=/, 'nothing inline')
  t.equal((await app.inject({ url: '/', headers: { 'if-none-match': String(page.headers.etag) } })).statusCode, 304)
  t.equal((await app.inject('/api/dashboard')).statusCode, 401)
  t.equal((await app.inject({ url: '/api/dashboard', headers: { accept: 'text/event-stream' } })).statusCode, 401)
  const { events } = await listen(url, (all) => all.length > 1, { 'x-api-key': 'user-key' })
  t.match(events[1], /"lab":false/)

  const basic = (key: string) => ({ authorization: `Basic ${Buffer.from(`me:${key}`).toString('base64')}` })
  const board = (headers: Record<string, string>, path = '', method = 'GET') =>
    fetch(`${url}/admin/queues${path}`, { method, headers, redirect: 'manual' })
  for (const headers of [{}, basic('user-key'), basic(''), { authorization: 'Basic !' }]) {
    const refused = await board(headers)
    t.equal(refused.status, 401)
    t.match(refused.headers.get('www-authenticate'), /^Basic realm=/)
  }
  t.equal((await board(basic('admin-key'))).status, 200)
  const queues = (await (await board(basic('admin-key'), '/api/queues')).json()) as { queues: { name: string }[] }
  t.same(queues.queues.map(({ name }) => name).sort(), ['payments', 'purchases', 'webhooks'])
  const elsewhere = { ...basic('admin-key'), 'sec-fetch-site': 'cross-site' }
  t.equal((await board(elsewhere, '/api/queues/purchases/pause', 'PUT')).status, 403)
})

t.test(
  'subscribers: one collection for all, none without; a part that hangs is null, and is queried once',
  async (t) => {
    let queries = 0
    let subscribed = 0
    const locks = {
      async list() {
        queries += 1
        return []
      },
    }
    const client = { unsafe: () => new Promise(() => {}) }
    const redis = {
      mget: async () => [null, null],
      hgetall: async () => ({}),
      time: async () => [0, 0],
      zcard: async () => 0,
      zcount: async () => 0,
    }
    const waiter = {
      subscribe() {
        subscribed += 1
        return () => (subscribed -= 1)
      },
    }
    const dependencies = createDependencies({})
    const deps = { client, locks, redis, waiter, prefix: '', dependencies, lab: false, log }
    const dashboard = new Collector(deps as unknown as ConstructorParameters<typeof Collector>[0])
    const seen = [0, 0, 0]
    const unsubscribe = seen.map((_, i) =>
      dashboard.subscribe((json) => {
        t.match(JSON.parse(json), { resources: null, queues: null, locks: [], verification: null })
        seen[i] = (seen[i] ?? 0) + 1
      }),
    )
    await until(() => seen.every((n) => n >= 1))
    t.ok(queries <= Math.max(...seen) + 1, `${queries} collections for ${seen} snapshots`)
    t.equal(subscribed, 1)
    for (const end of unsubscribe) end()
    t.equal(subscribed, 0)
    t.match((await dashboard.collect()).snapshot, { queues: null })
    dashboard.close()
  },
)
