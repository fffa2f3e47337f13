/**
 * The charge saga under faults: the worker is killed at every step, and messages and jobs are lost, late or doubled.
 * Each charge still ends with one outcome and at most one payment.
 */
import { Redis } from 'ioredis'
import t from 'tap'
import { card, openShop, provider, type Shop, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { openGate } from '../support/provider-proxy.ts'
import { startProxy } from '../support/tcp-proxy.ts'

const held = (shop: Shop, resource: string, token = 'tok_visa') =>
  shop.buy({ customer: 'ada', lines: [{ resource, units: 1 }], payment: card(token), hold_seconds: 600 }, WAIT)
const WAIT = { prefer: 'wait=20' }
const LONG = { ...TTL, PAYMENT_TIMEOUT_MS: '20000' }

t.test('worker killed at every step of the saga: the same outcome, one charge', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const gate = await openGate(t, sandbox.url)
  const [api, victim] = await Promise.all([world.startApi(), world.startWorker({ ...LONG, SANDBOX_URL: gate.url })])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  // Each purchase is in a separate queue, so that a frozen one does not freeze the others.
  const buy = async (token?: string) => {
    const ref = await shop.units('product', 1, 500)
    const { body } = await held(shop, ref, token)
    return { id: body.id as string, ref }
  }
  const NOW = { prefer: 'wait=0' }
  const confirmed: { id: string; ref: string; step: string }[] = []
  const ended: { id: string; ref: string; step: string; status: string }[] = []

  for (const [verb, when] of [
    ['create', 'before'],
    ['create', 'after'],
    ['confirm', 'before'],
    ['confirm', 'after'],
    ['capture', 'before'],
    ['capture', 'after'],
  ] as const) {
    const one = await buy()
    gate.close(verb, one.id, when)
    await shop.command(one.id, 'confirm', NOW)
    confirmed.push({ ...one, step: `${when} ${verb}` })
    await until(() => gate.reached(verb, one.id), { what: `${when} ${verb}` })
  }
  const declined = await buy('tok_chargeDeclined')
  gate.close('confirm', declined.id, 'after')
  await shop.command(declined.id, 'confirm', NOW)
  await until(() => gate.reached('confirm', declined.id), { what: 'the decline on its way' })
  ended.push({ ...declined, step: 'after confirm, declined', status: 'held' })
  for (const when of ['before', 'after'] as const) {
    const one = await buy()
    await shop.command(one.id, 'confirm')
    await shop.charged(one.id)
    gate.close('refund', one.id, when)
    await shop.command(one.id, 'refund')
    await until(() => gate.reached('refund', one.id), { what: `${when} refund` })
    ended.push({ ...one, step: `${when} refund`, status: 'refunded' })
  }

  // Steps that write: a row lock freezes each one in the middle of its job or batch.
  const [job, told, settled] = [await buy(), await buy(), await buy()]
  gate.close('create', job.id, 'after')
  await shop.client.begin(async (tx) => {
    await shop.command(job.id, 'confirm', NOW)
    await until(() => gate.reached('create', job.id))
    await tx`SELECT 1 FROM charges WHERE purchase_id = ${job.id} FOR UPDATE`
    confirmed.push({ ...job, step: 'while it is written that a confirm is sent' })
    gate.close('confirm', told.id, 'after')
    await shop.command(told.id, 'confirm', NOW)
    await until(() => gate.reached('confirm', told.id))
    await tx`SELECT 1 FROM charges WHERE purchase_id = ${told.id} FOR UPDATE`
    confirmed.push({ ...told, step: 'while it is written that the money is reserved' })
    gate.close('confirm', settled.id, 'after')
    await shop.command(settled.id, 'confirm', NOW)
    await until(() => gate.reached('confirm', settled.id))
    await tx`SELECT 1 FROM resources WHERE id = ${settled.ref} FOR UPDATE`
    confirmed.push({ ...settled, step: 'while the line sells the units' })
    gate.open('create', job.id)
    gate.open('confirm', told.id)
    gate.open('confirm', settled.id)
    const waiting = async () => {
      const rows = await shop.client`
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'holdfast-worker' AND wait_event_type = 'Lock'`
      return rows.length === 3
    }
    await until(waiting, { what: 'the worker before three locked rows' })
    victim.kill('SIGKILL')
    await victim.exited
    gate.open()
  })
  await world.startWorker({ ...LONG, SANDBOX_URL: sandbox.url })
  await shop.charged()
  await until(async () => (await shop.queued()) === 0, { what: 'the lines to be empty' })
  for (const { id, ref, step } of confirmed) {
    const [row] = await shop.client<{ status: string }[]>`SELECT status FROM purchases WHERE id = ${id}`
    t.equal(row?.status, 'confirmed', `killed ${step}: confirmed`)
    const taken = (await bank.of(id)).filter((one) => one.status === 'succeeded')
    t.same([taken.length, await bank.kept(id)], [1, 500], 'one charge')
    t.match(await shop.resource(ref), { sold: 1, held: 0 })
  }
  for (const { id, ref, step, status } of ended) {
    const [row] = await shop.client<{ status: string }[]>`SELECT status FROM purchases WHERE id = ${id}`
    t.equal(row?.status, status, `killed ${step}: ${status}`)
    t.same([await bank.kept(id), (await bank.refunds(id)).length <= 1], [0, true], 'no money kept, one refund at most')
    const held = status === 'held' ? 1 : 0
    t.match(await shop.resource(ref), { available: 1 - held, sold: 0, held }, 'a declined card leaves the hold')
  }
  await shop.verified()
})

