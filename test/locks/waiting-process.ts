/**
 * A process that waits for a lock: receives the resource over IPC, waits, sends 'served', and releases on the next
 * message.
 */
import { once } from 'node:events'
import { type Address, openAt } from './lock-servers.ts'

const [address = '', ttl_ms, progress_ms] = process.argv.slice(2)
const { locks, disconnect } = await openAt(JSON.parse(address) as Address, Number(ttl_ms))
await locks.inspect('connected:1')
process.send?.('ready')
const [resource] = (await once(process, 'message')) as [string]
await locks.withLease(
  resource,
  { wait_ms: 60_000, ...(progress_ms && { progress_ms: Number(progress_ms) }) },
  async () => {
    const notified = once(process, 'message')
    process.send?.('served')
    await notified
  },
)
await locks.close()
disconnect()
process.disconnect()
