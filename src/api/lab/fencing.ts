/**
 * The stale writer (M. Kleppmann, "How to do distributed locking"). Three workers acquire the lease of one order in turn. The
 * first two are paused until their leases have expired. The third worker writes; then the first two resume and write too.
 * Invariant: the order's fencing token only rises, so the newest holder's write stays. Each worker also writes the column
 * `unguarded_by` without comparing tokens; there the newest holder's write is lost.
 */
import { and, eq, lte, sql } from 'drizzle-orm'
import Type from 'typebox'
import { labOrders } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import { LeaseLostError, type Locks, type RemoteLease } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { problemResponses, response } from '../http/responses.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { busy, Duration, idParam, KEYED, Message, Success, since, TAGS } from './response-shapes.ts'

/** TTL of a worker's lease, in milliseconds: short, because the demonstration waits until two leases have expired. */
const TTL_MS = 250
/**
 * Milliseconds a worker waits for the lease. Its predecessor never releases it, so this is a TTL plus the delay of a loaded
 * machine.
 */
const TURN_MS = 5_000
/** Milliseconds that a demonstration waits for another demonstration of the same order. */
const QUEUE_MS = 10_000

const Worker = Type.Object({
  worker: Type.Integer(),
  token: Type.Integer({ description: 'Rank among the tokens of this run: 1, 2, 3' }),
  fencing_token: Type.Integer({ description: 'The fencing token itself' }),
  lease: Type.Enum(['held', 'lost'], { description: "State of the worker's lease when the worker wrote" }),
  outcome: Type.Enum(['written', 'rejected']),
  message: Message,
})
type Worker = Type.Static<typeof Worker>

const order = eq(labOrders.id, value('id'))
const token = value('token')
const guardedSql = prepare(
  build
    .update(labOrders)
    .set({ guarded_by: sql`${value('worker')}`, fencing_token: sql`${token}` })
    .where(and(order, lte(labOrders.fencing_token, token)))
    .returning({ id: labOrders.id }),
)
const unguardedSql = prepare(
  build
    .update(labOrders)
    .set({ unguarded_by: sql`${value('worker')}`, unguarded_writes: sql`${labOrders.unguarded_writes} + 1` })
    .where(order),
)
const beginSql = prepare(
  build
    .insert(labOrders)
    .values({ id: value('id') })
    .onConflictDoUpdate({
      target: labOrders.id,
      set: { guarded_by: null, unguarded_by: null, unguarded_writes: 0 },
    })
    .returning({ fencing_token: labOrders.fencing_token }),
)
const orderSql = prepare(
  build
    .select({
      guarded_by: sql<number>`${labOrders.guarded_by}`.as('guarded_by'),
      fencing_token: labOrders.fencing_token,
      written_by: sql<number>`${labOrders.unguarded_by}`.as('written_by'),
      writes: sql<number>`${labOrders.unguarded_writes}`.as('writes'),
    })
    .from(labOrders)
    .where(order),
)

type Db = Pick<Database, 'query'>

/** Acquires three leases in turn and sends no heartbeats, as a stalled process would. */
async function acquireStalled(locks: Locks, id: string, above: number): Promise<RemoteLease[]> {
  const leases: RemoteLease[] = []
  for (const worker of [1, 2, 3]) {
    const options = { ttl_ms: TTL_MS, wait_ms: TURN_MS, owner: `worker ${worker}`, above }
    leases.push(await locks.remote.acquire(`lab-order:${id}`, options))
  }
  return leases
}

async function holds(locks: Locks, { handle }: RemoteLease): Promise<boolean> {
  try {
    await locks.remote.extend(handle)
    return true
  } catch (error) {
    if (error instanceof LeaseLostError) return false
    throw error
  }
}

async function write(db: Db, locks: Locks, id: string, worker: number, lease: RemoteLease): Promise<Worker> {
  const held = await holds(locks, lease)
  const { token: fencing_token } = lease
  const [guarded_row] = await db.query(guardedSql, { id, worker, token: fencing_token })
  await db.query(unguardedSql, { id, worker })
  return {
    worker,
    token: worker,
    fencing_token,
    lease: held ? 'held' : 'lost',
    outcome: guarded_row ? 'written' : 'rejected',
    message: guarded_row ? `Success with token ${worker}` : `Rejected with token ${worker} (stale)`,
  }
}

async function demonstrate(db: Db, locks: Locks, id: string) {
  const [order] = await db.query(beginSql, { id })
  const leases = await acquireStalled(locks, id, order?.fencing_token ?? 0)
  const workers: Worker[] = []
  // The newest holder writes first; the others resume after it.
  for (const worker of [3, 1, 2]) {
    const lease = leases[worker - 1]
    if (lease) workers.push(await write(db, locks, id, worker, lease))
  }
  if (leases[2]) await locks.remote.release(leases[2].handle)
  const [after] = await db.query(orderSql, { id })
  if (!after) throw new Problem(409, 'gone', `The order ${id} no longer exists.`, { retry_after: 1 })
  workers.sort((a, b) => a.worker - b.worker)
  const { guarded_by, fencing_token, written_by, writes } = after
  return { workers, order: { written_by: guarded_by, fencing_token }, without_guard: { written_by, writes } }
}

const schema = {
  operationId: 'labFencing',
  tags: TAGS,
  summary: 'The stale writer: three workers, two with an expired lease',
  description:
    'Only the newest holder may write `order`. `without_guard` has the last writer and the number of writes of a column that ' +
    'each worker writes without comparing tokens.',
  params: idParam('order_id'),
  response: {
    200: response(
      Type.Object({
        success: Success,
        order_id: Type.String(),
        ttl_ms: Type.Integer({ examples: [TTL_MS] }),
        workers: Type.Array(Worker),
        order: Type.Object({ written_by: Type.Integer(), fencing_token: Type.Integer() }),
        without_guard: Type.Object({ written_by: Type.Integer(), writes: Type.Integer() }),
        duration: Duration,
      }),
      "Each worker's outcome, and the last write",
    ),
    ...problemResponses(400, busy, 413, 415),
  },
}

export function fencingRoutes(app: TypedApp, db: Db, locks: Locks): void {
  app.post('/demo/fencing/:order_id', { config: KEYED, schema }, async ({ params: { order_id } }) => {
    const started_ms = performance.now()
    // Runs of one order are serialized: otherwise the newest token of one run could be stale in the other run.
    const run = () => demonstrate(db, locks, order_id)
    const wait = { wait_ms: QUEUE_MS }
    const outcome = await onLockServer(() => locks.withLease(`lab-fencing:${order_id}`, wait, run))
    const newest = outcome.workers.every((one) => (one.outcome === 'written') === (one.token === 3))
    const success = newest && outcome.order.written_by === 3
    return { success, order_id, ttl_ms: TTL_MS, ...outcome, duration: since(started_ms) }
  })
}
