/** As locks-waiter.ts, on etcd. */
import { once } from 'node:events'
import { createEtcdLocks } from '../src/shared/locks/etcd.ts'

const [port, ttl_ms] = process.argv.slice(2).map(Number) as [number, number]
const locks = createEtcdLocks({ hosts: [`http://127.0.0.1:${port}`], ttl_ms })
await locks.inspect('connected:1')
process.send?.('ready')
const [resource] = (await once(process, 'message')) as [string]
await locks.withLease(resource, { wait_ms: 60_000 }, async () => {
  const told = once(process, 'message')
  process.send?.('served')
  await told
})
await locks.close()
process.disconnect()
