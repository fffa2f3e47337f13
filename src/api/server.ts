/** Wires the API's dependencies, starts and stops them. main.ts runs it as a process, tests run it in theirs. */
import type { FastifyInstance } from 'fastify'
import { createBreaker } from '../shared/breaker.ts'
import type { Config } from '../shared/config.ts'
import { CONNECTIONS, isDataError, openDb } from '../shared/db/client.ts'
import { watchDependencies } from '../shared/health.ts'
import { createLockStats } from '../shared/lock-stats.ts'
import type { Log } from '../shared/log.ts'
import { lockEvents, type Metrics } from '../shared/metrics.ts'
import { openLocks } from '../shared/open-locks.ts'
import { createStripe } from '../shared/payments/stripe.ts'
import { Problem } from '../shared/problem.ts'
import { createChargeQueue, createNudger, openRedis, pingRedis } from '../shared/queues.ts'
import { runSteps, type Step } from '../shared/shutdown.ts'
import { openTraces } from '../shared/tracing.ts'
import { buildApp } from './app.ts'
import { createCollector } from './dashboard/collector.ts'
import { createTail } from './outbox-tail.ts'
import { traceRequests } from './plugins/tracing.ts'
import { BOOKINGS, createIntake, FLUSH_MS, PURCHASES } from './queue/intake.ts'
import { createNudgeGate } from './queue/nudge-gate.ts'
import { createResourceKinds } from './queue/resource-kinds.ts'
import { createSettlementWaiter } from './queue/settlement-waiter.ts'
import { traceEnqueue } from './queue/tracing.ts'
import type { NewBooking } from './routes/bookings.ts'
import { openBullBoard } from './routes/bull-board.ts'
import type { NewPurchase } from './routes/purchases.ts'

export interface RunningApi {
  app: FastifyInstance
  /** turns readiness off; open requests go on */
  stopping(): void
  /** the steps of shutdown, in order */
  closing: readonly Step[]
  close(): Promise<void>
}

export interface ApiDeps {
  config: Config
  metrics: Metrics
  log: Log
}

const isAnswer = (error: unknown) => error instanceof Problem || isDataError(error)

export async function startApi({ config, metrics, log }: ApiDeps): Promise<RunningApi> {
  const { database_url, redis_url, redis_prefix, lease_ttl_ms: ttl_ms } = config
  const db = openDb(database_url, {
    max: CONNECTIONS.api.reads,
    name: 'holdfast-api',
    idle_in_transaction_ms: ttl_ms,
    statement_ms: FLUSH_MS,
  })
  const { client } = db
  const postgres = createBreaker({ name: 'postgres', timeout_ms: FLUSH_MS, isAnswer, metrics })
  const intakeBreaker = createBreaker({ name: 'intake', timeout_ms: FLUSH_MS, isAnswer, metrics })
  const redis = openRedis(redis_url, log)
  const stats = createLockStats({ redis, prefix: redis_prefix })
  const events = lockEvents(metrics, log, stats, config.expected_hold_ms)
  const { locks, modes, ...opened } = await openLocks({ config, redis, log, events })
  const nudger = createNudger(redis_url, redis_prefix, log)
  const chargeQueue = createChargeQueue(redis_url, redis_prefix, log)
  const subscriber = openRedis(redis_url, log)
  const waiter = createSettlementWaiter(subscriber, redis_prefix, client, log)
  const gate = createNudgeGate({ subscriber, redis_prefix, nudge: nudger.nudge, log })
  const { nudge } = gate
  const purchaseIntake = createIntake<NewPurchase>(PURCHASES, { database_url, breaker: intakeBreaker, log, nudge })
  const bookingIntake = createIntake<NewBooking>(BOOKINGS, { database_url, breaker: intakeBreaker, log, nudge })
  const traces = config.tracing ? await openTraces({ service: 'holdfast-api', redis, prefix: redis_prefix }) : undefined
  // If Redis hangs, requests are not counted, and each is delayed by at most 100 ms.
  const rates = config.rate_limit === undefined ? undefined : openRedis(redis_url, log, { commandTimeout: 100 })
  const tail = createTail(client, log)
  // Its queries use indexes even when they were planned on small tables, and time out early.
  const dashboard_db = openDb(database_url, {
    max: CONNECTIONS.api.dashboard,
    name: 'holdfast-dashboard',
    idle_in_transaction_ms: ttl_ms,
    statement_ms: 2_000,
    settings: { enable_seqscan: 'off', jit: 'off' },
  })
  const dashboard = createCollector({
    client: dashboard_db.client,
    locks,
    redis,
    prefix: redis_prefix,
    waiter,
    breakers: [postgres, intakeBreaker],
    lab: config.lab,
    log,
  })
  const checks = { postgres: () => client`SELECT 1`, redis: () => pingRedis(redis), ...opened.checks }
  let stopping = false
  const app = await buildApp({
    config,
    log,
    client,
    locks,
    modes,
    rates,
    stats,
    purchaseIntake: traceEnqueue(purchaseIntake, traces),
    bookingIntake: traceEnqueue(bookingIntake, traces),
    ...(traces && { trace: traceRequests }),
    resourceKinds: createResourceKinds(client, postgres.run),
    waiter,
    nudge,
    gateway: createStripe(config.payments),
    enqueueCharges: chargeQueue.enqueue,
    tail,
    webhooks_allow_private: config.webhooks.allow_private,
    viaBreaker: postgres.run,
    onStaleWrite() {
      metrics.fencing_rejections.inc()
      stats.onStaleWrite()
    },
    dashboard,
    openBullBoard: () => openBullBoard({ redis_url, redis_prefix, log }),
    lab: config.lab ? { pause_ms: config.lab_pause_ms } : undefined,
    health: {
      metrics,
      breakers: [postgres, intakeBreaker],
      checks,
      stuckReason: () => undefined,
      stopping: () => stopping,
    },
  })
  app.door.onDrain(() => waiter.stop())
  const watch = watchDependencies({ checks, log })
  const closing: Step[] = [
    ['finish requests', (within_ms) => app.door.drain(within_ms)],
    ['finish flushes', () => Promise.all([purchaseIntake.close(), bookingIntake.close()])],
    ['hand jobs over', () => Promise.all([nudger.close(), chargeQueue.close()])],
    ['release leases', () => opened.close()],
    ['flush statistics and traces', () => Promise.all([stats.close(), traces?.close()])],
    [
      'close connections',
      async () => {
        watch.close()
        tail.close()
        dashboard.close()
        gate.close()
        waiter.close()
        redis.disconnect()
        rates?.disconnect()
        postgres.close()
        intakeBreaker.close()
        await Promise.all([db.close(), dashboard_db.close()])
      },
    ],
  ]
  return {
    app,
    stopping() {
      stopping = true
      app.door.announceClose()
    },
    closing,
    close: () => runSteps(log, closing, config.shutdown_ms),
  }
}
