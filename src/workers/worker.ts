/**
 * Assembles a worker from its dependencies. main.ts runs the worker as a process; tests run it inside their own
 * process.
 */
import type { Job } from 'bullmq'
import { type Breaker, createBreaker } from '../shared/breaker.ts'
import type { Config } from '../shared/config.ts'
import { CONNECTIONS, openDb } from '../shared/db/client.ts'
import { createDependencies, type Dependencies, watchDependencies } from '../shared/dependencies.ts'
import { startReporting } from '../shared/fleet-reports.ts'
import { openWorker, QUEUES } from '../shared/jobs/bullmq.ts'
import { createChargeQueue } from '../shared/jobs/charge-queue.ts'
import { createNudger, type NudgeJob } from '../shared/jobs/nudges.ts'
import { createLockStats } from '../shared/lock-stats.ts'
import { LeaseLostError, LockBusyError, type Locks } from '../shared/locks/api.ts'
import type { Log } from '../shared/log.ts'
import { lockEvents, type Metrics } from '../shared/metrics.ts'
import { openLocks } from '../shared/open-locks.ts'
import { formatHotQueue, hotQueueChannel, openRedis, pingRedis, settledChannel } from '../shared/redis.ts'
import { runSteps, type Step } from '../shared/shutdown.ts'
import { every, withTimeout } from '../shared/timeout.ts'
import { openTraces } from '../shared/tracing.ts'
import { FLEET_POLL_MS, FLEET_STATEMENT_MS, pollFleetOnce } from './maintenance/fleet-monitor.ts'
import { SWEEP_MS, sweepOnce } from './maintenance/sweeper.ts'
import { startPaymentJobs } from './payments/charge-worker.ts'
import { Batcher, isDatabaseAnswer } from './queue/batcher.ts'
import { QueueRunner } from './queue/queue-runner.ts'
import { traceSettled } from './queue/tracing.ts'
import { startWebhookJobs } from './webhooks/scheduler.ts'

/**
 * Time limit for removing the deduplication id of a job, in milliseconds. If an id stays, the sweeper adds the jobs
 * that it suppresses.
 */
const DEDUP_MS = 2_000
/** Milliseconds between two checks of the progress of the running queues. */
const PROGRESS_CHECK_MS = 1_000
/**
 * Time limit of one batch, including its wait for row locks, and of one statement, in milliseconds. The statement limit
 * is lower, so that Postgres ends the statement before the batch is given up.
 */
const BATCH_MS = 10_000
const STATEMENT_MS = 8_000

export interface RunningWorker {
  breakers: readonly Breaker[]
  dependencies: Dependencies
  stuckReason(): string | undefined
  /** steps that stop the worker, in order: accept no more jobs, finish the current batches, release the leases */
  closing: readonly Step[]
  close(): Promise<void>
}

export interface WorkerDeps {
  config: Pick<
    Config,
    | 'database_url'
    | 'redis_url'
    | 'redis_prefix'
    | 'lock'
    | 'lease_ttl_ms'
    | 'expected_hold_ms'
    | 'worker_concurrency'
    | 'booking_accept_s'
    | 'payments'
    | 'webhooks'
    | 'tracing'
    | 'shutdown_ms'
  >
  metrics: Metrics
  log: Log
  /** default: locks on the configured lock server */
  locks?: Locks
}

const isLeaseAnswer = (error: unknown) => error instanceof LockBusyError || error instanceof LeaseLostError

/** Opens the connection pool for batches, sweeps and charges. */
const openBatchDb = (config: WorkerDeps['config']) =>
  openDb(config.database_url, {
    max: CONNECTIONS.worker.batches,
    name: 'holdfast-worker',
    idle_in_transaction_ms: config.lease_ttl_ms,
    statement_ms: STATEMENT_MS,
    // A worker repeats statements that select by key. Plan each once, and never as a scan: at planning time the tables
    // may be small or not analyzed. jit off: older versions of Postgres would compile such plans because of their
    // estimated cost.
    settings: {
      plan_cache_mode: 'force_generic_plan',
      enable_seqscan: 'off',
      enable_hashjoin: 'off',
      enable_mergejoin: 'off',
      jit: 'off',
    },
  })

