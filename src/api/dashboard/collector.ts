/**
 * Collects the dashboard's snapshot. Invariant: one collection per process for any number of subscribers, and none without
 * subscribers or requests; a part that cannot be read is null, and the others are still shown.
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
import { readResources } from '../routes/resources.ts'
import { readQueues, resourcesToShow } from './queries.ts'
import type { Sample, Snapshot } from './snapshot-schema.ts'
import { createThroughputMeter } from './throughput.ts'

/** Milliseconds between two collections; longer when a collection takes more than a tenth of it, up to SLOWEST_MS. */
const EVERY_MS = 1_000
const SHARE = 10
const SLOWEST_MS = 5_000
/** Timeout of a part, in milliseconds. */
const PART_MS = 1_500
/** Samples that a new subscriber gets: five minutes of them. */
const SAMPLES = 300
/** Resources with a queue or a lease are shown for so long (ms) after it; at most so many. */
const [BUSY_MS, BUSY] = [60_000, 24]
const LOCKS = 40

export interface CollectorDeps {
  /** a connection of its own, so that no buyer waits for the dashboard's queries */
  client: Client
  locks: Locks
  redis: Redis
  prefix: string
  waiter: Pick<SettlementWaiter, 'subscribe'>
  breakers: readonly Breaker[]
  lab: boolean
  log: Log
}

export interface Collector {
  /** The newest snapshot, collected now unless it is recent. */
  snapshot(): Promise<Snapshot>
  /** Calls the listener with each snapshot as JSON; the returned function unsubscribes. */
  subscribe(listener: (json: string) => void): () => void
  /** Throughput samples taken while there were subscribers, oldest first. */
  samples(): readonly Sample[]
  close(): void
}

export function createCollector(deps: CollectorDeps): Collector {
  const { client, locks, redis, prefix, waiter, breakers, lab, log } = deps
  const throughput = createThroughputMeter(waiter)
  const pending = new Set<string>()
  const busy = new Map<string, number>()
  const listeners = new Set<(json: string) => void>()
  const samples: Sample[] = []
  let newest: { snapshot: Snapshot; json: string; at_ms: number } | undefined
  let underWay: Promise<Snapshot> | undefined
  let ticking = false
  /** Redis answered last time: otherwise no notice can arrive, and zero notices do not mean zero throughput. */
  let noticesArrive = true
  let timer: NodeJS.Timeout | undefined

  /** A part whose last query is still pending is not queried again: behind a hanging Postgres, queries would pile up. */
  async function collectPart<T>(name: string, query: () => Promise<T>): Promise<T | null> {
    if (pending.has(name)) return null
    pending.add(name)
    const result = query().finally(() => pending.delete(name))
    try {
      return await withTimeout(result, PART_MS)
    } catch (error) {
      log.debug({ error, part: name }, 'dashboard part could not be read')
      return null
    }
  }

  /** Keeps resources that had a queue or a lease for BUSY_MS, so that table rows do not flicker with every batch. */
  function rememberBusy(refs: string[]): void {
    const now = performance.now()
    for (const ref of refs) {
      busy.delete(ref)
      busy.set(ref, now)
    }
    for (const [ref, at] of busy) if (now - at > BUSY_MS || busy.size > BUSY) busy.delete(ref)
  }

  async function collect(): Promise<Snapshot> {
    const [queues, states, watched, workers] = await Promise.all([
      collectPart('lines', () => readQueues(client)),
      collectPart('locks', () => locks.list()),
      collectPart('verdict', () => readFleetStatus(redis, prefix)),
      collectPart('breakers', () => readBreakers(redis, prefix)),
    ])
    noticesArrive = watched !== null
    const sample = samples.at(-1)
    if (sample && !noticesArrive) sample.per_second = null
    rememberBusy([...(queues?.shown ?? []), ...(states ?? [])].map((one) => one.resource))
    // If Postgres has just failed to answer, do not wait for it a second time.
    const resources =
      queues && (await collectPart('resources', () => readResources(client, resourcesToShow([...busy.keys()]))))
    const at = new Date().toISOString()
    return {
      at,
      lab,
      resources,
      lines: queues?.shown ?? null,
      more_lines: queues?.more ?? 0,
      locks: states?.slice(0, LOCKS).map(lockToResponse) ?? null,
      more_locks: Math.max(0, (states?.length ?? 0) - LOCKS),
      pace: (listeners.size > 0 && sample) || { at, per_second: null, wait_p50_ms: null, wait_p95_ms: null },
      breakers: [{ process: 'api', breakers: breakerStates(breakers) }, ...(workers ?? [])],
      verdict: watched?.verdict ?? null,
    }
  }

  function collectOnce(): Promise<Snapshot> {
    underWay ??= collect()
      .then((snapshot) => {
        newest = { snapshot, json: JSON.stringify(snapshot), at_ms: performance.now() }
        return snapshot
      })
      .finally(() => {
        underWay = undefined
      })
    return underWay
  }

  async function tick(): Promise<void> {
    if (ticking) return
    ticking = true
    const began = performance.now()
    try {
      const sample = throughput.sample()
      samples.push({ at: new Date().toISOString(), ...sample, ...(!noticesArrive && { per_second: null }) })
      if (samples.length > SAMPLES) samples.shift()
      await collectOnce()
      for (const listener of listeners) if (newest) listener(newest.json)
    } catch (error) {
      log.warn({ error }, 'dashboard snapshot could not be collected')
    } finally {
      ticking = false
      const took_ms = performance.now() - began
      if (listeners.size > 0) schedule(Math.min(Math.max(EVERY_MS, took_ms * SHARE), SLOWEST_MS) - took_ms)
    }
  }

  function schedule(ms: number): void {
    clearTimeout(timer)
    timer = setTimeout(() => void tick(), Math.max(0, ms)).unref()
  }

  function stopCollecting(): void {
    clearTimeout(timer)
    throughput.stop()
  }

  const fresh = () => newest && performance.now() - newest.at_ms < EVERY_MS

  return {
    async snapshot() {
      return newest && fresh() ? newest.snapshot : await collectOnce()
    },
    subscribe(listener) {
      listeners.add(listener)
      if (listeners.size === 1) {
        throughput.start()
        schedule(0)
      } else if (newest && fresh()) listener(newest.json)
      return () => {
        if (listeners.delete(listener) && listeners.size === 0) stopCollecting()
      }
    },
    samples: () => samples,
    close() {
      listeners.clear()
      stopCollecting()
    },
  }
}
