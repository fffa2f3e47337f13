/**
 * A process that acquires one lock again and again, and under it increments two counters in a separate, undisturbed
 * store: one protected by the lock alone, and one with a fencing token as in the database. It records each step there
 * in one list, so that the steps of all processes have one order.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import type { Lease } from '../../src/shared/locks/api.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { blockEventLoop } from '../support/block.ts'

const [port, store_port, ttl_ms] = process.argv.slice(2).map(Number) as [number, number, number]
const redis = new Redis({ port, retryStrategy: () => 20 })
const store = new Redis({ port: store_port })
redis.on('error', () => {})
const locks = createLocks({ redis, ttl_ms })

/** `SET fence = token WHERE fence <= token`, and the value. */
const RAISE = `
  redis.call('RPUSH', 'history', 'in ' .. ARGV[1] .. ' ' .. ARGV[2])
  if tonumber(redis.call('GET', 'fence') or '0') > tonumber(ARGV[1]) then return false end
  redis.call('SET', 'fence', ARGV[1])
  return redis.call('GET', 'fenced') or '0'`
/** `SET value WHERE fence <= token`. */
const WRITE = `
  if tonumber(redis.call('GET', 'fence')) > tonumber(ARGV[1]) then return false end
  redis.call('SET', 'fenced', ARGV[2])
  return redis.call('RPUSH', 'history', 'fenced ' .. ARGV[1] .. ' ' .. ARGV[2])`

async function count(lease: Lease): Promise<void> {
  const { token } = lease
  lease.assertValid()
  const fenced = await store.eval(RAISE, 0, token, process.pid)
  const plain = Number(await store.get('plain'))
  await sleep(4)
  if (fenced !== null) await store.eval(WRITE, 0, token, Number(fenced) + 1)
  // No await between the check and the write: without a fencing token nothing more can be done.
  lease.assertValid()
  await store
    .multi()
    .set('plain', plain + 1)
    .rpush('history', `plain ${token} ${plain + 1}`)
    .exec()
}

async function contend(): Promise<void> {
  for (;;) {
    await locks.withLease('nemesis:1', { wait_ms: 30_000 }, count).catch(() => sleep(20))
    await sleep(5)
  }
}

process.once('disconnect', () => process.exit())
process.on('message', blockEventLoop)
process.send?.('ready')
await Promise.all([contend(), contend(), contend()])