t.test('the response to the write of a reservation is lost: the reservation stays', async (t) => {
  const world = await openWorld(t)
  const sandbox = await world.startSandbox()
  const address = new URL(world.env.DATABASE_URL)
  let lost = 0
  const proxy = await startProxy(Number(address.port), (link, chunk) => {
    // The statement that writes the outcome of the charge, with the command for its queue.
    if (lost > 0 || !chunk.includes('insert into "commands"')) return
    lost += 1
    link.mute()
    // Long enough for Postgres to execute the statement.
    setTimeout(link.reset, 300)
  })
  t.teardown(() => proxy.stop())
  address.port = String(proxy.port)
  const [api] = await Promise.all([
    world.startApi(),
    world.startWorker({ ...LONG, SANDBOX_URL: sandbox.url, DATABASE_URL: address.href }),
  ])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 1, 500)
  const lines = [{ resource: ref, units: 1 }]
  const { status, body } = await shop.buy({ customer: 'ada', lines, payment: card('tok_visa') }, WAIT)
  t.same([lost, status, body.status], [1, 201, 'confirmed'])
  await shop.charged()
  t.equal(await provider(sandbox.url).kept(body.id), 500, 'and paid')
  await shop.verified()
})

t.test('two workers on one charge: the second does not sell what the first is cancelling', async (t) => {
  const world = await openWorld(t)
  const [redis, sandbox] = await Promise.all([world.ownRedis(), world.startSandbox()])
  const [first, second] = await Promise.all([openGate(t, sandbox.url), openGate(t, sandbox.url)])
  const env = { ...TTL, REDIS_URL: redis.url }
  const [api, sleeper] = await Promise.all([
    world.startApi(env),
    world.startWorker({ ...env, SANDBOX_URL: first.url, PAYMENT_TIMEOUT_MS: '300' }),
  ])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  const ref = await shop.units('product', 1, 500)
  const { body } = await held(shop, ref)
  const id = body.id as string
  // The provider charges the card, but its answer does not arrive, nor do the answers to later reads. So the worker
  // gives the charge up, and is frozen while its cancel is in flight.
  first.close('confirm', id, 'after')
  first.close('find', id, 'before')
  first.close('cancel', id, 'before')
  await shop.command(id, 'confirm', { prefer: 'wait=0' })
  // Other buyers pay meanwhile. Otherwise the breaker would see an outage and let no cancel through.
  const others = await shop.units('product', 1_000, 100)
  const lines = [{ resource: others, units: 1 }]
  const given_up = async () => {
    const pay = () => shop.buy({ customer: 'bob', lines, payment: card('tok_visa') }, WAIT)
    if (!first.reached('cancel', id)) await Promise.all(Array.from({ length: 4 }, pay))
    return first.reached('cancel', id)
  }
  await until(given_up, { what: 'the charge to be given up', timeout_ms: 30_000 })
  sleeper.kill('SIGSTOP')
  // Redis loses the job, and another worker continues from the state of the row.
  const own = new Redis(redis.url)
  await own.flushall()
  own.disconnect()
  second.close('capture', '', 'before')
  await world.startWorker({ ...env, SANDBOX_URL: second.url })
  const state = async () => {
    const [row] = await shop.client<{ status: string }[]>`SELECT status FROM charges WHERE purchase_id = ${id}`
    return row?.status
  }
  await until(async () => second.reached('capture', '') || (await state()) !== 'cancelling', { timeout_ms: 20_000 })
  first.open()
  await until(async () => (await bank.of(id))[0]?.status === 'canceled', { what: 'the cancel to arrive' })
  second.open()
  await shop.charged()
  await until(async () => (await shop.queued()) === 0)
  t.same(await shop.statuses(ref), { held: 1 }, 'the hold goes on, for another card')
  t.equal(await state(), 'unavailable')
  t.match(await shop.resource(ref), { available: 0, sold: 0, held: 1 })
  t.match(await shop.command(id, 'cancel'), { status: 200 })
  t.match(await shop.resource(ref), { available: 1, sold: 0, held: 0 })
  await shop.verified()
})

