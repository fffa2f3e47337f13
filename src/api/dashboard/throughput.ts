/**
 * How fast the fleet settles, heard from the notices that it sends to whoever waits. Invariant: nothing is asked of
 * Postgres for it, and nothing is heard while nobody looks. A notice may be lost; this is a picture, not the ledger.
 */
import type { Waits } from '../queue/settlement-waiter.ts'

/** Waits kept of one sample: enough for its quantiles, also when far more was settled. */
const KEPT = 4_096

interface Taken {
  /** null while nothing is heard */
  per_second: number | null
  wait_p50_ms: number | null
  wait_p95_ms: number | null
}

export interface PaceMeter {
  start(): void
  stop(): void
  /** What was settled since the last call. */
  take(): Taken
}

/** When an id was made, in ms since 1970: a UUIDv7 begins with it. undefined for others. */
const madeAt = (id: string) => (id[14] === '7' ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : undefined)

export function createPace(waits: Pick<Waits, 'hear'>): PaceMeter {
  let unhear: (() => void) | undefined
  let since = performance.now()
  let settled = 0
  let waited: number[] = []

  function hear(ids: string[]): void {
    const now = Date.now()
    for (const id of ids) {
      // Ids are made where the request came in; what the workers tell themselves has other ones.
      const made = madeAt(id)
      if (made === undefined) continue
      // Every so-manieth has its place, whichever it takes: the first ones alone would be the fastest.
      const wait = Math.max(0, now - made)
      if (waited.length < KEPT) waited.push(wait)
      else waited[settled % KEPT] = wait
      settled += 1
    }
  }

  function forget(): void {
    since = performance.now()
    settled = 0
    waited = []
  }

  return {
    start() {
      forget()
      unhear ??= waits.hear(hear)
    },
    stop() {
      unhear?.()
      unhear = undefined
      forget()
    },
    take() {
      const seconds = (performance.now() - since) / 1000
      waited.sort((a, b) => a - b)
      const at = (share: number) => waited[Math.ceil(share * waited.length) - 1] ?? null
      const told = {
        // The first sample has no time behind it.
        per_second: unhear && seconds > 0.1 ? Math.round((settled / seconds) * 10) / 10 : null,
        wait_p50_ms: at(0.5),
        wait_p95_ms: at(0.95),
      }
      if (seconds > 0.1) forget()
      return told
    },
  }
}
