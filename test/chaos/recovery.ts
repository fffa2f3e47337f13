/** How soon the fleet does again what it did before it was hurt. */
export interface Recovery {
  /** rows settled per second before the first fault */
  before: number
  /** seconds from the end of the last fault until it settled SHARE of that again; undefined: not while it was watched */
  after_s: number | undefined
  /** rows settled per second in the last seconds of the load */
  last: number
}

const SHARE = 0.9
/** Seconds over which a rate is taken: who comes is drawn, so that single seconds differ. */
const SPAN_S = 3
/** Seconds at the beginning that do not count: connections are made, statements planned. */
const WARM_S = 2

const mean = (list: readonly number[]) =>
  list.length === 0 ? 0 : list.reduce((sum, one) => sum + one, 0) / list.length

/** `settled`: rows by the second; times in milliseconds since the load began. */
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
    // What stood in line meanwhile is settled too: that would hide a slow second behind a fast one, and does no harm.
    if (mean(settled.slice(second, second + SPAN_S)) >= SHARE * before) after_s = second - faults.last_ms / 1000
  }
  return { before, after_s, last: mean(settled.slice(Math.max(from, end - SPAN_S), end)) }
}
