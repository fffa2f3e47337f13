/** Wires the API's dependencies, starts and stops them. main.ts runs it as a process; tests run it in their own process. */
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { createBreaker } from '../shared/breaker.ts'
import type { Config } from '../shared/config.ts'
import { CONNECTIONS, openDb } from '../shared/db/client.ts'
import { isDataError } from '../shared/db/errors.ts'
import { createDependencies, watchDependencies } from '../shared/dependencies.ts'
import { startReporting } from '../shared/fleet-reports.ts'
import { createChargeQueue } from '../shared/jobs/charge-queue.ts'
import { createNudger } from '../shared/jobs/nudges.ts'
import { createLockStats } from '../shared/lock-stats.ts'
import type { Log } from '../shared/log.ts'
import { lockEvents, type Metrics } from '../shared/metrics.ts'
import { openLocks } from '../shared/open-locks.ts'
import { createStripe } from '../shared/payments/stripe.ts'
import { Problem } from '../shared/problem.ts'
import { openRedis, pingRedis } from '../shared/redis.ts'
import { runSteps, type Step } from '../shared/shutdown.ts'
import { openTraces, type Traces } from '../shared/tracing.ts'
import { buildApp } from './app.ts'
import { Collector } from './dashboard/collector.ts'
import { startSampling } from './dashboard/fleet-samples.ts'
import { createReads } from './dashboard/reads.ts'
import { createDatabase } from './database.ts'
import { Tail } from './outbox-tail.ts'
import { traceRequests } from './plugins/tracing.ts'
import { BOOKING_ROWS, type BookingRow, type NewBooking } from './queue/booking-rows.ts'
import { createCommandRows } from './queue/command-rows.ts'
import { FLUSH_MS, Intake } from './queue/intake.ts'
import type { QueuedRowInput } from './queue/intake-rows.ts'
import { createNudgeGate } from './queue/nudge-gate.ts'
import { type NewPurchase, PURCHASE_ROWS, type PurchaseRow } from './queue/purchase-rows.ts'
import { createResourceKinds } from './queue/resource-kinds.ts'
import { createRowReader, type RowStatements } from './queue/row-reader.ts'
import { createSettlementWaiter } from './queue/settlement-waiter.ts'
import { type QueuedRow, type QueueParts, RowQueue } from './queue/submission.ts'
import { traceEnqueue } from './queue/tracing.ts'
import { openBullBoard } from './routes/bull-board.ts'

