/** Webhooks: whatever fails on either side, each event arrives, signed, and never before the previous one. */
import t, { type Test } from 'tap'
import { createPoster } from '../../src/workers/webhooks/http-sender.ts'
import { openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { type Answer, contract } from '../support/openapi-contract.ts'
import { startReceiver } from '../support/webhook-receiver.ts'

const WAIT = { prefer: 'wait=10' }
const ENDPOINTS = '/api/webhook-endpoints'

/** Asserts that the receiver accepted every number from `first` to `last`, and that none was sent before its turn. */
function inSequence(t: Test, told: { sequence: number; taken: boolean }[], first: number, last: number) {
  let taken = first - 1
  for (const one of told) {
    if (one.sequence > taken + 1) t.fail(`${one.sequence} was told when ${taken} was the last that was taken`)
    if (one.taken) taken = Math.max(taken, one.sequence)
  }
  t.equal(taken, last, `every number from ${first} to ${last} was taken`)
}

t.test('with an API and two workers', async (t) => {
  const world = await openWorld(t)
  const receiver = await startReceiver(t)
  const env = {
    WEBHOOK_ALLOW_PRIVATE_ADDRESSES: '1',
    WEBHOOK_RETRY_BASE_MS: '100',
    WEBHOOK_TIMEOUT_MS: '1000',
    LEASE_TTL_MS: '1000',
  }
  const [api, doomed] = await Promise.all([world.startApi(env), world.startWorker(env), world.startWorker(env)])
  const call = contract(api.url)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const register = async (path: string, more: object = {}): Promise<Answer['body']> => {
    const { status, body } = await call('POST', ENDPOINTS, { body: { url: receiver.url(path), ...more } })
    t.equal(status, 201)
    return body
  }
  const buy = (resource: string) => shop.buy({ customer: 'ada', lines: [{ resource, units: 1 }] }, WAIT)
  const at = (id: string, ...rest: string[]) => [ENDPOINTS, id, ...rest].join('/')

  await t.test('receiver that fails for a while, worker killed meanwhile: all events arrive, in order', async (t) => {
    const endpoint = await register('/outage')
    receiver.secrets.push(endpoint.secret)
    const only = await register('/rejected', { events: ['purchase.rejected'] })
    const refs = [await shop.units('product', 40), await shop.units('product', 20)]
    await Promise.all(refs.map(buy))
    await until(() => refs.every((ref) => receiver.numbers('/outage', ref).length === 2), {
      what: 'the first to arrive',
    })
    let n = 0
    receiver.answers(({ resource }) => (resource === refs[0] ? (++n % 2 ? 500 : 0) : 503))
    await Promise.all(refs.flatMap((ref) => Array.from({ length: 29 }, () => buy(ref))))
    doomed.kill()
    // Read the living worker's metrics: the killed one may have counted no failure.
    const failures = async (ref = '') => {
      const { data } = (await call('GET', `${at(endpoint.id, 'deliveries')}?limit=100&resource=${ref}`)).body
      return data.filter((one: { status: number | null }) => one.status !== 204).length
    }
    await until(async () => (await failures(refs[0])) >= 3 && (await failures(refs[1])) >= 3, {
      what: 'failed attempts in the log',
      timeout_ms: 20_000,
    })
    const failing = (await call('GET', at(endpoint.id))).body
    t.ok(failing.behind > 0 && failing.failing_since !== null, 'it shows how far behind the endpoint is')
    receiver.answers(() => 204)
    await until(
      () => refs.every((ref) => receiver.of('/outage', ref).some((one) => one.sequence === 31 && one.taken)),
      {
        what: 'the rest to arrive',
        timeout_ms: 20_000,
      },
    )
    for (const ref of refs) {
      const told = receiver.of('/outage', ref)
      inSequence(t, told, 1, 31)
      t.ok(
        told.some((one) => !one.taken),
        'some were refused',
      )
      t.ok(
        told.every((one) => one.good.length === 1),
        'each is signed',
      )
    }
    await until(() => receiver.numbers('/rejected', refs[1] ?? '').length === 10)
    t.same(receiver.of('/rejected', refs[0] ?? ''), [], 'an endpoint is told of its types alone')
    // The worker still has to write the last answers to the database.
    await until(async () => {
      const { behind, failing_since } = (await call('GET', at(endpoint.id))).body
      return behind === 0 && failing_since === null
    })
    await call('DELETE', at(only.id))
    await call('DELETE', at(endpoint.id))
  })

  await t.test(
    'cart: an endpoint of its second resource gets its event, an endpoint of all gets one per resource',
    async (t) => {
      const [first = '', second = ''] = [await shop.units('product', 10), await shop.units('product', 10)].sort()
      const [one, all] = [await register('/second', { resource: second }), await register('/all')]
      const lines = [first, second].map((resource) => ({ resource, units: 1 }))
      const cart = (await shop.buy({ customer: 'ada', lines }, WAIT)).body.id
      await until(() => receiver.of('/second', second).length > 0 && receiver.of('/all', second).length > 0, {
        what: 'the second resource to tell of the cart',
      })
      await until(() => receiver.of('/all', first).length > 0)
      t.match(receiver.of('/second', second)[0], { sequence: 2, type: 'purchase.confirmed', data: { purchase: cart } })
      const changes = [first, second].map((ref) => receiver.of('/all', ref).at(-1)?.change)
      t.same(changes, [`${cart}/confirmed`, `${cart}/confirmed`], 'the same change by its name: a receiver acts once')
      await call('DELETE', at(one.id))
      await call('DELETE', at(all.id))
    },
  )

  await t.test('rotated secret: both secrets sign for a while, then only the new one', async (t) => {
    const ref = await shop.units('product', 10)
    const { id, secret } = await register('/rotated', { resource: ref })
    receiver.secrets.splice(0, 9, secret)
    await buy(ref)
    const rotated = await call('POST', at(id, 'rotate'))
    t.ok(rotated.body.old_secret_until)
    receiver.secrets.push(rotated.body.secret)
    const last = async (sequence: number) =>
      (await until(() => receiver.of('/rotated', ref).find((one) => one.sequence === sequence))).good
    await last(2)
    await buy(ref)
    t.same(await last(3), [0, 1])
    receiver.secrets.push((await call('POST', `${at(id, 'rotate')}?overlap_s=0`)).body.secret)
    await buy(ref)
    t.same(await last(4), [2])
    t.notMatch((await call('GET', at(id))).body, { secret: String }, 'it is shown once')
    await call('DELETE', at(id))
  })

  await t.test('replay from a number or a delivery: sends the events again, in order', async (t) => {
    const ref = await shop.units('product', 10)
    const { id } = await register('/replayed', { resource: ref })
    for (let n = 0; n < 4; n++) await buy(ref)
    const seen = () => receiver.numbers('/replayed', ref)
    await until(() => seen().length === 4)
    const from = seen()[0] ?? 0
    t.equal((await call('POST', at(id, 'replay'), { body: { resource: ref, sequence: 4 } })).status, 202)
    await until(() => seen().length === 6)
    const { data } = (await call('GET', at(id, 'deliveries'))).body
    const third = data.find((one: { sequence: number }) => one.sequence === 3)
    t.equal((await call('POST', at(id, 'replay'), { body: { delivery: third.id } })).status, 202)
    await until(() => seen().length === 9)
    t.same([from, seen()], [2, [2, 3, 4, 5, 4, 5, 3, 4, 5]])
    const ids = new Set(receiver.of('/replayed', ref).map((one) => one.id))
    t.equal(ids.size, 4, 'the same event has the same id each time')
    const none = await call('POST', at(id, 'replay'), { body: { resource: ref, sequence: 99 } })
    t.same([none.status, none.body.code], [409, 'not_kept'])
    await call('DELETE', at(id))
  })

  await t.test('endpoint that answers 410: disabled, and continues where it was when it is enabled', async (t) => {
    const ref = await shop.units('product', 10)
    const { id } = await register('/gone', { resource: ref })
    const other = await register('/here', { resource: ref })
    receiver.answers((_event, path) => (path === '/gone' ? 410 : 204))
    await buy(ref)
    const state = async () => (await call('GET', at(id))).body
    await until(async () => (await state()).disabled !== null)
    const told = receiver.of('/gone', ref).length
    await buy(ref)
    await until(() => receiver.numbers('/here', ref).length === 2, { what: 'the delivery to another endpoint' })
    t.equal(receiver.of('/gone', ref).length, told, 'it is not told any more')
    receiver.answers(() => 204)
    t.match((await call('POST', at(id, 'enable'))).body, { disabled: null })
    await until(() => receiver.of('/gone', ref).some((one) => one.taken && one.sequence === 3))
    inSequence(t, receiver.of('/gone', ref), 2, 3)
    await call('DELETE', at(other.id))
    await call('DELETE', at(id))
  })

  await t.test('endpoint that fails for longer than the limit: disabled', async (t) => {
    const ref = await shop.units('product', 10)
    const { id } = await register('/days', { resource: ref })
    receiver.answers(() => 500)
    await buy(ref)
    await until(() => receiver.of('/days', ref).length > 0)
    await until(async () => {
      await shop.client`UPDATE webhook_streams SET failing_since = now() - interval '73 hours' WHERE endpoint_id = ${id} AND failing_since IS NOT NULL`
      return (await call('GET', at(id))).body.disabled?.includes('72 hours')
    })
    receiver.answers(() => 204)
    t.same(
      (await shop.client`SELECT sequence FROM webhook_deliveries WHERE endpoint_id = ${id} AND status = 204`).length,
      0,
      'what it has not taken is not passed over',
    )
    await call('DELETE', at(id))
  })
})

t.test('endpoint with a non-public address, in any notation: gets no request', async (t) => {
  const receiver = await startReceiver(t)
  const poster = createPoster({ allow_private: false, timeout_ms: 2_000 })
  t.teardown(() => poster.close())
  const about = { type: 'purchase.held', resource: 'product:1', sequence: 1, timestamp: '', data: {} }
  const event = { id: '1-1', change: '1-1', ...about }
  const secret = `whsec_${Buffer.from('x'.repeat(32)).toString('base64')}`
  const never = new AbortController().signal
  for (const host of [
    '127.0.0.1',
    'localhost',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '0x7f.1',
    '0.0.0.0',
    '169.254.169.254',
  ]) {
    const { status, error } = await poster.post(`http://${host}:${receiver.port}/`, event, [secret], never)
    t.equal(status, undefined)
    t.match(error, /not allowed/, `${host}: ${error}`)
  }
  t.same(receiver.told, [], 'nothing was sent')

  const open = createPoster({ allow_private: true, timeout_ms: 500 })
  t.teardown(() => open.close())
  receiver.answers(() => 302)
  t.match(await open.post(receiver.url('/moved'), event, [secret], never), { status: 302 })
  t.equal(receiver.told.length, 1, 'a redirect is not followed')
  receiver.answers(() => 0)
  t.match(await open.post(receiver.url('/silent'), event, [secret], never), { error: 'no response within 500 ms' })
})
