/** The sale with its leases on etcd: the same road, another lock server, changed on a database that has seen Redis' tokens. */
import t from 'tap'
import { startEtcd } from './locks-etcd.ts'
import { openShop, tally } from './shop.ts'
import { openWorld, until } from './world.ts'

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
    Number((await shop.client<{ fence: string }[]>`SELECT fence FROM resources WHERE ref = ${ref}`)[0]?.fence)

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
  await shop.verified()
})
