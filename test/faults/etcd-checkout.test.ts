/** A sale with leases on etcd instead of Redis, on a database that already has tokens from Redis. */
import t from 'tap'
import { handleOf } from '../../src/shared/locks/core/lease-handle.ts'
import { startEtcd } from '../locks/etcd-servers.ts'
import { openShop, tally } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

/** A lease id of Redis, which is not valid on etcd. */
const forged = { mode: 'exclusive', id: 'x 1000 a/1-b c', token: 1, ttl_ms: 1_000, since_ms: 1 } as const
const WAIT = { prefer: 'wait=30' }

t.test('LOCK_BACKEND=etcd: restocked and sold out exactly once, while a worker is killed and etcd hangs', async (t) => {
  const etcd = await startEtcd()
  t.teardown(() => etcd.stop())
  const world = await openWorld(t)
  const on_etcd = { LOCK_BACKEND: 'etcd', ETCD_HOSTS: etcd.url, LEASE_TTL_MS: '2000' }
  const [api, first] = await Promise.all([world.startApi(on_etcd), world.startWorker()])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  const buy = (n: number) => shop.buy({ customer: `c${n}`, lines: [{ resource: ref, units: 1 }] }, WAIT)
  const fence = async () =>
    Number(
      (await shop.client<{ fencing_token: string }[]>`SELECT fencing_token FROM resources WHERE id = ${ref}`)[0]
        ?.fencing_token,
    )

  t.equal((await buy(0)).status, 201, 'settled under a lease on Redis')
  const on_redis = await fence()
  t.ok(on_redis > 0)
  first.kill('SIGTERM')
  await first.exited

  const [worker, doomed] = await Promise.all([world.startWorker(on_etcd), world.startWorker(on_etcd)])
  t.equal((await buy(1)).status, 201, 'settled under a lease on etcd')
  const restock = await fetch(`${api.url}/api/resources/${ref.replace(':', '/')}/restock`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ delta: 90, reason: 'delivery' }),
  })
  t.equal(restock.status, 200, 'restocked under a lease on etcd')
  t.ok((await fence()) > on_redis, 'with a token above those that Redis gave')
  t.equal(await etcd.raw.getAll().prefix(`holdfast/${world.env.REDIS_PREFIX}base`).count(), 1)

  const buyers = Array.from({ length: 200 }, (_, n) => buy(n + 2))
  doomed.kill('SIGKILL')
  etcd.pause()
  const down = async () => {
    const { checks } = (await (await fetch(`${worker.url}/readyz`)).json()) as { checks: { etcd: { status: string } } }
    return checks.etcd.status === 'down'
  }
  await until(down, { what: 'readyz to say that etcd is down' })
  etcd.resume()
  t.same(tally(await Promise.all(buyers)), { '201 confirmed': 98, '409 sold_out': 102 })
  t.match(await shop.resource(ref), { total: 100, available: 0, sold: 100, held: 0 })

  const call = contract(api.url)
  const body = { resource: 'gpu:1', mode: 'permit', limit: 2, ttl_ms: 30_000, owner: 'ada at home' }
  const answers = []
  for (let n = 0; n < 3; n++) answers.push(await call('POST', '/api/leases', { body }))
  t.same(
    answers.map((one) => one.status),
    [201, 201, 409],
    'leases for any service are there, too',
  )
  const at = `/api/leases/${answers[0]?.body.lease_id}`
  t.equal((await call('PUT', at)).status, 200)
  t.equal((await call('PUT', `/api/leases/${handleOf({ ...forged, resource: 'gpu:1' })}`)).status, 400)
  const taken = await call('DELETE', '/api/locks/gpu:1')
  t.match(taken, { status: 200, body: { revoked_holders: [{ owner: body.owner }, { owner: body.owner }] } })
  t.equal((await call('PUT', at)).status, 410, 'taken away')
  t.match((await call('GET', '/api/locks/gpu:1')).body, { holders: [], waiters: [] })
  t.ok((await call('POST', '/api/leases', { body })).body.fencing_token > taken.body.fencing_token)
  await shop.verified()
})
