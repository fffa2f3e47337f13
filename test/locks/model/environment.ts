/**
 * The environment of a history: two Redis with one clock that a test sets, the second a replica on demand, and the
 * locks of three processes, which follow the current primary.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import type { Locks } from '../../../src/shared/locks/api.ts'
import { createLocks } from '../../../src/shared/locks/redis/locks.ts'
import { makeClock } from '../../support/fake-clock.ts'
import { startRedis } from '../../support/redis-server.ts'
import { startProxy } from '../../support/tcp-proxy.ts'

/** Leases outlive every history, so that only its steps change anything: heartbeats come at a third of the TTL. */
const TTL_MS = 60_000
const FLEET = 3

interface Side {
  port: number
  redis: Redis
}

export interface HistoryWorld {
  fleet: readonly Locks[]
  /** The servers' wall clock. */
  now_ms(): number
  /** Sets it to this many seconds beside the true time. */
  setClock(offset_s: number): void
  flush(): Promise<void>
  /** Stops replication: the standby keeps the present data of the primary. */
  snapshot(): Promise<void>
  /** Promotes the standby, with the data of the snapshot. */
  promote(): Promise<void>
  /** Resets every connection, so that all waiters and holders recheck; resolves when they do. */
  reconnect(): Promise<void>
  stop(): Promise<void>
}

export async function openHistoryWorld(): Promise<HistoryWorld> {
  const clock = makeClock()
  let offset_s = 0
  const sync = ['--repl-diskless-sync-delay', '0', '--repl-diskless-load', 'swapdb', '--repl-timeout', '1000000']
  // A process forked while another thread is inside libfaketime hangs for ever.
  const quiet = ['--hz', '100', '--jemalloc-bg-thread', 'no']
  const servers = await Promise.all([
    startRedis([...sync, ...quiet], clock.env),
    startRedis([...sync, ...quiet], clock.env),
  ])
  let [primary, standby] = servers.map((server) => ({ port: server.port, redis: server.client() })) as [Side, Side]
  const proxy = await startProxy(
    () => primary.port,
    () => {},
  )
  const clients = Array.from({ length: FLEET }, () => servers[0].client({ port: proxy.port }))
  const fleet = clients.map((redis) => createLocks({ redis, ttl_ms: TTL_MS }))

  /** Resolves when every process has subscribed on a connection younger than this client id. */
  async function listening(after: number): Promise<void> {
    for (;;) {
      const list = String(await primary.redis.call('CLIENT', 'LIST', 'TYPE', 'pubsub'))
      const ids = Array.from(
        list.matchAll(/(?:^|\n)id=(\d+) .* sub=(\d+)/g),
        ([, id, subs]) => Number(subs) && Number(id),
      )
      if (ids.filter((id) => id > after).length === FLEET) break
      await sleep(2)
    }
    // Their rechecks were sent before these requests, so they are done when these are answered.
    for (let i = 0; i < 2; i++) await Promise.all(fleet.map((locks) => locks.inspect('world:listening')))
  }

  let snapshots = 0

  async function reconnect(): Promise<void> {
    const last = await latestClient(primary.redis)
    for (const link of proxy.links) link.cut()
    await listening(last)
  }

  await Promise.all(fleet.map((locks) => locks.withLease('world:ready', { wait_ms: 10_000 }, async () => {})))
  await listening(0)
  return {
    fleet,
    now_ms: () => Date.now() + offset_s * 1000,
    setClock(seconds) {
      offset_s = seconds
      clock.set(seconds)
    },
    async flush() {
      await primary.redis.flushall()
    },
    async snapshot() {
      // By a value, since a replica updates its link status only once a second.
      const marked = String(++snapshots)
      await primary.redis.set('world:snapshot', marked)
      const follows = async () => (await standby.redis.get('world:snapshot').catch(() => null)) === marked
      while (!(await follows())) {
        await standby.redis.replicaof('127.0.0.1', primary.port)
        const patience = performance.now() + 5000
        while (!(await follows()) && performance.now() < patience) await sleep(1)
        await standby.redis.replicaof('NO', 'ONE')
      }
    },
    async promote() {
      const before = primary
      primary = standby
      standby = before
      await reconnect()
    },
    reconnect,
    async stop() {
      await Promise.all(fleet.map((locks) => locks.close()))
      await proxy.stop()
      await Promise.all(servers.map((server) => server.stop()))
      clock.remove()
    },
  }
}

async function latestClient(redis: Redis): Promise<number> {
  const list = String(await redis.call('CLIENT', 'LIST'))
  return Math.max(...Array.from(list.matchAll(/(?:^|\n)id=(\d+) /g), ([, id]) => Number(id)))
}
