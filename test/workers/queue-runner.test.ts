/**
 * A queue whose settlement does not end: its lease is released, the runner reports the queue as stuck, and the next job
 * for the queue starts a new run.
 */
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import t from 'tap'
import { createBreaker } from '../../src/shared/breaker.ts'
import { LeaseLostError } from '../../src/shared/locks/api.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import type { BatchRequest, BatchResult } from '../../src/workers/queue/batcher.ts'
import { QueueRunner, type QueueRunnerDeps } from '../../src/workers/queue/queue-runner.ts'
import { openWorld, until } from '../support/environment.ts'

const TTL_MS = 1_000
const PROGRESS_MS = 2_000
const NOTHING: BatchResult = { missed: [], fetched: 0, full: false, after: 0 }

/**
 * Opens a runner whose batch requests get these settlements, then empty ones. Returns it with its batch requests, the
 * reasons of lost leases, and the forced nudges.
 */
async function openRunner(t: Test, settlements: ((ask: BatchRequest) => Promise<BatchResult>)[]) {
  const world = await openWorld(t)
  const redis = new Redis(world.env.REDIS_URL)
  const lost: string[] = []
  const locks = createLocks({
    redis,
    prefix: world.env.REDIS_PREFIX,
    ttl_ms: TTL_MS,
    events: { lost: (_resource, why) => lost.push(why) },
  })
  const leases = createBreaker({ name: 'leases', timeout_ms: 10_000, isAnswer: () => false, metrics: createMetrics() })
  t.teardown(async () => {
    leases.close()
    await locks.close()
    redis.disconnect()
  })
  const asked: BatchRequest[] = []
  const batcher: QueueRunnerDeps['batcher'] = {
    requestBatch: (ask) => {
      const settle = settlements[asked.length] ?? (async () => NOTHING)
      asked.push(ask)
      return settle(ask)
    },
    minToken: () => 0,
  }
  const forced: string[] = []
  const runner = new QueueRunner({
    locks,
    leases,
    batcher,
    nudge: (queues, { force = false } = {}) => void (force && forced.push(...queues)),
    publishHot() {},
    ttl_ms: TTL_MS,
    progress_ms: PROGRESS_MS,
  })
  return { runner, asked, lost, forced }
}

t.test('settlement that does not end: the lease is released, and the next job starts a new run', async (t) => {
  const { runner, asked, lost, forced } = await openRunner(t, [() => new Promise(() => {})])
  void runner.process(['product:1'], 'job 1')
  await until(() => asked.length === 1, { what: 'the settlement to begin' })
  t.same(runner.stopStuck(), [], 'the queue is not stuck before progress_ms is over')
  t.match(runner.state(), [{ queue: 'product:1' }])

  await until(() => lost.length > 0, { what: 'the release of the lease' })
  t.same(lost, ['stalled'])
  const left = await until(() => [runner.stopStuck()].find((one) => one.length > 0), {
    what: 'the runner to report the queue as stuck',
  })
  t.same(left, ['product:1'])
  t.same(forced, ['product:1'], 'a new job is added')
  t.match(
    runner.state(),
    [{ queue: 'product:1' }],
    'the runner still reports the queue, because its step has not ended',
  )

  await runner.process(['product:1'], 'job 2')
  t.equal(asked.length, 2, 'the next job requests a batch of the queue')
  t.ok((asked[1]?.lease.token ?? 0) > (asked[0]?.lease.token ?? 0), 'with a newer token')
})

t.test('lease lost before the settlement: the queue runs again, and the job does not fail', async (t) => {
  const giveBack = async ({ queue, lease }: BatchRequest): Promise<BatchResult> => {
    throw new LeaseLostError(queue, lease.token, 'expired')
  }
  const { runner, asked } = await openRunner(t, [giveBack])
  await runner.process(['product:1'], 'job 1')
  t.equal(asked.length, 2)
  t.ok((asked[1]?.lease.token ?? 0) > (asked[0]?.lease.token ?? 0), 'with a newer token')
})
