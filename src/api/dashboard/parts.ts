/**
 * Reads the parts of a snapshot. Invariants: a part whose last query is still pending is not queried again, because queries would
 * pile up while a server hangs; a part takes at most a tenth of the time (1 / SHARE), however often it is asked for.
 */
import type { Log } from '../../shared/log.ts'
import { withTimeout } from '../../shared/timeout.ts'

/** Time limit for reading one part, in milliseconds: that of a check, so that a server that hangs delays no other part. */
const PART_MS = 1_000
/** A part that took n ms is read again after SHARE * n ms, but after SLOWEST_MS at most. */
const SHARE = 10
const SLOWEST_MS = 5_000

export interface Parts {
  /** Resolves with the part, with its last value if it was expensive, or with null if it could not be read. Never rejects. */
  read<T>(name: string, query: () => Promise<T>): Promise<T | null>
}

export function createParts(log: Log): Parts {
  const pending = new Set<string>()
  /** part → its last value, and until when (by performance.now()) that one is good enough */
  const last = new Map<string, { value: unknown; until_ms: number }>()
  return {
    async read<T>(name: string, query: () => Promise<T>): Promise<T | null> {
      const known = last.get(name)
      const began_ms = performance.now()
      if (known && began_ms < known.until_ms) return known.value as T
      if (pending.has(name)) return null
      pending.add(name)
      const result = query().finally(() => pending.delete(name))
      try {
        const value = await withTimeout(result, PART_MS)
        const took_ms = performance.now() - began_ms
        last.set(name, { value, until_ms: began_ms + Math.min(SHARE * took_ms, SLOWEST_MS) })
        return value
      } catch (error) {
        last.delete(name)
        log.debug({ error, part: name }, 'dashboard part could not be read')
        return null
      }
    },
  }
}
