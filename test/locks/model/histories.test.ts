/**
 * Short random histories of a lock against a model, with a server that loses data, falls back, and whose clock is
 * stepped.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t from 'tap'
import { openWorld } from '../../support/environment.ts'
import { casesOf } from '../conformance/contract.ts'
import { openHistoryWorld } from './environment.ts'
import { fencedInMemory, runHistories } from './histories.ts'
import type { Fenced } from './steps.ts'

const world = await openHistoryWorld()
t.teardown(() => world.stop())

t.test('clock set back an hour: a dead holder costs its TTL, not an hour', async (t) => {
  t.teardown(() => world.setClock(0))
  const ttl_ms = 900
  const [dying, next] = world.fleet
  if (!dying || !next) throw new Error('no fleet')
  await Promise.all(
    casesOf({ modes: ['exclusive', 'shared', 'permit'] }).map(async ({ mode, ask, rival }) => {
      const dead = await dying.remote.acquire(`back:${mode}`, { ...ask, ttl_ms })
      world.setClock(-3600)
      const began = performance.now()
      const lease = await next.acquire(`back:${mode}`, { ...rival, ttl_ms, wait_ms: 8000 }).catch(() => undefined)
      const waited = performance.now() - began
      t.ok(lease && waited < ttl_ms + 500, `${mode}: after ${Math.round(waited)} ms`)
      t.ok(lease && lease.token > dead.token, 'the token still rises')
      await lease?.release()
    }),
  )
})

t.test('stale replica promoted with the clock behind: no token twice', async (t) => {
  t.teardown(() => world.setClock(0))
  const [locks] = world.fleet
  if (!locks) throw new Error('no fleet')
  const tokenOf = async () => await locks.withLease('twice:1', {}, async ({ token }) => token)
  const tokens = [await tokenOf()]
  world.setClock(-3600)
  await world.snapshot()
  tokens.push(await tokenOf())
  await world.promote()
  tokens.push(await tokenOf(), await locks.withLease('twice:1', { above: tokens[0] ?? 0 }, async ({ token }) => token))
  t.equal(new Set(tokens).size, 4, tokens.join(' '))
})

t.test('slot from before the clock was set back: not a waiter', async (t) => {
  t.teardown(() => world.setClock(0))
  const [locks, other] = world.fleet
  if (!locks || !other) throw new Error('no fleet')
  const holder = await locks.acquire('ghost:1')
  const stop = new AbortController()
  const wait = other.acquire('ghost:1', { wait_ms: 20_000, signal: stop.signal })
  while ((await holder.extend()).waiting === 0) await sleep(2)
  await world.snapshot()
  stop.abort()
  await t.rejects(wait, { name: 'AbortError' })
  world.setClock(-3600)
  await world.promote()
  t.same(await holder.extend(), { waiting: 0 })
  t.same((await other.inspect('ghost:1')).waiters, [])
  t.equal(await other.tryAcquire('ghost:1'), undefined)
  await holder.release()
})

t.test('random histories: the lock follows the model, and no superseded holder writes', async (t) => {
  const { failed, report, seed, seen } = await runHistories(world, fencedInMemory(), { histories: 100 })
  t.notOk(failed, report)
  t.comment(`seed ${seed}: ${JSON.stringify(seen)}`)
})

t.test('random histories with the fencing token in Postgres', async (t) => {
  const { env } = await openWorld(t)
  const sql = postgres(env.DATABASE_URL, { max: 2, onnotice() {} })
  t.teardown(() => sql.end())
  await sql`CREATE TABLE history (resource text PRIMARY KEY, fence bigint NOT NULL DEFAULT 0, value int NOT NULL DEFAULT 0)`
  const fenced: Fenced = {
    async raise(resource, token) {
      await sql`INSERT INTO history (resource) VALUES (${resource}) ON CONFLICT DO NOTHING`
      const [row] = await sql`
        UPDATE history SET fence = ${token} WHERE resource = ${resource} AND fence <= ${token} RETURNING value`
      return row?.value
    },
    async write(resource, token, value) {
      const { count } = await sql`
        UPDATE history SET fence = ${token}, value = ${value} WHERE resource = ${resource} AND fence <= ${token}`
      return count === 1
    },
    async fenceOf(resource) {
      const [row] = await sql`SELECT fence FROM history WHERE resource = ${resource}`
      return Number(row?.fence ?? 0)
    },
  }
  const { failed, report, seed, seen } = await runHistories(world, fenced, { histories: 25 })
  t.notOk(failed, report)
  t.comment(`seed ${seed}: ${JSON.stringify(seen)}`)
})
