/** Measures how soon the fleet settles again as many rows per second as before the faults. */
export interface Recovery {
  /** rows settled per second before the first fault */
  before: number
  /**
   * seconds from the end of the last fault until the fleet settled SHARE of that rate again; undefined if it did not
   * while it was observed
   */
  after_s: number | undefined
  /** rows settled per second in the last seconds of the load */
  last: number
}

const SHARE = 0.9
/** Seconds over which a rate is averaged: clients arrive at random, so single seconds differ. */
const SPAN_S = 3
/** Seconds at the start that do not count, because processes open connections and plan statements. */
const WARM_S = 2

const mean = (list: readonly number[]) =>
  list.length === 0 ? 0 : list.reduce((sum, one) => sum + one, 0) / list.length

/** Computes the recovery. `settled`: rows settled in each second. Times are in milliseconds since the load began. */
export function recoveryOf(
  settled: readonly number[],
  faults: { first_ms: number; last_ms: number },
  end_ms: number,
): Recovery {
  const before = mean(settled.slice(WARM_S, Math.floor(faults.first_ms / 1000)))
  const from = Math.ceil(faults.last_ms / 1000)
  const end = Math.floor(end_ms / 1000)
  let after_s: number | undefined
  for (let second = from; second + SPAN_S <= end && after_s === undefined; second++) {
    // Rows that were queued during the fault count too. They may hide a slow second behind a fast one, which does no
    // harm.
    if (mean(settled.slice(second, second + SPAN_S)) >= SHARE * before) after_s = second - faults.last_ms / 1000
  }
  return { before, after_s, last: mean(settled.slice(Math.max(from, end - SPAN_S), end)) }
}
