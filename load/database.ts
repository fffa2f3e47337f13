/** The database behind an API that was loaded: where it is, and whether its invariants hold once every line is empty. */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseEnv } from 'node:util'
import { ROOT } from '../ops/install.mjs'
import { openDb } from '../src/shared/db.ts'
import { type Finding, verify } from '../src/shared/verify.ts'

/** Seconds that lines have to come to their end after the load. */
const DRAIN_S = 60

/** DATABASE_URL; else, for the API that `npm start` has started here, the one that it has written down. */
export function findDatabase(here: boolean): string | undefined {
  if (process.env.DATABASE_URL) return process.env.DATABASE_URL
  const file = join(resolve(ROOT, process.env.HOLDFAST_DATA || '.data'), 'env')
  return here && existsSync(file) ? parseEnv(readFileSync(file, 'utf8')).DATABASE_URL : undefined
}

/** `left`: rows that stand in line although their time was over. */
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