t.test('late payments and lost jobs', async (t) => {
  const world = await openWorld(t)
  const [redis, sandbox] = await Promise.all([world.ownRedis(), world.startSandbox({ SANDBOX_SLOW_MS: '300' })])
  const gate = await openGate(t, sandbox.url)
  const env = { ...LONG, REDIS_URL: redis.url, SANDBOX_URL: gate.url }
  const [api] = await Promise.all([world.startApi(env), world.startWorker(env)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const bank = provider(sandbox.url)
  /** Creates a purchase whose hold ends after the provider has charged the card and before the answer arrives. */
  const late = async (ref: string) => {
    const { body } = await held(shop, ref)
    gate.close('confirm', body.id, 'after')
    await shop.command(body.id, 'confirm', { prefer: 'wait=0' })
    await until(() => gate.reached('confirm', body.id))
    await shop.client`UPDATE purchases SET expires_at = clock_timestamp() WHERE id = ${body.id}`
    await until(async () => (await shop.statuses(ref)).expired === 1, { what: 'the hold to expire' })
    return body.id as string
  }

  await t.test('late payment, units in stock: buys them again as a new purchase', async (t) => {
    const ref = await shop.units('product', 1, 500)
    const id = await late(ref)
    t.match(await shop.resource(ref), { available: 1, held: 0 }, 'the units are on sale meanwhile')
    gate.open()
    await shop.charged()
    await until(async () => (await shop.statuses(ref)).confirmed === 1)
    const old = await (await fetch(`${api.url}/api/purchases/${id}`)).json()
    const { replaced_by } = old as { replaced_by: string }
    t.match(old, { status: 'expired' }, 'what has expired stays so')
    t.match(await (await fetch(`${api.url}/api/purchases/${replaced_by}`)).json(), {
      status: 'confirmed',
      replaces: id,
    })
    t.equal(await bank.kept(id), 500)
    t.match(await shop.resource(ref), { available: 0, sold: 1 })
    t.match(await shop.command(replaced_by, 'refund'), { status: 200 })
    await shop.charged()
    t.equal(await bank.kept(id), 0, 'and can be refunded')
  })

  await t.test('late payment, units sold: refunded once', async (t) => {
    const ref = await shop.units('product', 1, 500)
    const id = await late(ref)
    t.match(await shop.buy({ customer: 'bob', lines: [{ resource: ref, units: 1 }] }, WAIT), { status: 201 })
    gate.open()
    await shop.charged()
    t.equal(await bank.kept(id), 0)
    t.same(await bank.open(), [])
    t.same(await shop.statuses(ref), { expired: 1, confirmed: 1 })
  })

  await t.test('FLUSHALL during card charges: every charge ends', async (t) => {
    const ref = await shop.units('product', 10, 500)
    const before = (await bank.captured()).length
    const lines = [{ resource: ref, units: 1 }]
    const buyers = Array.from({ length: 20 }, () =>
      shop.buy({ customer: 'c', lines, payment: card('tok_slow') }, { prefer: 'wait=0' }),
    )
    await until(async () => (await shop.statuses(ref)).held)
    const own = new Redis(redis.url)
    await own.flushall()
    own.disconnect()
    await Promise.all(buyers)
    await until(async () => (await shop.queued()) === 0)
    await shop.charged()
    await until(async () => (await shop.statuses(ref)).confirmed === 10, { what: 'ten sold' })
    t.equal((await bank.captured()).length - before, 10)
  })
  await shop.verified()
})
