/** A process that stands in line. Told the resource over IPC, it waits, says 'served', and lets go when told so. */
import { once } from 'node:events'
import { Redis } from 'ioredis'
import { createLocks } from '../src/shared/locks/redis.ts'

const [port, ttl_ms] = process.argv.slice(2).map(Number) as [number, number]
const redis = new Redis({ host: '127.0.0.1', port })
const locks = createLocks({ redis, ttl_ms })
await redis.ping()
process.send?.('ready')
const [resource] = (await once(process, 'message')) as [string]
await locks.withLease(resource, { wait_ms: 60_000 }, async () => {
  const told = once(process, 'message')
  process.send?.('served')
  await told
})
await locks.close()
redis.disconnect()
process.disconnect()
