/** SIGTERM under load: no connection is cut, and every answer follows the contract. */
import { Agent, type IncomingMessage, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { openShop } from '../support/api-client.ts'
import { openWorld, type Running, until } from '../support/environment.ts'
import { faultOf, faultOfProblem } from '../support/openapi-contract.ts'

/** Long enough for the balancer below to notice it on a busy machine. */
const DRAIN = { DRAIN_MS: '1500' }

const AT_ONCE = 4
/**
 * Number of stops. Each is another sample of the same race, and costs 4 s of a processor. TEST_STOPS=20 is the long
 * mode.
 */
const STOPS = Number(process.env.TEST_STOPS ?? AT_ONCE)
// Each stop includes a start, a pause and a drain.
t.setTimeout(900_000)

interface Ask {
  method: string
  path: string
  body?: object
  headers?: Record<string, string>
}
interface Got {
  status: number
  headers: Headers
  text: string
}

/** Sends one request on the agent's connection. @throws if the connection is cut before the answer is complete */
function send(base: string, agent: Agent, { method, path, body, headers = {} }: Ask): Promise<Got> {
  const { promise, resolve, reject } = deferred<Got>()
  const outgoing = request(new URL(path, base), {
    method,
    agent,
    headers: body ? { 'content-type': 'application/json', ...headers } : headers,
  })
  outgoing.once('error', reject)
  outgoing.once('response', (response: IncomingMessage) => {
    let text = ''
    response.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
    response.once('error', reject)
    response.once('end', () =>
      resolve({ status: response.statusCode ?? 0, headers: new Headers(flat(response)), text }),
    )
  })
  outgoing.end(body && JSON.stringify(body))
  return promise
}
const flat = ({ headers }: IncomingMessage) =>
  Object.entries(headers).map(([name, value]) => [name, String(value)] as [string, string])
function deferred<T>() {
  let resolve: (value: T) => void = () => {}
  let reject: (error: Error) => void = () => {}
  const promise = new Promise<T>((one, other) => {
    resolve = one
    reject = other
  })
  return { promise, resolve, reject }
}

const keptAlive = () => new Agent({ keepAlive: true, maxSockets: 1 })
const hasConnection = (agent: Agent) => Object.values(agent.freeSockets).flat().length > 0

/** Returns the fault of an answer by the contract, or '' if it has none. */
function faultIn({ method, path }: Ask, { status, headers, text }: Got): string {
  const json = /json/.test(headers.get('content-type') ?? '')
  const fault = faultOf(method, path, { status, headers, body: json ? JSON.parse(text) : text })
  if (fault) return `${method} ${path} → ${status} ${text.slice(0, 200)}: ${fault}`
  const retryable = status === 503 && path.startsWith('/api/')
  return retryable && !headers.has('retry-after') ? `${method} ${path} → ${text}: no Retry-After` : ''
}

/**
 * Simulates a balancer, which opens connections to this process as long as it is ready. It requests /readyz, each time
 * on a new connection.
 */
function balancer({ url }: Running) {
  const view = { ready: true, seen: [] as number[], over: false }
  const look = async () => {
    while (!view.over) {
      const agent = new Agent()
      const { status } = await send(url, agent, { method: 'GET', path: '/readyz' }).catch(() => ({ status: 0 }))
      view.seen.push(status)
      view.ready &&= status === 200
      if (status === 0) return
      await sleep(20)
    }
  }
  return { view, done: look() }
}

/**
 * Runs clients that send one request after the other, each client on a kept-alive connection. After the balancer has
 * removed the process, they open no new connections and use theirs until an answer tells them to close.
 */
async function load(url: string, clients: number, view: { ready: boolean }, asks: (n: number) => Ask) {
  const counts = { answers: 0, closed: 0, faults: [] as string[] }
  const client = async (n: number) => {
    const agent = keptAlive()
    for (let i = n; view.ready || hasConnection(agent); i++) {
      const ask = asks(i)
      try {
        const got = await send(url, agent, ask)
        counts.answers++
        if (got.headers.get('connection') === 'close') counts.closed++
        const fault = faultIn(ask, got)
        if (fault) counts.faults.push(fault)
      } catch (error) {
        counts.faults.push(`${ask.method} ${ask.path}: ${(error as Error).message}`)
        if (!view.ready) break
      }
      // The connection is free for the next request in the next turn.
      await sleep(i % 3)
    }
    agent.destroy()
  }
  await Promise.all(Array.from({ length: clients }, (_, n) => client(n)))
  return counts
}

t.test(`${STOPS} stops of an API under load: no connection is reset, every answer follows the contract`, async (t) => {
  const world = await openWorld(t)
  await world.startWorker()
  const first = await world.startApi()
  const shop = openShop(t, [first.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 1_000_000)
  const mixed = (n: number): Ask => {
    const body = { customer: 'ada', lines: [{ resource: ref, units: 1 }] }
    const asks: Ask[] = [
      { method: 'POST', path: '/api/purchases', body },
      { method: 'GET', path: '/api/resources?limit=1' },
      { method: 'POST', path: '/api/purchases', body, headers: { prefer: 'wait=30' } },
      { method: 'GET', path: `/api/resources/${ref.replace(':', '/')}` },
      { method: 'GET', path: '/livez' },
      { method: 'PUT', path: '/api/resources/nothing/1', body: { kind: 'units' } },
      { method: 'GET', path: '/nowhere' },
      { method: 'POST', path: '/api/leases', body: { resource: ref, mode: 'exclusive', ttl_ms: 10_000, owner: 'x' } },
    ]
    return asks[n % (asks.length - 1)] as Ask
  }
  for (let stops = 0; stops < STOPS; stops += AT_ONCE) {
    const apis = await Promise.all(Array.from({ length: AT_ONCE }, () => world.startApi(DRAIN)))
    await Promise.all(apis.map((api) => stopUnderLoad(t, api, mixed)))
  }
})

async function stopUnderLoad(t: Test, api: Running, asks: (n: number) => Ask) {
  const { view, done } = balancer(api)
  const loaded = load(api.url, 8, view, asks)
  await until(() => view.seen.length > 10, { what: 'the load to flow' })
  api.kill('SIGTERM')
  const how = await api.exited
  view.over = true
  await done
  const { answers, closed, faults } = await loaded
  t.same(faults, [], `of ${answers} answers`)
  t.ok(closed >= 8, `each client was told to close its connection (${closed})`)
  t.ok(view.seen.includes(503), 'a balancer sees it before the socket is closed')
  t.equal(how, 'code 0', api.logs().slice(-2_000))
}

t.test('stop during long waits and streams: waits are answered early, streams end', async (t) => {
  const world = await openWorld(t)
  const [api, other] = await Promise.all([
    world.startApi({ ...DRAIN, SHUTDOWN_MS: '20000' }),
    world.startApi(),
    world.startWorker(),
  ])
  const shop = openShop(t, [other.url], world.env.DATABASE_URL)
  const [free, stuck] = [await shop.units('product', 5), await shop.units('product', 5)]
  const lease = { resource: stuck, mode: 'exclusive', ttl_ms: 60_000, owner: 'test' }
  const post = (path: string, body?: object, headers = {}) =>
    send(api.url, keptAlive(), { method: 'POST', path, headers, ...(body && { body }) })
  const hold = { customer: 'ada', lines: [{ resource: stuck, units: 1 }], hold_seconds: 600 }
  const held = await post('/api/purchases', hold, { prefer: 'wait=30' })
  t.match(JSON.parse(held.text), { status: 'held' })
  t.equal((await post('/api/leases', lease)).status, 201)

  const purchase = { customer: 'ada', lines: [{ resource: stuck, units: 1 }] }
  const bought = post('/api/purchases', purchase, { prefer: 'wait=30', 'idempotency-key': 'once' })
  const replayed = until(() => shop.queued(), { what: 'the purchase to be queued' }).then(() =>
    post('/api/purchases', purchase, { prefer: 'wait=30', 'idempotency-key': 'once' }),
  )
  const command = post(`/api/purchases/${JSON.parse(held.text).id}/confirm`, undefined, { prefer: 'wait=30' })
  const locked = post('/api/leases', { ...lease, wait_ms: 30_000 })
  const streams = ['/api/events', '/api/dashboard'].map((path) =>
    send(api.url, keptAlive(), { method: 'GET', path, headers: { accept: 'text/event-stream' } }),
  )
  const waiting = async () => {
    const { text } = await send(other.url, keptAlive(), { method: 'GET', path: `/api/locks/${stuck}` })
    return JSON.parse(text).waiters.some((one: { owner: string }) => one.owner === 'test')
  }
  await until(waiting, { what: 'the second lease to wait' })
  await until(async () => (await shop.client`SELECT FROM commands`).length > 0, { what: 'the command to be queued' })
  await sleep(300)
  const idle = keptAlive()
  await send(api.url, idle, { method: 'GET', path: '/livez' })

  api.kill('SIGTERM')
  const since = performance.now()
  const probe = () => send(api.url, new Agent(), { method: 'GET', path: '/readyz' })
  await until(async () => JSON.parse((await probe()).text).status === 'stopping', { what: 'readiness to be off' })
  const meanwhile = { customer: 'ada', lines: [{ resource: free, units: 1 }] }
  const during = await post('/api/purchases', meanwhile, { prefer: 'wait=30' })
  t.match([during.status, during.headers.get('connection')], [201, 'close'], 'everything is still answered')

  for (const [name, pending] of Object.entries({ bought, replayed, command })) {
    const got = await pending
    t.equal(got.status, 202, `${name}: ${got.text}`)
    t.equal(got.headers.get('connection'), 'close')
    t.equal(got.headers.get('retry-after'), '1')
  }
  const refused = await locked
  t.match(JSON.parse(refused.text), { status: 503, code: 'stopping', retryable: true })
  t.equal(refused.headers.get('retry-after'), '1')
  t.equal(faultOfProblem(503, refused.headers.get('content-type'), JSON.parse(refused.text), '/api/leases'), '')
  for (const stream of streams) t.equal((await stream).status, 200, 'to its end')
  t.equal(await api.exited, 'code 0')
  t.ok(performance.now() - since < 15_000, 'long before the deadline')
  t.notMatch(api.logs(), /"level":(40|50)/, 'no step was slow')
})

t.test('stop with a hanging step: the later steps still run', async (t) => {
  const world = await openWorld(t)
  const postgres = await world.ownPostgres()
  const env = { DATABASE_URL: postgres.url, SHUTDOWN_MS: '6000', LOG_LEVEL: 'info', LEASE_TTL_MS: '60000' }
  const [api, worker, other] = await Promise.all([
    world.startApi(env),
    world.startWorker(env),
    world.startApi({ DATABASE_URL: postgres.url }),
  ])
  const shop = openShop(t, [other.url], postgres.url)
  const ref = await shop.units('product', 5)
  // The row lock keeps the worker inside its batch for longer than the time limit of its stop.
  await shop.client.begin(async (tx) => {
    await tx`SELECT 1 FROM resources WHERE id = ${ref} FOR UPDATE`
    await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
    const holder = async () => {
      const { text } = await send(other.url, new Agent(), { method: 'GET', path: `/api/locks/${ref}` })
      return JSON.parse(text).holders.length
    }
    await until(async () => (await holder()) === 1, { what: 'the worker to hold the lease' })
    worker.kill('SIGTERM')
    t.equal(await worker.exited, 'code 0')
    t.match(worker.logs(), /"step":"finish batches"/, 'the log names the step that was skipped')
    t.equal(await holder(), 0, 'the lease was released all the same')
  })
  api.kill('SIGTERM')
  t.equal(await api.exited, 'code 0')
})

t.test('stop of a worker: its health server answers until the end, and /readyz reports the stop', async (t) => {
  const world = await openWorld(t)
  const workers = await Promise.all(Array.from({ length: AT_ONCE }, () => world.startWorker(DRAIN)))
  const paths = ['/livez', '/readyz', '/metrics']
  await Promise.all(
    workers.map((worker) => stopUnderLoad(t, worker, (n) => ({ method: 'GET', path: paths[n % 3] ?? '' }))),
  )
  const worker = await world.startWorker()
  const head = await fetch(`${worker.url}/livez`, { method: 'HEAD' })
  t.same([head.status, await head.text()], [200, ''])
  for (const [method, path, status, allow] of [
    ['POST', '/readyz', 405, 'GET, HEAD'],
    ['GET', '/nowhere', 404, null],
  ] as const) {
    const answer = await fetch(`${worker.url}${path}`, { method })
    t.match([answer.status, answer.headers.get('allow')], [status, allow])
    t.equal(faultOfProblem(status, answer.headers.get('content-type'), await answer.json(), path), '')
  }
})
