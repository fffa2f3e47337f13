/** A sale while API and worker processes are killed, frozen and stopped. */
import t from 'tap'
import { inTransaction, metric, openShop, rush, settled, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

t.test('worker killed inside a batch: every purchase is settled once', async (t) => {
  const world = await openWorld(t)
  const [api, victim] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  // The row lock keeps the worker inside its transaction until it is killed.
  let acknowledged: string[] = []
  await shop.client.begin(async (tx) => {
    await tx`SELECT 1 FROM resources WHERE id = ${ref} FOR UPDATE`
    acknowledged = await rush(shop, ref, 300)
    await inTransaction(shop)
    victim.kill('SIGKILL')
    await victim.exited
  })
  await world.startWorker(TTL)
  await settled(t, shop, ref, acknowledged, 100)
})

t.test('API killed right after its 202s: every acknowledged purchase is settled', async (t) => {
  const world = await openWorld(t)
  const api = await world.startApi(TTL)
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const acknowledged = await rush(shop, ref, 200)
  api.kill('SIGKILL')
  const [again] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const after = openShop(t, [again.url], world.env.DATABASE_URL)
  t.equal(acknowledged.length, 200)
  await settled(t, after, ref, acknowledged, 100)
})

t.test('worker frozen inside a transaction past its TTL: writes nothing, and the refusal is counted', async (t) => {
  const world = await openWorld(t)
  const [api, sleeper] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  const rejected = 'holdfast_fencing_token_rejections_total'
  t.equal(await metric(sleeper.url, rejected), 0)
  let acknowledged: string[] = []
  await shop.client.begin(async (tx) => {
    await tx`SELECT 1 FROM resources WHERE id = ${ref} FOR UPDATE`
    acknowledged = await rush(shop, ref, 30)
    await inTransaction(shop)
    sleeper.kill('SIGSTOP')
  })
  // From here on the frozen worker's transaction is open in Postgres, with its fence written and its row locked.
  await world.startWorker(TTL)
  await settled(t, shop, ref, acknowledged, 10)
  const [token] = await shop.client<{ fencing_token: string }[]>`SELECT fencing_token FROM resources WHERE id = ${ref}`
  sleeper.kill('SIGCONT')
  await until(async () => (await metric(sleeper.url, rejected)) > 0, { what: 'the refusal to be counted' })
  const fences = await shop.client<{ fencing_token: string }[]>`
    SELECT DISTINCT fencing_token FROM purchases WHERE queue = ${ref}
    UNION SELECT DISTINCT fencing_token FROM ledger_entries WHERE resource_id = ${ref} AND fencing_token IS NOT NULL`
  t.same(fences, [token], '0 rows carry the token of the first')
  await shop.verified()
})

t.test('SIGTERM during a sale: the worker finishes its batch, releases its leases and exits with 0', async (t) => {
  const world = await openWorld(t)
  const [api, leaver] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 100)
  const acknowledged = rush(shop, ref, 200)
  await until(async () => Object.keys(await shop.statuses(ref)).length > 0, { what: 'the sale to begin' })
  leaver.kill('SIGTERM')
  t.equal(await leaver.exited, 'code 0')
  const since = performance.now()
  await world.startWorker(TTL)
  await settled(t, shop, ref, await acknowledged, 100)
  t.ok(performance.now() - since < 10_000)
})
