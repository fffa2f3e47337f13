/** The database behind an API that was loaded: whether its invariants hold once every queue is empty. */
import { setTimeout as sleep } from 'node:timers/promises'
import { openDb } from '../../src/shared/db/client.ts'
import { type Finding, verify } from '../../src/shared/invariants.ts'

/** Seconds that the queues have to empty after the load. */
const DRAIN_S = 60

/** `left`: rows that are still queued after DRAIN_S. */
export async function drained(database_url: string): Promise<{ left: number; verdicts: Finding[] }> {
  const db = openDb(database_url, { max: 1, name: 'holdfast-verify', idle_in_transaction_ms: 60_000 })
  const queued = async () => {
    const [row] = await db.client<{ n: number }[]>`
      SELECT ((SELECT count(*) FROM purchases WHERE status = 'queued')
            + (SELECT count(*) FROM bookings WHERE status = 'queued')
            + (SELECT count(*) FROM commands WHERE status = 'queued'))::int AS n`
    return row?.n ?? 0
  }
  try {
    const deadline = Date.now() + DRAIN_S * 1_000
    let left = await queued()
    while (left > 0 && Date.now() < deadline) {
      await sleep(100)
      left = await queued()
    }
    return { left, verdicts: await verify(db.client) }
  } finally {
    await db.close()
  }
}
