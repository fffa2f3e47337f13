/**
 * The stale writer (M. Kleppmann, "How to do distributed locking"): three workers acquire the lease of one order in turn;
 * the leases of the first two expire while they are paused, the third writes, then the first two resume and write too.
 * Invariant: the order's fencing token only rises, so the newest holder's write stays; the column without the guard shows
 * the lost write.
 */

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query } from '../../shared/db/client.ts'
import { LeaseLostError, type Locks, type RemoteLease } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'
import { onLockServer } from '../http/lock-problems.ts'
import { problemResponses, response } from '../http/responses.ts'
import { busy, Duration, idParam, KEYED, Message, Success, since, TAGS } from './response-shapes.ts'

/** Milliseconds of a worker's lease: short, because the demonstration waits for two of them to expire. */
const TTL_MS = 250
/** Milliseconds a worker waits for the lease: its predecessor never releases it, so a TTL, plus the delay of a loaded machine. */
const TURN_MS = 5_000
/** Milliseconds one demonstration waits for another one of the same order. */
const QUEUE_MS = 10_000

const Worker = Type.Object({
  worker: Type.Integer(),
  token: Type.Integer({ description: 'Rank among the tokens of this run: 1, 2, 3' }),
  fencing_token: Type.Integer({ description: 'The fencing token itself' }),
  lease: Type.Enum(['held', 'lost'], { description: 'State of its lease when it wrote' }),
  outcome: Type.Enum(['written', 'rejected']),
  message: Message,
})
type Worker = Type.Static<typeof Worker>

export interface FencingDeps {
  client: Client
  locks: Locks
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

export function fencingRoutes(instance: FastifyInstance, { client, locks, viaBreaker }: FencingDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()

  /** Leases over HTTP without heartbeats, as a stalled process has them. */
  async function acquireStalled(id: string, above: number): Promise<RemoteLease[]> {
    const leases: RemoteLease[] = []
    for (const worker of [1, 2, 3]) {
      const options = { ttl_ms: TTL_MS, wait_ms: TURN_MS, owner: `worker ${worker}`, above }
      leases.push(await locks.remote.acquire(`lab-order:${id}`, options))
    }
    return leases
  }

  async function holds({ handle }: RemoteLease): Promise<boolean> {
    try {
      await locks.remote.extend(handle)
      return true
    } catch (error) {
      if (error instanceof LeaseLostError) return false
      throw error
    }
  }

  async function write(id: string, worker: number, lease: RemoteLease): Promise<Worker> {
    const held = await holds(lease)
    const { token: fencing_token } = lease
    const [guarded_row] = await viaBreaker(() =>
      query(
        client,
        sql`UPDATE lab_orders SET guarded_by = ${worker}, fencing_token = ${fencing_token}
            WHERE id = ${id} AND fencing_token <= ${fencing_token} RETURNING id`,
      ),
    )
    await viaBreaker(() =>
      query(
        client,
        sql`UPDATE lab_orders SET unguarded_by = ${worker}, unguarded_writes = unguarded_writes + 1 WHERE id = ${id}`,
      ),
    )
    return {
      worker,
      token: worker,
      fencing_token,
      lease: held ? 'held' : 'lost',
      outcome: guarded_row ? 'written' : 'rejected',
      message: guarded_row ? `Success with token ${worker}` : `Rejected with token ${worker} (stale)`,
    }
  }

  async function demonstrate(id: string) {
    const [order] = await viaBreaker(() =>
      query<{ fencing_token: number }>(
        client,
        sql`INSERT INTO lab_orders AS o (id) VALUES (${id})
            ON CONFLICT (id) DO UPDATE SET guarded_by = NULL, unguarded_by = NULL, unguarded_writes = 0
            RETURNING o.fencing_token`,
      ),
    )
    const leases = await acquireStalled(id, order?.fencing_token ?? 0)
    const workers: Worker[] = []
    // The newest holder writes first; the others resume after it.
    for (const worker of [3, 1, 2]) {
      const lease = leases[worker - 1]
      if (lease) workers.push(await write(id, worker, lease))
    }
    if (leases[2]) await locks.remote.release(leases[2].handle)
    const [after] = await viaBreaker(() =>
      query<{ guarded_by: number; fencing_token: number; written_by: number; writes: number }>(
        client,
        sql`SELECT guarded_by, fencing_token, unguarded_by AS written_by, unguarded_writes AS writes FROM lab_orders WHERE id = ${id}`,
      ),
    )
    if (!after) throw new Problem(409, 'gone', `The order ${id} no longer exists.`, { retry_after: 1 })
    workers.sort((a, b) => a.worker - b.worker)
    const { guarded_by, fencing_token, written_by, writes } = after
    return { workers, order: { written_by: guarded_by, fencing_token }, without_guard: { written_by, writes } }
  }

  app.post(
    '/demo/fencing/:order_id',
    {
      config: KEYED,
      schema: {
        operationId: 'labFencing',
        tags: TAGS,
        summary: 'The stale writer: three workers, two with an expired lease',
        description: 'Only the newest holder may write. `without_guard` is a column that all three can write.',
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
      },
    },
    async ({ params: { order_id } }) => {
      const started_ms = performance.now()
      // Runs of one order are serialized: otherwise the newest token of one run could be stale for the other.
      const run = () => demonstrate(order_id)
      const wait = { wait_ms: QUEUE_MS }
      const outcome = await onLockServer(() => locks.withLease(`lab-fencing:${order_id}`, wait, run))
      const newest = outcome.workers.every((one) => (one.outcome === 'written') === (one.token === 3))
      const success = newest && outcome.order.written_by === 3
      return { success, order_id, ttl_ms: TTL_MS, ...outcome, duration: since(started_ms) }
    },
  )
}
