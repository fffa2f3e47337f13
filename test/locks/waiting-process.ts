/** A process that stands in line. Told the resource over IPC, it waits, says 'served', and lets go when told so. */
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
    const told = once(process, 'message')
    process.send?.('served')
    await told
  },
)
await locks.close()
disconnect()
process.disconnect()
