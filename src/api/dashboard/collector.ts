/**
 * Collects what the dashboard shows. Invariant: one collection a process, however many look, and none while nobody does;
 * a part that cannot be had is missing from the picture, and the others are not.
 */
import type { Redis } from 'ioredis'
import type { Breaker } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { breakerStates, readBreakers, readFleetStatus } from '../../shared/fleet-status.ts'
import type { Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import { withTimeout } from '../../shared/timeout.ts'
import type { Waits } from '../queue/settlement-waiter.ts'
import { presentLock } from '../routes/locks.ts'
import { readResources } from '../routes/resources.ts'
import { readLines, shown } from './queries.ts'
import type { Sample, Snapshot } from './snapshot-schema.ts'
import { createPace } from './throughput.ts'

/** Milliseconds between two collections; more when one takes more than a tenth of that, up to SLOWEST_MS. */
const EVERY_MS = 1_000
const SHARE = 10
const SLOWEST_MS = 5_000
/** Milliseconds that Postgres or Redis has for a part. */
const PART_MS = 1_500
/** Samples that a page gets when it comes: five minutes of them. */
const SAMPLES = 300
/** Resources with a line or a lease are shown, and for so long (ms) after it; at most so many. */
const [BUSY_MS, BUSY] = [60_000, 24]
const LOCKS = 40

export interface CollectorDeps {
  /** a connection of its own: nobody who buys waits for this */
  client: Client
  locks: Locks
  redis: Redis
  prefix: string
  waits: Pick<Waits, 'hear'>
  breakers: readonly Breaker[]
  lab: boolean
  log: Log
}

export interface Collector {
  /** The newest snapshot, collected now unless it is fresh. */
  snapshot(): Promise<Snapshot>
  /** Told of each snapshot as JSON, until the function it returns is called. */
  subscribe(listener: (json: string) => void): () => void
  /** What was measured while somebody looked, oldest first. */
  samples(): readonly Sample[]
  close(): void
}

export function createCollector(deps: CollectorDeps): Collector {
  const { client, locks, redis, prefix, waits, breakers, lab, log } = deps
  const pace = createPace(waits)
  const asked = new Set<string>()
  const busy = new Map<string, number>()
  const listeners = new Set<(json: string) => void>()
  const samples: Sample[] = []
  let newest: { snapshot: Snapshot; json: string; at_ms: number } | undefined
  let underWay: Promise<Snapshot> | undefined
  let ticking = false
  /** Redis answered last time: else no notice can come, and silence says nothing of the pace. */
  let audible = true
  let timer: NodeJS.Timeout | undefined

  /** What has not been answered is not asked again: behind a Postgres that hangs, questions would pile up. */
  async function part<T>(name: string, question: () => Promise<T>): Promise<T | null> {
    if (asked.has(name)) return null
    asked.add(name)
    const answer = question().finally(() => asked.delete(name))
    try {
      return await withTimeout(answer, PART_MS)
    } catch (error) {
      log.debug({ error, part: name }, 'the dashboard lacks a part')
      return null
    }
  }

  /** Rows do not come and go with every batch: what had a line or a lease stays for a while. */
  function keepBusy(refs: string[]): void {
    const now = performance.now()
    for (const ref of refs) {
      busy.delete(ref)
      busy.set(ref, now)
    }
    for (const [ref, at] of busy) if (now - at > BUSY_MS || busy.size > BUSY) busy.delete(ref)
  }

  async function collect(): Promise<Snapshot> {
    const [lines, states, watched, workers] = await Promise.all([
      part('lines', () => readLines(client)),
      part('locks', () => locks.list()),
      part('verdict', () => readFleetStatus(redis, prefix)),
      part('breakers', () => readBreakers(redis, prefix)),
    ])
    audible = watched !== null
    const sample = samples.at(-1)
    if (sample && !audible) sample.per_second = null
    keepBusy([...(lines?.shown ?? []), ...(states ?? [])].map((one) => one.resource))
    // Where Postgres did not answer just now, it is not waited for a second time.
    const resources = lines && (await part('resources', () => readResources(client, shown([...busy.keys()]))))
    const at = new Date().toISOString()
    return {
      at,
      lab,
      resources,
      lines: lines?.shown ?? null,
      more_lines: lines?.more ?? 0,
      locks: states?.slice(0, LOCKS).map(presentLock) ?? null,
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
      const told = pace.take()
      samples.push({ at: new Date().toISOString(), ...told, ...(!audible && { per_second: null }) })
      if (samples.length > SAMPLES) samples.shift()
      await collectOnce()
      for (const listener of listeners) if (newest) listener(newest.json)
    } catch (error) {
      log.warn({ error }, 'the dashboard could not be collected')
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

  function leave(): void {
    clearTimeout(timer)
    pace.stop()
  }

  const fresh = () => newest && performance.now() - newest.at_ms < EVERY_MS

  return {
    async snapshot() {
      return newest && fresh() ? newest.snapshot : await collectOnce()
    },
    subscribe(listener) {
      listeners.add(listener)
      if (listeners.size === 1) {
        pace.start()
        schedule(0)
      } else if (newest && fresh()) listener(newest.json)
      return () => {
        if (listeners.delete(listener) && listeners.size === 0) leave()
      }
    },
    samples: () => samples,
    close() {
      listeners.clear()
      leave()
    },
  }
}
