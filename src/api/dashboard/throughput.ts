/**
 * Throughput of the fleet, measured from the settlement notices of the workers. Invariant: the measurement costs no query, and
 * without subscribers it counts nothing. Notices may be lost, so the result is an estimate, not the ledger.
 */
import type { SettlementWaiter } from '../queue/settlement-waiter.ts'

/** Number of waits kept per sample: enough for its quantiles, even when far more rows were settled. */
const KEPT = 4_096

interface ThroughputSample {
  /** null while not subscribed */
  per_second: number | null
  wait_p50_ms: number | null
  wait_p95_ms: number | null
}

export interface ThroughputMeter {
  start(): void
  stop(): void
  /** Returns the throughput since the last call. */
  sample(): ThroughputSample
}

/** Returns the creation time of a UUIDv7, in ms since 1970; undefined for other ids. */
const createdAt = (id: string) => (id[14] === '7' ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : undefined)

export function createThroughputMeter(waiter: Pick<SettlementWaiter, 'subscribe'>): ThroughputMeter {
  let unsubscribe: (() => void) | undefined
  let since = performance.now()
  let settled = 0
  let waited: number[] = []

  function onSettled(ids: string[]): void {
    const now = Date.now()
    for (const id of ids) {
      // The API creates UUIDv7 ids; rows that workers create have other ids and no wait.
      const created = createdAt(id)
      if (created === undefined) continue
      // Ring buffer: once full, overwrite the oldest slot. Keeping only the first samples would bias quantiles low.
      const wait = Math.max(0, now - created)
      if (waited.length < KEPT) waited.push(wait)
      else waited[settled % KEPT] = wait
      settled += 1
    }
  }

  function reset(): void {
    since = performance.now()
    settled = 0
    waited = []
  }

  return {
    start() {
      reset()
      unsubscribe ??= waiter.subscribe(onSettled)
    },
    stop() {
      unsubscribe?.()
      unsubscribe = undefined
      reset()
    },
    sample() {
      const seconds = (performance.now() - since) / 1000
      waited.sort((a, b) => a - b)
      const at = (share: number) => waited[Math.ceil(share * waited.length) - 1] ?? null
      const sample = {
        // The first sample covers no time.
        per_second: unsubscribe && seconds > 0.1 ? Math.round((settled / seconds) * 10) / 10 : null,
        wait_p50_ms: at(0.5),
        wait_p95_ms: at(0.95),
      }
      if (seconds > 0.1) reset()
      return sample
    },
  }
}
