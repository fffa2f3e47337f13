/** A process that uses the locks, also by waiting, closes its clients, and does not close the locks. */
import { type Address, openAt } from './lock-servers.ts'

const [address = '', ttl_ms] = process.argv.slice(2)
const { locks, disconnect } = await openAt(JSON.parse(address) as Address, Number(ttl_ms))
const holder = await locks.acquire('leaver:1')
const next = locks.withLease('leaver:1', { wait_ms: 30_000 }, async () => {})
while ((await holder.extend()).waiting < 1);
await holder.release()
await next
// The notification shows that the process has subscribed.
const revoked = await locks.acquire('leaver:2')
const notified = new Promise((resolve) => revoked.signal.addEventListener('abort', resolve, { once: true }))
await locks.forceRelease('leaver:2')
await notified
disconnect()
process.stdout.write('left\n')