/** Opens the connections and breakers that the parts of a worker share. */
async function openConnections({ config, metrics, log, locks: given }: WorkerDeps) {
  const { redis_url, redis_prefix } = config
  const db = openBatchDb(config)
  const redis = openRedis(redis_url, log)
  const stats = createLockStats({ redis, prefix: redis_prefix })
  const events = lockEvents(metrics, log, stats, config.expected_hold_ms)
  const own = given && { locks: given, checks: {}, close: async () => {} }
  const { locks, ...opened } = own ?? (await openLocks({ config, redis, log, events }))
  const leases_ms = 3 * config.lease_ttl_ms
  return {
    config,
    metrics,
    log,
    db,
    redis,
    stats,
    locks,
    opened,
    database: createBreaker({ name: 'database', timeout_ms: BATCH_MS, isAnswer: isDatabaseAnswer, metrics }),
    leases: createBreaker({ name: 'leases', timeout_ms: leases_ms, isAnswer: isLeaseAnswer, metrics }),
    // A queue reports progress after each batch and after each lease that it has waited for. This limit allows one of
    // each.
    progress_ms: BATCH_MS + leases_ms,
    nudger: createNudger(redis_url, redis_prefix, log),
    chargeQueue: createChargeQueue(redis_url, redis_prefix, log),
    traces: config.tracing ? await openTraces({ service: 'holdfast-worker', redis, prefix: redis_prefix }) : undefined,
  }
}
type Connections = Awaited<ReturnType<typeof openConnections>>

/** Creates the runner of this worker's queues and the batcher that it uses. */
function createRunner(shared: Connections): QueueRunner {
  const { config, redis, metrics, stats, traces, progress_ms, nudger } = shared
  const channel = settledChannel(config.redis_prefix)
  const hotChannel = hotQueueChannel(config.redis_prefix)
  const batcher = new Batcher({
    ...shared,
    client: shared.db.client,
    accept_ms: config.booking_accept_s * 1000,
    // If a notice is lost, the waiting request reads the database once more.
    notify: (ids) => void redis.publish(channel, JSON.stringify(ids)).catch(() => {}),
    enqueueCharges: shared.chargeQueue.enqueue,
    onStaleWrite() {
      metrics.fencing_rejections.inc()
      stats.onStaleWrite()
    },
    ...(traces && { trace: (rows, decided_ms) => void traceSettled(traces, rows, decided_ms) }),
  })
  return new QueueRunner({
    locks: shared.locks,
    leases: shared.leases,
    batcher,
    nudge: nudger.nudge,
    // If the message is lost, APIs nudge the queue like any other.
    publishHot: (resource, hot) => void redis.publish(hotChannel, formatHotQueue(resource, hot)).catch(() => {}),
    ttl_ms: config.lease_ttl_ms,
    progress_ms,
  })
}

async function processJob(runner: QueueRunner, job: Job<NudgeJob>): Promise<void> {
  // A job for one queue keeps the queue's name as its deduplication id until it holds the lease and is about to fetch
  // rows. BullMQ drops nudges until then, which is safe because this job will fetch their rows, and the fleet has only
  // one such job per queue. If removing the id fails, BullMQ removes it with the job, and the sweeper adds jobs for the
  // nudges that were dropped meanwhile.
  const releaseDedupId =
    job.deduplicationId === undefined
      ? undefined
      : () => withTimeout(job.removeDeduplicationKey(), DEDUP_MS).catch(() => {})
  try {
    await runner.process(job.data.resources, `job ${job.id}`, releaseDedupId)
  } catch (error) {
    // Let nudges add other jobs: one of them may succeed while this job waits for its next attempt.
    await releaseDedupId?.()
    throw error
  }
}

/** Opens the BullMQ worker that processes nudges. */
function openNudgeJobs({ config, log }: Connections, runner: QueueRunner) {
  return openWorker<NudgeJob>(QUEUES.nudges, (job) => processJob(runner, job), {
    redis_url: config.redis_url,
    redis_prefix: config.redis_prefix,
    log,
    concurrency: config.worker_concurrency,
    ttl_ms: config.lease_ttl_ms,
    onFailed(job, error) {
      const last = (job?.attemptsMade ?? 0) >= (job?.opts.attempts ?? 1)
      log[last ? 'error' : 'warn']({ job: job?.id, resources: job?.data.resources, error }, 'job failed')
    },
  })
}

