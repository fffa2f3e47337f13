/** Checks the invariants of the database behind a loaded API, once every queue is empty. */
import { setTimeout as sleep } from 'node:timers/promises'
import { openDb } from '../../src/shared/db/client.ts'
import { type Finding, verify } from '../../src/shared/invariants.ts'

/** Seconds within which the queues must become empty after the load. */
const DRAIN_S = 60

/** Waits until the queues are empty. `left`: rows still queued after DRAIN_S. */
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
