/** Records the run second by second, for the report. */
import { createHistogram } from 'node:perf_hooks'

export interface Second {
  /** end of the interval, in seconds since the first iteration; and its length */
  at: number
  length: number
  /** answers by status; 0: no answer */
  statuses: Readonly<Record<string, number>>
  failed: number
  p50_ms: number
  p95_ms: number
  p99_ms: number
  vus: number
  /** iterations dropped in the interval */
  dropped: number
}

/** A last interval shorter than this many seconds is left out, because its rates would be unreliable. */
const SHORT_S = 0.2

export function createTimeline() {
  const latencies = createHistogram({ lowest: 1, highest: 1e10, figures: 3 })
  const seconds: Second[] = []
  let statuses: Record<string, number> = {}
  let failed = 0
  let before = { at: 0, dropped: 0 }
  const ms = (p: number) => (latencies.count === 0 ? 0 : latencies.percentile(p) / 1_000)
  return {
    answered(status: number, duration_ms: number, was_failed: boolean) {
      statuses[status] = (statuses[status] ?? 0) + 1
      if (was_failed) failed++
      latencies.record(Math.max(1, Math.round(duration_ms * 1_000)))
    },
    close(now: { seconds: number; vus: number; dropped: number }) {
      const length = now.seconds - before.at
      if (length < SHORT_S) return
      const tails = { p50_ms: ms(50), p95_ms: ms(95), p99_ms: ms(99) }
      const dropped = now.dropped - before.dropped
      seconds.push({ at: now.seconds, length, statuses, failed, ...tails, vus: now.vus, dropped })
      before = { at: now.seconds, dropped: now.dropped }
      statuses = {}
      failed = 0
      latencies.reset()
    },
    seconds: () => seconds,
  }
}
