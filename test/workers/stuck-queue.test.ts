/** A queue moves again after its worker was frozen, starved or cut off, whatever the worker was waiting for. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { openShop, TTL } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

/**
 * Longer than a worker waits for a lease with this TTL: when it wakes, its time limit has passed before it reads any
 * answer.
 */
const FROZEN_MS = 3_300

async function post(url: string, body: object): Promise<{ lease_id: string }> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
  return (await answer.json()) as { lease_id: string }
}

const lockOf = async (api: string, ref: string) =>
  (await (await fetch(`${api}/api/locks/${ref}`)).json()) as { waiters: object[]; holders: { owner: string }[] }

t.test('worker frozen while it waits for a lease that is released meanwhile: the queue moves', async (t) => {
  const world = await openWorld(t)
  const [api, worker] = await Promise.all([world.startApi(TTL), world.startWorker(TTL)])
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const repeats = Number(process.env.TEST_REPEATS ?? 2)
  for (let n = 0; n < repeats; n++) {
    const ref = await shop.units('product', 100)
    const taken = await post(`${api.url}/api/leases`, {
      resource: ref,
      mode: 'exclusive',
      ttl_ms: 60_000,
      owner: 'test',
    })
    const buy = () => shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
    await buy()
    const waits = async () => (await lockOf(api.url, ref)).waiters.length > 0
    await until(waits, { what: 'the worker to wait for the lease' })
    worker.kill('SIGSTOP')
    await sleep(FROZEN_MS)
    await fetch(`${api.url}/api/leases/${taken.lease_id}`, { method: 'DELETE' })
    worker.kill('SIGCONT')
    for (let i = 0; i < 5; i++) await buy()
    const confirmed = async () => (await shop.statuses(ref)).confirmed === 6
    await until(confirmed, { what: 'all six to be confirmed', timeout_ms: 10_000 }).catch(async (error) => {
      const seen = [await shop.statuses(ref), await lockOf(api.url, ref)]
      throw new Error(`${error.message}; ${JSON.stringify(seen)}`)
    })
    t.pass(`repeat ${n + 1}`)
  }
})
