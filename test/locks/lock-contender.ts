/**
 * A process with many contenders for permits: as long as it lives they acquire one, hold it for a moment and release
 * it. It reports over IPC, with the time of the machine's monotonic clock, which all processes share.
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Address, openAt } from './lock-servers.ts'

interface Contention {
  address: Address
  resource: string
  contenders: number
  limit: number
  ttl_ms: number
  hold_ms: number
}

process.once('disconnect', () => process.exit())
const notified = once(process, 'message')
process.send?.('ready')
const [{ address, resource, contenders, limit, ttl_ms, hold_ms }] = (await notified) as [Contention]
const { locks } = await openAt(address, ttl_ms)
const now_ms = () => Number(process.hrtime.bigint() / 1000n) / 1000

async function contend(): Promise<void> {
  for (;;) {
    try {
      await locks.withLease(resource, { mode: 'permit', limit, wait_ms: 60_000 }, async ({ token }) => {
        process.send?.({ token, from_ms: now_ms() })
        await sleep(hold_ms)
        process.send?.({ token, to_ms: now_ms() })
      })
    } catch (error) {
      // A hundred requests at once may be more than two busy cores answer in time: retried.
      if (!(error instanceof Error && /did not answer|DEADLINE_EXCEEDED/.test(error.message))) throw error
    }
  }
}
await Promise.all(Array.from({ length: contenders }, contend))
