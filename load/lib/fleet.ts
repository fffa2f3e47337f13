/** Starts Holdfast's real processes for a benchmark: one API and some workers, with a separate database and prefix. */
import { processSpec } from '../../ops/dev/environment.mjs'
import { type Client, openDb } from '../../src/shared/db/client.ts'
import { migrateDb } from '../../src/shared/db/migrate.ts'
import { type NodeProcess, startNode } from './child-process.ts'
import type { Store } from './environment.ts'

/** Stock of every product: more units than any run can sell. */
export const STOCK = 1_000_000_000

/** Puts product:1 … product:N up for sale. */
export async function stock(client: Client, products: number): Promise<void> {
  await client`WITH made AS (
                 INSERT INTO resources (id, kind, name, total, available, price)
                 SELECT 'product:' || n, 'units', 'Product ' || n, ${STOCK}, ${STOCK}, 100
                 FROM generate_series(1, ${products}) n RETURNING id, total
               ) INSERT INTO ledger_entries (resource_id, delta, reason) SELECT id, total, 'created' FROM made`
  await client`ANALYZE resources`
}

export interface Holdfast {
  url: string
  client: Client
  /** the API first, then the workers */
  processes: readonly NodeProcess[]
  addWorker(): Promise<unknown>
}

/** Runs the body on a migrated, empty database, and ends the processes afterwards. */
export async function withHoldfast<T>(
  { database_url, redis_prefix, environment }: Store,
  workers: number,
  body: (holdfast: Holdfast) => Promise<T>,
): Promise<T> {
  await migrateDb(database_url)
  const db = openDb(database_url, { max: 4, name: 'holdfast-bench', idle_in_transaction_ms: 60_000 })
  const processes: NodeProcess[] = []
  try {
    const start = async (role: 'api' | 'worker') => {
      const spec = await processSpec(role)
      const where = { DATABASE_URL: database_url, REDIS_URL: environment.redis_url, REDIS_PREFIX: redis_prefix }
      const env = { ...where, HOST: '127.0.0.1', LOG_LEVEL: 'error', ...spec.env }
      const one = startNode({ name: role, entry: spec.entry, env })
      processes.push(one)
      await one.ready(`${spec.url}/readyz`)
      return spec.url
    }
    const addWorker = () => start('worker')
    const [url] = await Promise.all([start('api'), ...Array.from({ length: workers }, addWorker)])
    return await body({ url, client: db.client, processes, addWorker })
  } finally {
    for (const one of processes) await one.stop()
    await db.close()
  }
}

/** Runs `body` for 0 … count − 1, `at_once` of them at a time; returns the seconds it took. */
export async function inParallel(count: number, at_once: number, body: (n: number) => Promise<void>): Promise<number> {
  const since = performance.now()
  let next = 0
  const lane = async () => {
    while (next < count) await body(next++)
  }
  await Promise.all(Array.from({ length: at_once }, lane))
  return (performance.now() - since) / 1000
}