function checkProgress({ metrics, log, progress_ms }: Connections, runner: QueueRunner): void {
  const queues = runner.state()
  metrics.queues_under_way.set(queues.length)
  metrics.queue_idle_seconds.set(Math.max(0, ...queues.map(({ idle_ms }) => idle_ms)) / 1000)
  for (const resource of runner.stopStuck()) {
    metrics.queues_left_stuck.inc()
    log.error(
      { resource, progress_ms },
      'a queue has made no progress within its time limit: the worker releases its lease',
    )
  }
}

function stuckReason({ progress_ms }: Connections, runner: QueueRunner): string | undefined {
  const late = runner.state().filter(({ idle_ms }) => idle_ms > 2 * progress_ms)
  if (late.length === 0) return undefined
  const named = late.slice(0, 5).map(({ queue, idle_ms }) => `${queue} for ${Math.round(idle_ms / 1000)} s`)
  return `${late.length} queues make no progress: ${named.join(', ')}`
}

/**
 * Starts the maintenance loops: sweeps, the check of progress, the fleet monitor. Each `stop…` member of the result
 * stops one loop.
 */
function startMaintenance(shared: Connections, runner: QueueRunner) {
  const { config, metrics, log, db, redis, locks, nudger, chargeQueue } = shared
  const watched = openDb(config.database_url, {
    max: CONNECTIONS.worker.watch,
    name: 'holdfast-watch',
    idle_in_transaction_ms: config.lease_ttl_ms,
    statement_ms: FLEET_STATEMENT_MS,
  })
  const sweep = { client: db.client, locks, nudge: nudger.nudge, enqueueCharges: chargeQueue.enqueue }
  const poll = { client: watched.client, locks, redis, prefix: config.redis_prefix, metrics, log }
  return {
    watched,
    stopSweeping: every(
      SWEEP_MS,
      () => sweepOnce(sweep),
      (error) => log.debug({ error }, 'sweep failed; will retry'),
    ),
    stopCheckingProgress: every(
      PROGRESS_CHECK_MS,
      () => checkProgress(shared, runner),
      (error) => log.error({ error }, 'the progress of the queues could not be checked'),
    ),
    stopMonitoring: every(
      FLEET_POLL_MS,
      () => pollFleetOnce(poll),
      (error) => log.debug({ error }, 'fleet status poll failed; will retry'),
    ),
  }
}

export async function startWorker(deps: WorkerDeps): Promise<RunningWorker> {
  const { config, metrics, log } = deps
  const shared = await openConnections(deps)
  const { db, redis, locks, opened, stats, traces, nudger, chargeQueue, database, leases } = shared
  const charges = startPaymentJobs({ config, client: db.client, redis, metrics, log, nudge: nudger.nudge })
  const runner = createRunner(shared)
  const jobs = openNudgeJobs(shared, runner)
  const webhooks = startWebhookJobs({ config, locks, metrics, log })
  const breakers = [database, leases, charges.breaker]
  const maintenance = startMaintenance(shared, runner)
  const reporter = startReporting({
    role: 'worker',
    redis,
    prefix: config.redis_prefix,
    metrics,
    breakers,
    drained: () => runner.state().map(({ queue }) => queue),
  })
  const dependencies = createDependencies({
    postgres: () => db.client`SELECT 1`,
    redis: () => pingRedis(redis),
    ...opened.checks,
  })
  const watch = watchDependencies({ dependencies, log })
  const closing: Step[] = [
    [
      'finish batches',
      () => {
        runner.stop()
        void maintenance.stopCheckingProgress()
        // Do not wait for the monitor: it changes nothing that a batch or a sweep needs, and closing its connections
        // ends it.
        void maintenance.stopMonitoring()
        return Promise.all([jobs.close(), charges.close(), webhooks.close(), maintenance.stopSweeping()])
      },
    ],
    ['hand jobs over', () => Promise.all([nudger.close(), chargeQueue.close()])],
    ['release leases', () => opened.close()],
    ['send statistics', () => Promise.all([reporter.close(), stats.close(), traces?.close()])],
    [
      'close connections',
      () => {
        watch.close()
        redis.disconnect()
        database.close()
        leases.close()
        return Promise.all([db.close(), maintenance.watched.close()])
      },
    ],
  ]
  return {
    breakers,
    dependencies,
    stuckReason: () => stuckReason(shared, runner),
    closing,
    close: () => runSteps(log, closing, config.shutdown_ms),
  }
}
