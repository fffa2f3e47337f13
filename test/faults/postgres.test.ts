/** A sale while Postgres is away: buyers get 503 within two seconds, and nothing is half-done. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import t from 'tap'
import { metric, openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, signalAll, until } from '../support/environment.ts'
import { startProxy } from '../support/tcp-proxy.ts'

/** First byte of a client's message after login: Parse or Query. */
const ASKS = /^[PQ]/

for (const how of ['stands still', 'is shut down'] as const) {
  t.test(`Postgres ${how} for 10 s: 503 with Retry-After within 2 s, nothing half-done`, async (t) => {
    const world = await openWorld(t)
    const postgres = await world.ownPostgres()
    const env = { ...TTL, DATABASE_URL: postgres.url }
    const [api, worker] = await Promise.all([world.startApi(env), world.startWorker(env)])
    const shop = openShop(t, [api.url], postgres.url)
    const ref = await shop.units('product', 1_000)
    const acknowledged = await rush(shop, ref, 50)
    let stop = false
    const refused: { ms: number; retry_after: string | null; status: number; code: string }[] = []
    /** Buys continuously, also during the fault. */
    const buyer = async () => {
      while (!stop) {
        const since = performance.now()
        const answer = await shop.buy({ customer: 'c', lines: [{ resource: ref, units: 1 }] })
        if (answer.status === 202) acknowledged.push(answer.body.id)
        else {
          const { status, headers, body } = answer
          refused.push({
            ms: performance.now() - since,
            retry_after: headers.get('retry-after'),
            status,
            code: body.code,
          })
          await new Promise((resolve) => setTimeout(resolve, 100))
        }
      }
    }
    const buyers = Array.from({ length: 4 }, buyer)
    const since = performance.now()
    if (how === 'stands still') signalAll(postgres.pid, 'SIGSTOP')
    else await postgres.stop('SIGQUIT')
    await until(async () => (await fetch(`${api.url}/readyz`)).status === 503, { what: 'readyz to say so' })
    // Delay that the busy machine adds to an answer that waits for nothing.
    let late_ms = 0
    while (performance.now() - since < 10_000) {
      const asked = performance.now()
      t.equal((await fetch(`${api.url}/livez`)).status, 200, 'alive all the same')
      late_ms = Math.max(late_ms, performance.now() - asked)
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    if (how === 'stands still') signalAll(postgres.pid, 'SIGCONT')
    else await postgres.restart()
    await until(async () => (await fetch(`${api.url}/readyz`)).status === 200, { what: 'readyz to be well' })
    const during = acknowledged.length
    await until(() => acknowledged.length > during, { what: 'the buyers to buy again' })
    stop = true
    await Promise.all(buyers)
    t.ok(refused.length > 0)
    t.same(
      refused.filter((one) => one.status !== 503 || one.retry_after === null),
      [],
      'refused with Retry-After',
    )
    const worst_ms = Math.max(...refused.map((one) => one.ms))
    t.ok(worst_ms - late_ms < 2_000, `within two seconds: ${Math.round(worst_ms)} ms, ${Math.round(late_ms)} ms late`)
    await settled(t, shop, ref, acknowledged, 1_000)
    const [extra] = await shop.client<{ n: number }[]>`
      SELECT count(*)::int AS n FROM purchases WHERE queue = ${ref} AND status <> 'cancelled'`
    t.ok((extra?.n ?? 0) - acknowledged.length <= 4, 'at most the commits whose answer was lost are there besides')
    t.ok(
      (await metric(worker.url, 'holdfast_purchases_total{status="confirmed"}')) > 0,
      'the same worker settles again',
    )
  })
}

t.test('Postgres stops while a buyer waits for the outcome: 202, and the purchase stays queued', async (t) => {
  const world = await openWorld(t)
  const postgres = await world.ownPostgres()
  const env = { ...TTL, DATABASE_URL: postgres.url }
  const api = await world.startApi(env)
  const shop = openShop(t, [api.url], postgres.url)
  const ref = await shop.units('product', 1)
  const buying = shop.buy({ customer: 'c', lines: [{ resource: ref, units: 1 }] }, { prefer: 'wait=3' })
  await until(async () => (await shop.queued()) === 1, { what: 'the purchase to be in its line' })
  await postgres.stop('SIGQUIT')
  const answer = await buying
  t.match(answer, { status: 202, body: { status: 'queued' } })
  await postgres.restart()
  await world.startWorker(env)
  await settled(t, shop, ref, [answer.body.id], 1)
})

t.test('connections reset right after login: no process ends', async (t) => {
  const world = await openWorld(t)
  const address = new URL(world.env.DATABASE_URL)
  let cuts = 0
  const proxy = await startProxy(Number(address.port), (link, chunk) => {
    if (!ASKS.test(chunk)) return
    cuts += 1
    link.reset()
  })
  t.teardown(() => proxy.stop())
  address.port = String(proxy.port)
  const env = { ...TTL, DATABASE_URL: address.href, LOG_LEVEL: 'fatal' }
  const [api, worker] = await Promise.all([world.startApi(env), world.startWorker(env)])
  // The API queries when it gets a request, the worker's sweeper by itself.
  for (const one of [api, worker]) {
    const before = cuts
    await until(async () => {
      t.equal((await fetch(`${one.url}/readyz`)).status, 503)
      return cuts > before + 1
    })
    t.equal((await fetch(`${one.url}/livez`)).status, 200)
  }
})

t.test('flush delivered after its callers got 503: writes nothing', async (t) => {
  const world = await openWorld(t)
  const address = new URL(world.env.DATABASE_URL)
  const server_port = Number(address.port)
  let deliver: (() => void) | undefined
  /** Holds back the late buyer's flush. Bytes that it has let through arrive, whatever happens to their sender. */
  const network = createServer({ allowHalfOpen: true, noDelay: true }, (down) => {
    const up = connect({ port: server_port, host: '127.0.0.1', noDelay: true })
    for (const socket of [down, up]) socket.on('error', () => {})
    up.pipe(down)
    down.on('data', (chunk) => {
      if (String(chunk).includes('late-buyer')) deliver = () => up.write(chunk)
      else up.write(chunk)
    })
    t.teardown(() => [down, up].map((socket) => socket.destroy()))
  }).listen(0, '127.0.0.1')
  await once(network, 'listening')
  t.teardown(() => network.close())
  address.port = String((network.address() as AddressInfo).port)
  const api = await world.startApi({ ...TTL, DATABASE_URL: address.href })
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  // From here on the statement is prepared, so the bytes held back are the whole flush.
  const first = await shop.buy({ customer: 'first', lines: [{ resource: ref, units: 1 }] })
  t.equal(first.status, 202)
  const late = await shop.buy({ customer: 'late-buyer', lines: [{ resource: ref, units: 1 }] })
  t.match(late, { status: 503, body: { code: 'unavailable' } })
  const sessions = async () => {
    const [row] = await shop.client<{ n: number }[]>`
      SELECT count(*)::int AS n FROM pg_stat_activity
      WHERE application_name LIKE 'holdfast-intake%' AND datname = current_database()`
    return row?.n
  }
  await until(async () => (await sessions()) === 0, { what: 'the session of the late flush to be ended' })
  deliver?.()
  t.ok(deliver, 'the flush was held back')
  t.equal((await shop.buy({ customer: 'next', lines: [{ resource: ref, units: 1 }] })).status, 202)
  t.equal(await shop.queued(), 2, 'the first and the next')
})
