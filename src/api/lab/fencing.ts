/**
 * The stale writer (M. Kleppmann, "How to do distributed locking"): three workers take the lease of one order in turn, the
 * first two stall and outlive theirs, the third writes, and then the first two wake and write too. Invariant: the order's
 * fence only rises, so the write that stays is the newest holder's; the column without the guard shows what would.
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

/** Milliseconds of a worker's lease: short, since two of them are waited for. */
const TTL_MS = 250
/** Milliseconds a worker waits for its turn: its predecessor never lets go, so a TTL, and what a loaded machine adds. */
const TURN_MS = 5_000
/** Milliseconds one demonstration waits for another one of the same order. */
const QUEUE_MS = 10_000

const Worker = Type.Object({
  worker: Type.Integer(),
  token: Type.Integer({ description: 'Its place among the tokens of this run: 1, 2, 3' }),
  fencing_token: Type.Integer({ description: 'The token itself' }),
  lease: Type.Enum(['held', 'lost'], { description: 'When it wrote' }),
  outcome: Type.Enum(['written', 'rejected']),
  message: Message,
})
type Worker = Type.Static<typeof Worker>

export interface FencingDeps {
  client: Client
  locks: Locks
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

export function fencingRoutes(instance: FastifyInstance, { client, locks, guarded }: FencingDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()

  /** Leases that live by heartbeats which nobody sends: what a stalled process has. */
  async function stall(id: string, above: number): Promise<RemoteLease[]> {
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
    const [guarded_row] = await guarded(() =>
      query(
        client,
        sql`UPDATE lab_orders SET guarded_by = ${worker}, fencing_token = ${fencing_token}
            WHERE id = ${id} AND fencing_token <= ${fencing_token} RETURNING id`,
      ),
    )
    await guarded(() =>
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
    const [order] = await guarded(() =>
      query<{ fencing_token: number }>(
        client,
        sql`INSERT INTO lab_orders AS o (id) VALUES (${id})
            ON CONFLICT (id) DO UPDATE SET guarded_by = NULL, unguarded_by = NULL, unguarded_writes = 0
            RETURNING o.fencing_token`,
      ),
    )
    const leases = await stall(id, order?.fencing_token ?? 0)
    const workers: Worker[] = []
    // The newest writes at once; the others wake after it.
    for (const worker of [3, 1, 2]) {
      const lease = leases[worker - 1]
      if (lease) workers.push(await write(id, worker, lease))
    }
    if (leases[2]) await locks.remote.release(leases[2].handle)
    const [after] = await guarded(() =>
      query<{ guarded_by: number; fencing_token: number; written_by: number; writes: number }>(
        client,
        sql`SELECT guarded_by, fencing_token, unguarded_by AS written_by, unguarded_writes AS writes FROM lab_orders WHERE id = ${id}`,
      ),
    )
    if (!after) throw new Problem(409, 'gone', `The order ${id} is gone.`, { retry_after: 1 })
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
        summary: 'The stale writer: three workers, two of which outlive their lease',
        description: 'Only the newest may write. `without_guard` is a column that all of them may write.',
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
            "Each worker's outcome, and whose write stayed",
          ),
          ...problemResponses(400, busy, 413, 415),
        },
      },
    },
    async ({ params: { order_id } }) => {
      const started_ms = performance.now()
      // One after the other: the tokens of two runs would mix, and the newest of one be stale for the other.
      const run = () => demonstrate(order_id)
      const wait = { wait_ms: QUEUE_MS }
      const told = await onLockServer(() => locks.withLease(`lab-fencing:${order_id}`, wait, run))
      const newest = told.workers.every((one) => (one.outcome === 'written') === (one.token === 3))
      const success = newest && told.order.written_by === 3
      return { success, order_id, ttl_ms: TTL_MS, ...told, duration: since(started_ms) }
    },
  )
}
