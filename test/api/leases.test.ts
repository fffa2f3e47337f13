/** Leases over HTTP: every process serves every lease, and a disconnected client holds none. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t from 'tap'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const [api, other] = await Promise.all([world.startApi(), world.startApi()])
const call = contract(api.url)
const elsewhere = contract(other.url)
const redis = new Redis(world.env.REDIS_URL)
const locks = createLocks({ redis, prefix: world.env.REDIS_PREFIX, ttl_ms: 10_000, instance: 'library' })
t.teardown(async () => {
  await locks.close()
  redis.disconnect()
})

const ask = (resource: string, change: object = {}) => ({
  resource,
  mode: 'exclusive',
  ttl_ms: 30_000,
  owner: 'ada',
  ...change,
})
const take = async (resource: string, change: object = {}) => {
  const answer = await call('POST', '/api/leases', { body: ask(resource, change) })
  if (answer.status !== 201) throw new Error(`${answer.status} ${JSON.stringify(answer.body)}`)
  return answer.body as { lease_id: string; fencing_token: number; expires_at: string }
}
const at = ({ lease_id }: { lease_id: string }) => `/api/leases/${lease_id}`
const look = async (resource: string) => (await call('GET', `/api/locks/${resource}`)).body
const waiting = (resource: string, count: number) =>
  until(async () => (await look(resource)).waiters.length === count, { what: `${count} in line for ${resource}` })

t.test('lease: acquired on one API, renewed and released on another', async (t) => {
  const began = Date.now()
  const taken = await call('POST', '/api/leases', { body: ask('job:1', { ttl_ms: 5_000 }) })
  t.match(taken, { status: 201, body: { resource: 'job:1', mode: 'exclusive' } })
  const expires = Date.parse(taken.body.expires_at)
  t.ok(expires >= began + 5_000 && expires <= Date.now() + 5_000, 'one TTL from now')
  t.match(await look('job:1'), {
    fencing_token: taken.body.fencing_token,
    holders: [{ owner: 'ada', mode: 'exclusive', fencing_token: taken.body.fencing_token }],
    waiters: [],
  })
  await sleep(5)
  const renewed = await elsewhere('PUT', at(taken.body))
  t.match([renewed.status, renewed.body.fencing_token], [200, taken.body.fencing_token], 'the token stays')
  t.equal(renewed.body.lease_id, taken.body.lease_id)
  t.ok(Date.parse(renewed.body.expires_at) > expires, 'another TTL')
  t.equal((await elsewhere('DELETE', at(taken.body))).status, 204)
  t.match(await call('DELETE', at(taken.body)), { status: 410, body: { code: 'lease_lost', retryable: false } })
  t.match(await call('PUT', at(taken.body)), { status: 410, body: { code: 'lease_lost' } })
  const next = await take('job:1')
  t.ok(next.fencing_token > taken.body.fencing_token, 'a new holder, a higher token')
  t.equal((await call('PUT', at(taken.body))).status, 410, "another holder's lock is not renewed")
  t.equal((await call('DELETE', at(taken.body))).status, 410, 'nor let go')
  t.equal((await look('job:1')).holders.length, 1)
})

t.test('busy lock: 409 with its holder, its wait queue and when to retry', async (t) => {
  const held = await take('busy:1', { owner: 'bob', ttl_ms: 8_000 })
  const first = call('POST', '/api/leases', { body: ask('busy:1', { owner: 'first', wait_ms: 20_000 }) })
  await waiting('busy:1', 1)
  const second = elsewhere('POST', '/api/leases', {
    body: ask('busy:1', { owner: 'second', mode: 'shared', wait_ms: 20_000 }),
  })
  await waiting('busy:1', 2)
  const busy = await call('POST', '/api/leases', { body: ask('busy:1') })
  t.match(busy, {
    status: 409,
    body: { code: 'lock_busy', retryable: true, holder: 'bob', waiting: 2 },
  })
  t.match(busy.body.waiters, [
    { owner: 'first', mode: 'exclusive' },
    { owner: 'second', mode: 'shared' },
  ])
  const { retry_after_ms } = busy.body
  t.ok(retry_after_ms > 0 && retry_after_ms <= 8_000, `${retry_after_ms} ms`)
  t.equal(busy.headers.get('retry-after'), String(Math.ceil(retry_after_ms / 1000)))
  const waited = await call('POST', '/api/leases', { body: ask('busy:1', { wait_ms: 50 }) })
  t.match(waited, { status: 409, body: { waiting: 2 } }, 'its own place in line is gone when it is told so')
  t.match(
    (await look('busy:1')).waiters.map((one: { owner: string }) => one.owner),
    ['first', 'second'],
  )

  await call('DELETE', at(held))
  const got = await first
  t.equal(got.status, 201, 'the first in line is next')
  t.ok(Date.parse(got.body.expires_at) > Date.now() + 25_000, 'for its own whole TTL')
  await elsewhere('DELETE', at(got.body))
  t.match(await second, { status: 201, body: { mode: 'shared' } })
})

t.test('shared leases coexist, permits are counted', async (t) => {
  const readers = [await take('doc:1', { mode: 'shared' }), await take('doc:1', { mode: 'shared', owner: 'bob' })]
  t.equal((await call('POST', '/api/leases', { body: ask('doc:1') })).status, 409, 'no writer beside readers')
  t.equal((await look('doc:1')).holders.length, 2)
  for (const one of readers) await call('DELETE', at(one))
  t.equal((await call('POST', '/api/leases', { body: ask('doc:1') })).status, 201)

  const permit = ask('gpu:1', { mode: 'permit', limit: 2 })
  const answers = await Promise.all([1, 2, 3].map(() => call('POST', '/api/leases', { body: permit })))
  t.same(answers.map((one) => one.status).sort(), [201, 201, 409])
  t.match((await look('gpu:1')).holders[0], { mode: 'permit', limit: 2 })
})

t.test('API that granted a lease is killed: heartbeats keep the lease', async (t) => {
  const doomed = await world.startApi()
  const { status, body } = await contract(doomed.url)('POST', '/api/leases', {
    body: ask('alone:1', { ttl_ms: 1_000 }),
  })
  t.equal(status, 201)
  doomed.kill('SIGKILL')
  await doomed.exited
  for (let n = 0; n < 5; n++) {
    await sleep(300)
    t.equal((await call('PUT', at(body))).status, 200, 'renewed through another one')
  }
  await until(async () => (await look('alone:1')).holders.length === 0, { what: 'the lease to end without heartbeats' })
  t.match(await call('PUT', at(body)), { status: 410, body: { code: 'lease_lost' } })
})

t.test('client that disconnects while waiting: leaves no entry and delays no other waiter', async (t) => {
  const held = await take('hang:1')
  const hangUp = new AbortController()
  const leaver = fetch(`${api.url}/api/leases`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(ask('hang:1', { owner: 'leaver', wait_ms: 60_000 })),
    signal: hangUp.signal,
  })
  await waiting('hang:1', 1)
  const stayer = elsewhere('POST', '/api/leases', { body: ask('hang:1', { owner: 'stayer', wait_ms: 10_000 }) })
  await waiting('hang:1', 2)
  hangUp.abort()
  await t.rejects(leaver)
  const left = performance.now()
  await waiting('hang:1', 1)
  const gone_ms = performance.now() - left
  t.ok(gone_ms < 1_000, `gone after ${Math.round(gone_ms)} ms, before its place would have died of itself`)
  t.match((await look('hang:1')).waiters, [{ owner: 'stayer' }])
  await call('DELETE', at(held))
  t.equal((await stayer).status, 201)
})

t.test('client that disconnects during the grant: the lock is released at once', async (t) => {
  for (let n = 0; n < 4; n++) {
    const resource = `late:${n}`
    const held = await locks.acquire(resource)
    const hangUp = new AbortController()
    const leaver = fetch(`${other.url}/api/leases`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(ask(resource, { wait_ms: 60_000, ttl_ms: 86_400_000 })),
      signal: hangUp.signal,
    })
    await waiting(resource, 1)
    // While the process is frozen, both arrive: the hand-off of the lock, and the disconnect of its client.
    other.kill('SIGSTOP')
    await held.release()
    t.equal((await look(resource)).holders.length, 1, 'handed over')
    hangUp.abort()
    await t.rejects(leaver)
    other.kill('SIGCONT')
    await until(async () => (await look(resource)).holders.length === 0, {
      timeout_ms: 2_000,
      what: `${resource} free`,
    })
  }
})

t.test('forged lease_id: refused, and no lock is changed', async (t) => {
  const lease = await take('forged:1')
  const [resource, mode, id, token, ttl_ms, since_ms] = JSON.parse(Buffer.from(lease.lease_id, 'base64url').toString())
  const write = (parts: unknown) => Buffer.from(JSON.stringify(parts)).toString('base64url')
  for (const [parts, status] of [
    [[resource, mode, 'x', token, ttl_ms, since_ms], 410],
    [[resource, mode, id.slice(0, -1), token, ttl_ms, since_ms], 410],
    [[resource, mode, id.split(' ').slice(0, 2).join(' '), token, ttl_ms, since_ms], 410],
    [[resource, mode, `${id} `, token, ttl_ms, since_ms], 410],
    [['forged:2', mode, id, token, ttl_ms, since_ms], 410],
    [[resource, mode, id, token, 10, since_ms], 400],
    [[resource, mode, '', token, ttl_ms, since_ms], 400],
    [[resource, mode, id], 400],
    [{}, 400],
  ] as const) {
    const forged = { lease_id: write(parts) }
    t.equal((await call('PUT', at(forged))).status, status, `PUT ${JSON.stringify(parts)}`)
    t.equal((await call('DELETE', at(forged))).status, status, `DELETE ${JSON.stringify(parts)}`)
  }
  t.equal((await call('PUT', at(lease))).status, 200, 'the holder has it still')
})

t.test('list of locks: paged, without free locks', async (t) => {
  const names = Array.from({ length: 7 }, (_, n) => `list:${n}`)
  for (const name of names) await locks.acquire(name, { job: 'job 7' })
  await until(
    async () =>
      (await call('GET', '/api/locks?limit=100')).body.data.filter((one: { resource: string }) =>
        names.includes(one.resource),
      ).length === 7,
  )
  const free = await take('list:free')
  await call('DELETE', at(free))
  const found = []
  let cursor = ''
  do {
    const { body } = await call('GET', `/api/locks?limit=3${cursor}`)
    t.ok(body.data.length <= 3)
    found.push(...body.data)
    cursor = body.next_cursor === null ? '' : `&cursor=${body.next_cursor}`
  } while (cursor)
  const listed = found.filter((one) => one.resource.startsWith('list:'))
  t.same(
    listed.map((one) => one.resource),
    names,
  )
  t.match(listed[0].holders, [{ owner: 'library job 7', mode: 'exclusive' }], 'owner and job')
  t.match(await look('list:nobody'), { fencing_token: 0, holders: [], waiters: [] })
})

t.test('lock server does not answer: 503 in bounded time, and no entry remains', async (t) => {
  const own = await world.ownRedis()
  const { url } = await world.startApi({ REDIS_URL: own.url })
  const there = contract(url)
  const lease = await until(async () => {
    const answer = await there('POST', '/api/leases', { body: ask('hung:1', { ttl_ms: 60_000 }) })
    return answer.status === 201 && answer.body
  })
  const requests = () =>
    Promise.all([
      there('POST', '/api/leases', { body: ask('hung:2') }),
      there('POST', '/api/leases', { body: ask('hung:1', { wait_ms: 30_000 }) }),
      there('PUT', at(lease)),
      there('GET', '/api/locks'),
      there('GET', '/api/locks/hung:1'),
      there('GET', '/api/locks/stats'),
      there('DELETE', '/api/locks/hung:3'),
    ])
  await own.stop('SIGSTOP')
  const since = performance.now()
  for (const { status, body, headers } of await requests()) {
    t.match([status, body.code, headers.get('retry-after')], [503, 'unavailable', '1'])
  }
  t.ok(performance.now() - since < 5_000, `${Math.round(performance.now() - since)} ms`)
  await own.stop('SIGCONT')
  await until(async () => (await there('PUT', at(lease))).status === 200, { what: 'the lease to be renewed again' })
  await until(async () => (await there('GET', '/api/locks/hung:2')).body.holders.length === 0)
  await own.stop('SIGKILL')
  for (const { status } of await requests()) t.equal(status, 503)
})