export interface RunningApi {
  app: FastifyInstance
  /** makes /readyz fail; open requests continue */
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
  const { redis_url, redis_prefix: prefix, lab, lab_pause_ms: pause_ms } = config
  const postgres = openPostgres(config, metrics)
  const { db, client, breakers } = postgres
  const redis = openRedis(redis_url, log)
  const leases = await openLeases(config, redis, metrics, log)
  const { locks, modes, stats, onStaleWrite } = leases
  const traces = config.tracing ? await openTraces({ service: 'holdfast-api', redis, prefix }) : undefined
  const queues = openQueues(config, postgres, traces, log)
  const { waiter, enqueueCharges } = queues
  // If Redis hangs, the rate limit does not count requests, and delays each of them by at most 100 ms.
  const rates = config.rate_limit === undefined ? undefined : openRedis(redis_url, log, { commandTimeout: 100 })
  const tail = new Tail(client, log)
  const reporter = startReporting({ role: 'api', redis, prefix, metrics, breakers, drained: () => [] })
  const dependencies = createDependencies({
    postgres: () => client`SELECT 1`,
    redis: () => pingRedis(redis),
    ...leases.checks,
  })
  const dashboard = new Collector({ client: postgres.dashboard, locks, redis, prefix, waiter, dependencies, lab, log })
  const read = createReads(postgres.dashboard)
  const collect = () => dashboard.collect()
  const sampler = startSampling({ client: postgres.dashboard, redis, prefix, collect, log })
  const resourceKinds = createResourceKinds(db)
  let stopping = false
  const app = await buildApp({
    config,
    rates,
    log,
    health: { metrics, breakers, dependencies, stuckReason: () => undefined, stopping: () => stopping },
    ...(traces && { trace: traceRequests }),
    routes: {
      resources: { db },
      stock: { db, locks, onStaleWrite },
      purchases: { queue: queues.purchases, resourceKinds },
      bookings: { queue: queues.bookings, resourceKinds, db },
      history: {
        db,
        locks,
        purchases: queues.purchases,
        bookings: queues.bookings,
        provider: config.payments.url === undefined ? 'stripe' : 'sandbox',
      },
      availability: { db },
      stripeWebhook: { db, gateway: createStripe(config.payments), enqueueCharges },
      events: { db, tail },
      webhookEndpoints: { db, allow_private: config.webhooks.allow_private },
      leases: { locks, modes },
      locks: { db, locks, stats, log },
      lab: lab ? { db, locks, purchases: queues.purchases, onStaleWrite, pause_ms } : undefined,
      dashboard: { dashboard, db, keys: config.api_keys.length > 0 },
      search: { read },
      resourceDetail: { read, locks, log },
      openBullBoard: () => openBullBoard(redis_url, prefix, log),
    },
  })
  app.door.onDrain(() => waiter.stop())
  const watch = watchDependencies({ dependencies, log })
  const closing: Step[] = [
    ['finish requests', (within_ms) => app.door.drain(within_ms)],
    ['finish flushes', queues.finishFlushes],
    ['hand jobs over', queues.handOver],
    ['release leases', leases.close],
    ['flush statistics and traces', () => Promise.all([reporter.close(), stats.close(), traces?.close()])],
    [
      'close connections',
      async () => {
        for (const one of [watch, tail, sampler, dashboard, queues]) one.close()
        redis.disconnect()
        rates?.disconnect()
        await postgres.close()
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

type Postgres = ReturnType<typeof openPostgres>

function openPostgres({ database_url, lease_ttl_ms: ttl_ms }: Config, metrics: Metrics) {
  const db = openDb(database_url, {
    max: CONNECTIONS.api.reads,
    name: 'holdfast-api',
    idle_in_transaction_ms: ttl_ms,
    statement_ms: FLUSH_MS,
  })
  // The dashboard's queries use indexes even when Postgres planned them on small tables, and they time out early. Generic
  // plans do not depend on the statistics of one resource, which are old during a sale.
  const dashboard = openDb(database_url, {
    max: CONNECTIONS.api.dashboard,
    name: 'holdfast-dashboard',
    idle_in_transaction_ms: ttl_ms,
    statement_ms: 2_000,
    settings: { enable_seqscan: 'off', jit: 'off', plan_cache_mode: 'force_generic_plan' },
  })
  const breaker = createBreaker({ name: 'postgres', timeout_ms: FLUSH_MS, isAnswer, metrics })
  const intakeBreaker = createBreaker({ name: 'intake', timeout_ms: FLUSH_MS, isAnswer, metrics })
  const breakers = [breaker, intakeBreaker]
  return {
    db: createDatabase(db.client, breaker),
    client: db.client,
    dashboard: dashboard.client,
    breaker,
    intakeBreaker,
    breakers,
    async close() {
      for (const one of breakers) one.close()
      await Promise.all([db.close(), dashboard.close()])
    },
  }
}

/** Opens the locks with their statistics, and the function that counts a write that its fencing token refused. */
async function openLeases(config: Config, redis: Redis, metrics: Metrics, log: Log) {
  const stats = createLockStats({ redis, prefix: config.redis_prefix })
  const events = lockEvents(metrics, log, stats, config.expected_hold_ms)
  return {
    ...(await openLocks({ config, redis, log, events })),
    stats,
    onStaleWrite() {
      metrics.fencing_rejections.inc()
      stats.onStaleWrite()
    },
  }
}

/** Opens what the queues need: inserts of rows, notices of their settlement, and hints to the workers. */
function openQueues(
  { database_url, redis_url, redis_prefix }: Config,
  { db, client, intakeBreaker: breaker }: Postgres,
  traces: Traces | undefined,
  log: Log,
) {
  const nudger = createNudger(redis_url, redis_prefix, log)
  const chargeQueue = createChargeQueue(redis_url, redis_prefix, log)
  const subscriber = openRedis(redis_url, log)
  const waiter = createSettlementWaiter(subscriber, redis_prefix, client, log)
  const gate = createNudgeGate({ subscriber, redis_prefix, nudge: nudger.nudge, log })
  const { nudge } = gate
  const options = { database_url, breaker, log, nudge }
  const purchases = new Intake<NewPurchase>('purchases', options)
  const bookings = new Intake<NewBooking>('bookings', options)

  function queueOf<Row extends QueuedRow, Input extends QueuedRowInput>(
    intake: Intake<Input>,
    { noun, asQueued, ...statements }: Pick<QueueParts<Row, Input>, 'noun' | 'asQueued'> & RowStatements<Row>,
  ) {
    return new RowQueue<Row, Input>({
      noun,
      asQueued,
      intake: traceEnqueue(intake, traces),
      reader: createRowReader(db, statements),
      waiter,
      commands: createCommandRows(db, noun, nudge),
    })
  }

  return {
    waiter,
    purchases: queueOf<PurchaseRow, NewPurchase>(purchases, PURCHASE_ROWS),
    bookings: queueOf<BookingRow, NewBooking>(bookings, BOOKING_ROWS),
    enqueueCharges: chargeQueue.enqueue,
    finishFlushes: () => Promise.all([purchases.close(), bookings.close()]),
    handOver: () => Promise.all([nudger.close(), chargeQueue.close()]),
    close() {
      gate.close()
      waiter.close()
    },
  }
}
