/**
 * Real processes that count under a lock while they, its server and its clock are disturbed; their records are checked.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { makeClock } from '../support/fake-clock.ts'
import { startRedis } from '../support/redis-server.ts'
import { startProxy } from '../support/tcp-proxy.ts'

const TTL_MS = 600

interface Entry {
  what: 'in' | 'plain' | 'fenced'
  token: number
  /** The written value; for 'in' the pid. */
  value: number
}

const clock = makeClock()
t.teardown(() => clock.remove())
const [server, store] = await Promise.all([startRedis([], clock.env), startRedis()])
const proxy = await startProxy(server.port, () => {})
t.teardown(() => Promise.all([proxy.stop(), server.stop(), store.stop()]))
const kept = store.client()
const contenders = ['a', 'b', 'c', 'd'].map(() => {
  const args = [proxy.port, store.port, TTL_MS].map(String)
  const child = fork(new URL('./nemesis-contender.ts', import.meta.url), args)
  t.teardown(() => child.kill('SIGKILL'))
  return child
}) as [ChildProcess, ChildProcess, ChildProcess, ChildProcess]
await Promise.all(contenders.map((child) => once(child, 'message')))

/** Resolves when the counters have increased by this much. */
async function progress(by: number): Promise<void> {
  const length = await kept.llen('history')
  while ((await kept.llen('history')) < length + 3 * by) await sleep(10)
}

async function historySince(start: number): Promise<Entry[]> {
  return (await kept.lrange('history', start, -1)).map((entry) => {
    const [what, token, value] = entry.split(' ')
    return { what: what as Entry['what'], token: Number(token), value: Number(value) }
  })
}

/** How often a value was written twice. */
function lostUpdates(history: Entry[], what: Entry['what']): number {
  const values = history.filter((entry) => entry.what === what).map(({ value }) => value)
  return values.length - new Set(values).size
}

/** The model of an exclusive lock: each new holder has a higher token, and after that no earlier holder acts. */
function broken(history: Entry[]): Entry[] {
  let highest = 0
  return history.filter(({ what, token }) => {
    const wrong = what === 'in' ? token <= highest : token !== highest
    highest = Math.max(highest, token)
    return wrong
  })
}

/** Freezes the process that has the lock, between its read and its write. */
async function freezeHolder(): Promise<ChildProcess> {
  for (;;) {
    const [last] = await historySince(-1)
    const child = contenders.find(({ pid }) => last?.what === 'in' && pid === last.value)
    if (!child) continue
    child.kill('SIGSTOP')
    const [still] = await historySince(-1)
    if (still?.token === last?.token && still?.what === 'in') return child
    child.kill('SIGCONT')
  }
}

async function hang(ms: number): Promise<void> {
  server.pause()
  await sleep(ms)
  server.resume()
}

t.test(
  'processes frozen, killed and blocked, a server that hangs, resets and sets its clock back: one holder at a time',
  async (t) => {
    await progress(10)
    for (let i = 0; i < 3; i++) {
      const frozen = await freezeHolder()
      await progress(5)
      frozen.kill('SIGCONT')
      await progress(5)
    }
    ;(await freezeHolder()).kill('SIGKILL')
    await progress(5)
    for (const child of contenders) {
      if (child.signalCode === null) child.send(TTL_MS * 1.5)
      await progress(5)
    }
    for (const ms of [TTL_MS / 4, TTL_MS * 1.5]) {
      await hang(ms)
      await progress(5)
    }
    for (const link of proxy.links) link.reset()
    await progress(5)
    clock.set(-3600)
    await progress(10)
    const history = await historySince(0)
    t.comment(`${history.length} entries`)
    t.same(broken(history), [])
    t.equal(lostUpdates(history, 'plain'), 0, 'lost updates of the counter protected by the lock alone')
    t.equal(lostUpdates(history, 'fenced'), 0)
  },
)

t.test('clock set forward, server without its data: two holders are possible, the token admits one', async (t) => {
  clock.set(0)
  await progress(5)
  await server.client().flushall()
  await progress(5)
  await server.restart()
  await progress(5)
  clock.set(3600)
  await progress(5)
  const history = await historySince(0)
  t.equal(lostUpdates(history, 'fenced'), 0)
  const tokens = history.filter(({ what }) => what === 'in').map(({ token }) => token)
  t.equal(new Set(tokens).size, tokens.length, 'no token was given twice')
  const fenced = history.filter(({ what }) => what === 'fenced').map(({ token }) => token)
  t.same(
    fenced,
    [...fenced].sort((a, b) => a - b),
    'no write after a higher token',
  )
  t.comment(`lost without the token: ${lostUpdates(history, 'plain')}`)
})
