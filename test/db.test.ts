/** Connections that are lost at the worst moment: every statement gets its own answer, or an error. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { openDb } from '../src/shared/db.ts'
import { startProxy } from './locks-redis.ts'
import { openWorld } from './world.ts'

t.test(
  'what is asked while a connection is being reset gets its own answer or an error, never another’s',
  async (t) => {
    const { env } = await openWorld(t)
    const address = new URL(env.DATABASE_URL)
    const proxy = await startProxy(Number(address.port))
    address.port = String(proxy.port)
    const db = openDb(address.href, { max: 1, name: 'test', idle_in_transaction_ms: 10_000 })
    t.teardown(async () => {
      await db.close()
      await proxy.stop()
    })
    const answer = async (n: number) => {
      const asked = db.client.unsafe('SELECT $1::int AS n', [n], { prepare: true })
      const late = sleep(5_000, 'no answer', { ref: false })
      return await Promise.race([
        asked.then(
          ([row]) => row?.n as number | undefined,
          () => 'error',
        ),
        late,
      ])
    }
    t.equal(await answer(1), 1)
    const interrupted = db.client.unsafe('SELECT pg_sleep(30)').then(
      () => 'slept',
      // At once: the socket has failed and is not closed yet.
      () => answer(2),
    )
    for (const link of proxy.links) link.reset()
    const others = [await interrupted, await answer(3), await answer(4), await answer(5)]
    t.same(others, ['error', 3, 4, 5])
  },
)
