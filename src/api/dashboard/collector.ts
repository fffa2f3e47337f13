/**
 * Collects the dashboard's snapshot. Invariants: a process runs one collection at a time for any number of subscribers, and
 * none without subscribers or requests; a part that cannot be read is null, and the other parts are still shown.
 */
import type { Redis } from 'ioredis'
import type { Breaker } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { breakerStates, readBreakers, readFleetStatus } from '../../shared/fleet-status.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { withTimeout } from '../../shared/timeout.ts'
import type { SettlementWaiter } from '../queue/settlement-waiter.ts'
import { lockToResponse } from '../routes/locks.ts'
import { readQueues, readResources } from './queries.ts'
import type { Sample, Snapshot } from './snapshot-schema.ts'
import { createThroughputMeter, type ThroughputMeter } from './throughput.ts'

/**
 * Milliseconds between the starts of two collections. If a collection takes longer than a tenth of this (1 / SHARE), the next
 * one starts after SHARE times its duration, but after SLOWEST_MS at most.
 */
const EVERY_MS = 1_000
const SHARE = 10
const SLOWEST_MS = 5_000
/** Time limit for reading one part of the snapshot, in milliseconds. */
const PART_MS = 1_500
/** Number of samples that a new subscriber gets: five minutes of them. */
const SAMPLES = 300
/** Milliseconds for which a resource is still shown after it last had a queue or a lease; most resources shown. */
const [BUSY_MS, BUSY] = [60_000, 24]
const LOCKS = 40

export interface CollectorOptions {
  /** a connection for the dashboard alone, so that no buyer waits for the dashboard's queries */
  client: Client
  locks: Locks
  redis: Redis
  prefix: string
  waiter: Pick<SettlementWaiter, 'subscribe'>
  breakers: readonly Breaker[]
  lab: boolean
  log: Log
}

export class Collector {
  readonly #options: CollectorOptions
  readonly #throughput: ThroughputMeter
  readonly #listeners = new Set<(json: string) => void>()
  readonly #samples: Sample[] = []
  /** parts whose last query is still pending */
  readonly #pending = new Set<string>()
  /** resource → when it had a queue or a lease, oldest first */
  readonly #busy = new Map<string, number>()
  #newest: { snapshot: Snapshot; json: string; at_ms: number } | undefined
  #underWay: Promise<Snapshot> | undefined
  #ticking = false
  /** true if Redis answered last time. Otherwise no notice can arrive, and zero notices do not mean zero throughput. */
  #noticesArrive = true
  #timer: NodeJS.Timeout | undefined

  constructor(options: CollectorOptions) {
    this.#options = options
    this.#throughput = createThroughputMeter(options.waiter)
  }

  /** Returns the newest snapshot; collects a new one unless the last one is recent. */
  async snapshot(): Promise<Snapshot> {
    return this.#recent()?.snapshot ?? (await this.#collectOnce())
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
      const sample = this.#throughput.sample()
      this.#samples.push({ at: new Date().toISOString(), ...sample, ...(!this.#noticesArrive && { per_second: null }) })
      if (this.#samples.length > SAMPLES) this.#samples.shift()
      await this.#collectOnce()
      for (const listener of this.#listeners) if (this.#newest) listener(this.#newest.json)
    } catch (error) {
      this.#options.log.warn({ error }, 'dashboard snapshot could not be collected')
    } finally {
      this.#ticking = false
      const took_ms = performance.now() - began
      if (this.#listeners.size > 0) {
        this.#schedule(Math.min(Math.max(EVERY_MS, took_ms * SHARE), SLOWEST_MS) - took_ms)
      }
    }
  }

  #collectOnce(): Promise<Snapshot> {
    this.#underWay ??= this.#collect()
      .then((snapshot) => {
        this.#newest = { snapshot, json: JSON.stringify(snapshot), at_ms: performance.now() }
        return snapshot
      })
      .finally(() => {
        this.#underWay = undefined
      })
    return this.#underWay
  }

  async #collect(): Promise<Snapshot> {
    const { client, locks, redis, prefix, breakers, lab } = this.#options
    const [queues, states, watched, workers] = await Promise.all([
      this.#part('lines', () => readQueues(client)),
      this.#part('locks', () => locks.list()),
      this.#part('verdict', () => readFleetStatus(redis, prefix)),
      this.#part('breakers', () => readBreakers(redis, prefix)),
    ])
    this.#noticesArrive = watched !== null
    const sample = this.#samples.at(-1)
    if (sample && !this.#noticesArrive) sample.per_second = null
    this.#rememberBusy([...(queues?.shown ?? []), ...(states ?? [])].map((one) => one.resource))
    // If Postgres has just failed to answer, do not wait for it a second time.
    const resources = queues && (await this.#part('resources', () => readResources(client, [...this.#busy.keys()])))
    const at = new Date().toISOString()
    return {
      at,
      lab,
      resources,
      lines: queues?.shown ?? null,
      more_lines: queues?.more ?? 0,
      locks: states?.slice(0, LOCKS).map(lockToResponse) ?? null,
      more_locks: Math.max(0, (states?.length ?? 0) - LOCKS),
      pace: (this.#listeners.size > 0 && sample) || { at, per_second: null, wait_p50_ms: null, wait_p95_ms: null },
      breakers: [{ process: 'api', breakers: breakerStates(breakers) }, ...(workers ?? [])],
      verdict: watched?.verdict ?? null,
    }
  }

  /**
   * Reads one part; null if that fails. It does not query a part whose last query is still pending: if Postgres hangs, queries
   * would accumulate.
   */
  async #part<T>(name: string, query: () => Promise<T>): Promise<T | null> {
    if (this.#pending.has(name)) return null
    this.#pending.add(name)
    const result = query().finally(() => this.#pending.delete(name))
    try {
      return await withTimeout(result, PART_MS)
    } catch (error) {
      this.#options.log.debug({ error, part: name }, 'dashboard part could not be read')
      return null
    }
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
