/** Forced release by an admin: the holder is notified at once, and can write nothing more. */

import { fastify } from 'fastify'
import { Redis } from 'ioredis'
import t from 'tap'
import { requireKeys } from '../../src/api/plugins/auth.ts'
import { readConfig } from '../../src/shared/config.ts'
import { LeaseLostError } from '../../src/shared/locks/api.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import type { Problem } from '../../src/shared/problem.ts'
import { inTransaction, openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const world = await openWorld(t)
const api = await world.startApi()
const call = contract(api.url)
const shop = openShop(t, [api.url], world.env.DATABASE_URL)
const redis = new Redis(world.env.REDIS_URL)
// Heartbeats every 20 seconds: a notification within one second comes from the message.
const locks = createLocks({ redis, prefix: world.env.REDIS_PREFIX, ttl_ms: 60_000, instance: 'library' })
t.teardown(async () => {
  await locks.close()
  redis.disconnect()
})
const force = (resource: string, query = '') => call('DELETE', `/api/locks/${resource}${query}`)
const releases = (resource: string) =>
  shop.client`SELECT * FROM forced_releases WHERE resource_id = ${resource} ORDER BY id`
/** A holder's write under its lease: guarded by the token, whatever the holder believes. */
const write = async (resource: string, token: number) => {
  const rows = await shop.client`
    UPDATE resources SET fencing_token = ${token}, name = 'written' WHERE id = ${resource} AND fencing_token <= ${token} RETURNING id`
  return rows.length
}

t.test('forced release', async (t) => {
  await t.test('holder: notified within a second, and its guarded write is refused', async (t) => {
    const ref = await shop.units('product', 5)
    const lease = await locks.acquire(ref, { job: 'report' })
    t.equal(await write(ref, lease.token), 1)
    const aborted = new Promise<number>((resolve) => {
      lease.signal.addEventListener('abort', () => resolve(performance.now()), { once: true })
    })
    const since = performance.now()
    const { status, body } = await force(ref, '?reason=it%20hangs')
    t.match([status, body.resource], [200, ref])
    t.match(body.revoked_holders, [{ owner: 'library report', mode: 'exclusive', fencing_token: lease.token }])
    t.ok(body.fencing_token > lease.token)
    t.equal(await write(ref, lease.token), 0, 'the write of the revoked holder is refused once the answer is out')
    const aborted_ms = (await aborted) - since
    t.ok(aborted_ms < 1_000, `the signal aborts after ${Math.round(aborted_ms)} ms`)
    t.match(lease.signal.reason, LeaseLostError)
    t.match(lease.signal.reason, { why: 'taken' })
    t.throws(() => lease.assertValid(), { code: 'lease_lost' })
    t.match(await lease.release(), { released: false })

    const next = await locks.acquire(ref)
    t.ok(next.token > body.fencing_token, 'later tokens are above the raised one')
    t.equal(await write(ref, next.token), 1)
    await next.release()
    const [record] = await releases(ref)
    t.match(record, {
      requested_by: 'open',
      reason: 'it hangs',
      fencing_token: body.fencing_token,
      revoked_holders: body.revoked_holders,
    })
    t.ok(record?.completed_at >= record?.created_at, 'recorded before and after')
  })

  await t.test('lease over HTTP: its heartbeat gets 410, and the next waiter gets the lock', async (t) => {
    const body = { resource: 'http:1', mode: 'exclusive', ttl_ms: 60_000, owner: 'shell' }
    const lease = (await call('POST', '/api/leases', { body })).body
    const waiting = locks.acquire('http:1', { wait_ms: 30_000 })
    await until(async () => (await locks.inspect('http:1')).waiters.length === 1)
    const since = performance.now()
    const taken = await force('http:1')
    t.match(taken.body.revoked_holders, [{ owner: 'shell', fencing_token: lease.fencing_token }])
    const next = await waiting
    t.ok(performance.now() - since < 1_000, 'at once')
    t.ok(next.token > taken.body.fencing_token)
    t.match(await call('PUT', `/api/leases/${lease.lease_id}`), { status: 410, body: { code: 'lease_lost' } })
    t.equal((await call('DELETE', `/api/leases/${lease.lease_id}`)).status, 410)
    next.assertValid()
    await next.release()
  })

  await t.test('shared lock: every holder loses it', async (t) => {
    const readers = await Promise.all([1, 2, 3].map(() => locks.acquire('many:1', { mode: 'shared' })))
    t.equal((await force('many:1')).body.revoked_holders.length, 3)
    await until(() => readers.every((one) => one.signal.aborted), { timeout_ms: 1_000 })
    t.equal((await locks.inspect('many:1')).holders.length, 0)
  })

  await t.test('no holder: the token is raised all the same, against earlier holders', async (t) => {
    const ref = await shop.units('product', 5)
    const lease = await locks.acquire(ref)
    await lease.release()
    const { status, body } = await force(ref)
    t.match([status, body.revoked_holders], [200, []])
    t.equal(await write(ref, lease.token), 0)
    t.ok((await locks.acquire(ref)).token > body.fencing_token)
    t.equal((await releases(ref)).length, 1)
  })

  await t.test('Postgres has a higher token than the lock server: the new one is not below it', async (t) => {
    const ref = await shop.units('product', 5)
    const ahead = Date.now() * 1_000 + 3_600_000_000
    await shop.client`UPDATE resources SET fencing_token = ${ahead} WHERE id = ${ref}`
    const { body } = await force(ref)
    t.ok(body.fencing_token >= ahead, 'as after data loss and a clock set back')
    const next = await locks.acquire(ref)
    t.equal(await write(ref, next.token), 1, 'the next holder can write')
  })
})

t.test(
  'worker hangs in its batch: named with host, process and job, revoked, and another worker settles',
  async (t) => {
    const worker = await world.startWorker({ LEASE_TTL_MS: '60000', LOCK_HOLD_WARN_MS: 'product=50' })
    const ref = await shop.units('product', 1)
    let free = () => {}
    const locked = new Promise<void>((resolve) => {
      free = resolve
    })
    const blocker = shop.client.begin(async (tx) => {
      await tx`SELECT 1 FROM resources WHERE id = ${ref} FOR UPDATE`
      await locked
    })
    const { body } = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
    await inTransaction(shop)
    const { holders } = (await call('GET', `/api/locks/${ref}`)).body
    t.match(holders, [{ mode: 'exclusive', owner: new RegExp(`^\\S+:${worker.pid} job \\S+$`) }])
    const warned = await until(() => worker.logs().match(/^.*held longer than expected.*$/m)?.[0])
    const [{ owner, fencing_token: token }] = holders
    t.match(JSON.parse(warned), { resource: ref, owner, token, held_ms: Number })
    t.match(
      await (await fetch(`${worker.url}/metrics`)).text(),
      /^holdfast_lock_long_holds_total\{type="product"\} 1$/m,
    )

    // Frozen without row locks, as after the end of its session: with a TTL of a minute, no other worker would be next
    // soon.
    worker.kill('SIGSTOP')
    free()
    await blocker
    await shop.client`
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'holdfast-worker'`
    await world.startWorker()
    t.equal((await shop.statuses(ref)).queued, 1, 'the queue is blocked')
    const { status, body: taken } = await call('DELETE', `/api/locks/${ref}`)
    t.match([status, taken.revoked_holders], [200, [{ owner }]])
    const settled = await until(async () => {
      const { body: purchase } = await call('GET', `/api/purchases/${body.id}`)
      return purchase.status !== 'queued' && purchase
    })
    t.equal(settled.status, 'confirmed')
    worker.kill('SIGCONT')
    await until(() => /a lease was lost/.test(worker.logs()))
    t.match(await (await fetch(`${worker.url}/metrics`)).text(), /^holdfast_lock_lost_total\{reason="\w+"\} [1-9]/m)
    t.match(await shop.resource(ref), { available: 0, sold: 1 })
    await shop.verified()
  },
)

t.test('forced release without an admin key: refused', async (t) => {
  const guarded = contract((await world.startApi({ API_KEYS: 'user-key', ADMIN_KEYS: 'admin-key' })).url)
  const as = (key: string) => ({ headers: { 'x-api-key': key } })
  const body = { resource: 'admin:1', mode: 'exclusive', ttl_ms: 60_000, owner: 'ada' }
  const lease = await guarded('POST', '/api/leases', { body, ...as('user-key') })
  t.equal(lease.status, 201, 'any key may acquire a lease')
  const force = (request: object = {}) => guarded('DELETE', '/api/locks/admin:1', request)
  t.match(await force(as('user-key')), { status: 403, body: { code: 'admin_required' } })
  t.match(await force(as('unknown-key')), { status: 401 })
  t.match(await force(), { status: 401 })
  t.equal((await releases('admin:1')).length, 0, 'nothing was touched')
  t.equal((await call('PUT', `/api/leases/${lease.body.lease_id}`)).status, 200)
  t.match(await force(as('admin-key')), { status: 200, body: { revoked_holders: [{ owner: 'ada' }] } })
  const [record] = await releases('admin:1')
  t.match(record?.requested_by, /^[\w-]{22}$/, 'by a digest of the key, not by the key')
})

t.test('ADMIN_KEYS alone: admin routes need a key, other routes none', async (t) => {
  const app = fastify()
  requireKeys(app, { api_keys: [], admin_keys: readConfig({ ...world.env, ADMIN_KEYS: 'admin-key' }).admin_keys })
  app.get('/api/locks', async (request) => request.caller)
  app.delete('/api/locks/x', { config: { admin: true } }, async (request) => request.caller)
  app.setErrorHandler((error: Problem, _request, reply) => reply.code(error.status).send(error.code))
  t.teardown(() => app.close())
  const ask = async (method: 'GET' | 'DELETE', url: string, headers: Record<string, string> = {}) =>
    (await app.inject({ method, url, headers })).statusCode
  t.equal(await ask('GET', '/api/locks'), 200)
  t.equal(await ask('GET', '/api/locks', { 'x-api-key': 'anything' }), 200)
  t.equal(await ask('DELETE', '/api/locks/x'), 401)
  t.equal(await ask('DELETE', '/%61pi/locks/x'), 401, 'also with an encoded path')
  t.equal(await ask('DELETE', '/api/locks/x', { authorization: 'Bearer anything' }), 403)
  t.equal(await ask('DELETE', '/api/locks/x', { authorization: 'Bearer admin-key' }), 200)
})
