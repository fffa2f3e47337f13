/**
 * Collects the dashboard's snapshot. Invariants: a process runs one collection at a time for any number of subscribers, and
 * none without subscribers or requests; a part that cannot be read is null, and the other parts are still shown.
 */
import type { Redis } from 'ioredis'
import type { Client } from '../../shared/db/client.ts'
import type { Dependencies } from '../../shared/dependencies.ts'
import { readReports, removeReports } from '../../shared/fleet-reports.ts'
import { readFleetStatus } from '../../shared/fleet-status.ts'
import { readFailedJobs } from '../../shared/jobs/failed-jobs.ts'
import type { LockState, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { shareRunning } from '../../shared/timeout.ts'
import type { SettlementWaiter } from '../queue/settlement-waiter.ts'
import { lockToResponse } from '../routes/locks.ts'
import { areReportsTrusted, type Facts, type FleetProcess, type Reports, splitReports } from './facts.ts'
import { createParts, type Parts } from './parts.ts'
import { readCharges, readEndpoints, readQueues, readResources } from './queries.ts'
import { assess } from './rules.ts'
import type { Sample, Snapshot } from './snapshot-schema.ts'
import { createThroughputMeter, type ThroughputMeter } from './throughput.ts'

/** Milliseconds between the starts of two collections, and at least between the end of one and the start of the next. */
const EVERY_MS = 1_000
const PAUSE_MS = 50
/** Number of samples that a new subscriber gets: five minutes of them. */
const SAMPLES = 300
/** Milliseconds for which a resource is still shown after it last had a queue or a lease; most resources shown. */
const [BUSY_MS, BUSY] = [60_000, 24]
const LOCKS = 40

export interface CollectorOptions {
  /** a connection for the dashboard alone, so that no buyer waits for the dashboard's queries */
  client: Client
  locks: Pick<Locks, 'list'>
  redis: Redis
  prefix: string
  waiter: Pick<SettlementWaiter, 'subscribe'>
  dependencies: Dependencies
  lab: boolean
  log: Log
}

/** A snapshot with the facts that it was made from. */
export interface Collected {
  facts: Facts
  snapshot: Snapshot
}

export class Collector {
  readonly #options: CollectorOptions
  readonly #throughput: ThroughputMeter
  readonly #parts: Parts
  readonly #listeners = new Set<(json: string) => void>()
  readonly #samples: Sample[] = []
  /** resource → when it had a queue or a lease, oldest first */
  readonly #busy = new Map<string, number>()
  #newest: (Collected & { json: string; at_ms: number }) | undefined
  #ticking = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: CollectorOptions) {
    this.#options = options
    this.#throughput = createThroughputMeter(options.waiter)
    this.#parts = createParts(options.log)
  }

  /** Returns the newest snapshot; collects a new one unless the last one is recent. */
  async collect(): Promise<Collected> {
    return this.#recent() ?? (await this.#collectOnce())
  }

  /** Calls the listener with each snapshot as JSON; the returned function unsubscribes. */
  subscribe(listener: (json: string) => void): () => void {
    this.#listeners.add(listener)
    const recent = this.#recent()
    if (this.#listeners.size === 1) {
      this.#throughput.start()
      this.#schedule(0)
    } else if (recent) listener(recent.json)
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#stopCollecting()
    }
  }

  /** Returns the throughput samples that were taken while there were subscribers, oldest first. */
  samples(): readonly Sample[] {
    return this.#samples
  }

  close(): void {
    this.#listeners.clear()
    this.#stopCollecting()
  }

  #recent() {
    return this.#newest && performance.now() - this.#newest.at_ms < EVERY_MS ? this.#newest : undefined
  }

  #stopCollecting(): void {
    clearTimeout(this.#timer)
    this.#throughput.stop()
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#tick(), Math.max(0, ms)).unref()
  }

  async #tick(): Promise<void> {
    if (this.#ticking) return
    this.#ticking = true
    const began = performance.now()
    try {
      const { snapshot } = await this.#collectOnce()
      this.#samples.push(snapshot.throughput)
      if (this.#samples.length > SAMPLES) this.#samples.shift()
      for (const listener of this.#listeners) if (this.#newest) listener(this.#newest.json)
    } catch (error) {
      this.#options.log.warn({ error }, 'dashboard snapshot could not be collected')
    } finally {
      this.#ticking = false
      if (this.#listeners.size > 0) this.#schedule(Math.max(PAUSE_MS, EVERY_MS - (performance.now() - began)))
    }
  }

  readonly #collectOnce = shareRunning(async () => {
    const collected = await this.#collect()
    this.#newest = { ...collected, json: JSON.stringify(collected.snapshot), at_ms: performance.now() }
    return collected
  })

  async #collect(): Promise<Collected> {
    const { client, locks, lab } = this.#options
    const measured = this.#listeners.size > 0 ? this.#throughput.sample() : undefined
    const states = this.#parts.read('locks', () => locks.list())
    const { facts, status, queues } = await this.#gather(states)
    const held = await states
    this.#rememberBusy([...(queues?.shown ?? []), ...(held ?? [])].map((one) => one.resource))
    // If Postgres has just failed to answer, do not wait for it a second time.
    const resources =
      queues && (await this.#parts.read('resources', () => readResources(client, [...this.#busy.keys()])))
    const at = new Date(facts.now_ms).toISOString()
    const errors = facts.processes?.map((one) => one.errors_per_minute)
    const snapshot: Snapshot = {
      at,
      lab,
      condition: assess(facts),
      processes: facts.processes?.map(toProcess) ?? null,
      resources,
      queues: facts.queues,
      more_queues: queues?.more ?? 0,
      locks: held?.slice(0, LOCKS).map(lockToResponse) ?? null,
      more_locks: Math.max(0, (held?.length ?? 0) - LOCKS),
      throughput: {
        at,
        // Without Redis no notice arrives, and no notice does not mean no throughput.
        per_second: (status && measured?.per_second) ?? null,
        wait_p50_ms: measured?.wait_p50_ms ?? null,
        wait_p95_ms: measured?.wait_p95_ms ?? null,
        errors_per_minute: errors?.reduce((sum, n) => sum + n, 0) ?? null,
      },
      failed_jobs: facts.failed_jobs?.map(({ queue, count }) => ({ queue, count })) ?? null,
      verification: status?.verification ?? null,
    }
    return { facts, snapshot }
  }

  /** Reads what the rules look at. `states`: the locks, which the snapshot shows, too. */
  async #gather(states: Promise<LockState[] | null>) {
    const { client, redis, prefix, dependencies } = this.#options
    const [queues, charges, endpoints, status, reports, failed_jobs, held] = await Promise.all([
      this.#parts.read('queues', () => readQueues(client)),
      this.#parts.read('charges', () => readCharges(client)),
      this.#parts.read('endpoints', () => readEndpoints(client)),
      this.#parts.read('status', () => readFleetStatus(redis, prefix)),
      this.#parts.read('reports', () => readReports(redis, prefix)),
      this.#parts.read('failed jobs', () => readFailedJobs(redis, prefix)),
      states,
      dependencies.check(),
    ])
    const now_ms = Date.now()
    const facts: Facts = {
      now_ms,
      dependencies: dependencies.states(),
      processes: this.#toProcesses(reports, now_ms),
      queues: queues?.shown.map((queue) => ({ ...queue, holder: holderOf(held, queue.resource) })) ?? null,
      figures: status?.queues,
      verification: status?.verification ?? null,
      charges,
      endpoints,
      failed_jobs,
    }
    return { facts, status, queues }
  }

  #toProcesses(reports: Reports | null, now_ms: number): FleetProcess[] | null {
    const { redis, prefix, dependencies } = this.#options
    const state = dependencies.states().find(({ name }) => name === 'redis')
    if (!reports || !areReportsTrusted(reports, state, now_ms)) return null
    const { present, gone } = splitReports(reports)
    // If this fails, the next collection finds them again.
    removeReports(redis, prefix, gone).catch(() => {})
    return present
  }

  /**
   * Remembers each resource for BUSY_MS after it last had a queue or a lease. Otherwise its row of the table would appear and
   * disappear with every batch.
   */
  #rememberBusy(refs: string[]): void {
    const now = performance.now()
    for (const ref of refs) {
      this.#busy.delete(ref)
      this.#busy.set(ref, now)
    }
    for (const [ref, at] of this.#busy) {
      if (now - at > BUSY_MS || this.#busy.size > BUSY) this.#busy.delete(ref)
    }
  }
}

function holderOf(states: LockState[] | null, resource: string) {
  const holder = states?.find((one) => one.resource === resource)?.holders[0]
  return holder ? { owner: holder.owner, fencing_token: holder.token } : null
}

function toProcess(one: FleetProcess): NonNullable<Snapshot['processes']>[number] {
  const { id, role, host, version, started_at, seen_ms, event_loop_p99_ms, queues, breakers } = one
  const seen_at = new Date(seen_ms).toISOString()
  return { id, role, host, version, started_at, seen_at, event_loop_p99_ms, queues, breakers }
}
