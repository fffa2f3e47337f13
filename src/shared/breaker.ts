/**
 * Circuit breakers (opossum) around dependencies. Invariant: an error that the breaker counts as a failure is rethrown as
 * UnavailableError; a business answer (sold out, stale lease, bad data) passes unchanged and never opens the breaker.
 */
import CircuitBreaker from 'opossum'
import type { Metrics } from './metrics.ts'

export class UnavailableError extends Error {
  readonly code = 'unavailable'
  readonly dependency: string
  /** false if the breaker did not make the call, because it was open or its capacity was used up */
  readonly attempted: boolean
  constructor(dependency: string, cause: unknown) {
    super(`${dependency} is unavailable: ${cause instanceof Error ? cause.message : cause}`, { cause })
    this.dependency = dependency
    this.attempted = !['EOPENBREAKER', 'ESEMLOCKED'].includes((cause as { code?: string } | undefined)?.code ?? '')
  }
}

export interface BreakerOptions {
  /** name of the dependency in metrics and in /readyz */
  name: string
  /** milliseconds after which a call times out: its signal aborts, and the call counts as failed */
  timeout_ms: number
  /** returns true for errors that are answers of the dependency, not failures */
  isAnswer: (error: unknown) => boolean
  /** maximum number of concurrent calls; the breaker refuses further calls without making them (a bulkhead); default: no limit */
  capacity?: number
  metrics: Metrics
}

export type BreakerState = 'closed' | 'half_open' | 'open'
/** Calls that failed in a row, up to the newest call. Durations, because the clocks of processes differ. */
export interface Failing {
  /** milliseconds since the first of them */
  for_ms: number
  /** milliseconds since the last of them */
  ago_ms: number
}
export interface Breaker {
  readonly name: string
  /**
   * Runs the body and rejects with UnavailableError when the body fails, times out, or is not run at all. The body's signal
   * aborts at the timeout, and the body must stop then. If the body still resolves after the timeout, run() has already
   * rejected: it calls `releaseLate` with the late result, for example to release a lease that was granted too late.
   */
  run<T>(body: (signal: AbortSignal) => Promise<T>, releaseLate?: (late: T) => unknown): Promise<T>
  state(): BreakerState
  /** undefined if the newest call that was made has succeeded */
  failing(): Failing | undefined
  close(): void
}

/** Milliseconds before an open breaker lets one call through: half of the Retry-After that callers get. */
const RESET_MS = 500

export function createBreaker({ name, timeout_ms, isAnswer, capacity, metrics }: BreakerOptions): Breaker {
  const breaker = new CircuitBreaker((body: () => Promise<unknown>) => body(), {
    name,
    timeout: timeout_ms,
    resetTimeout: RESET_MS,
    errorThresholdPercentage: 50,
    // With fewer calls than this in ten seconds, the share of failures says nothing, so the breaker does not open.
    volumeThreshold: 5,
    errorFilter: isAnswer,
    ...(capacity === undefined ? {} : { capacity }),
  })
  const state = (): BreakerState => (breaker.halfOpen ? 'half_open' : breaker.opened ? 'open' : 'closed')
  const gauge = () => {
    for (const one of ['closed', 'half_open', 'open'] as const)
      metrics.circuit_breaker_state.set({ breaker: name, state: one }, one === state() ? 1 : 0)
  }
  for (const event of ['open', 'close'] as const) {
    metrics.circuit_breaker_transitions.inc({ breaker: name, event }, 0)
    breaker.on(event as 'open', () => metrics.circuit_breaker_transitions.inc({ breaker: name, event }))
  }
  breaker.on('open', gauge).on('close', gauge).on('halfOpen', gauge)
  gauge()
  /** times of the first and the last of the calls that failed in a row, by performance.now() */
  let failed: { first_ms: number; last_ms: number } | undefined
  return {
    name,
    async run<T>(body: (signal: AbortSignal) => Promise<T>, releaseLate?: (late: T) => unknown) {
      const controller = new AbortController()
      let work: Promise<T> | undefined
      try {
        const result = (await breaker.fire(() => {
          work = body(controller.signal)
          return work
        })) as T
        failed = undefined
        return result
      } catch (error) {
        const failure = isAnswer(error) ? error : new UnavailableError(name, error)
        const now_ms = performance.now()
        if (!(failure instanceof UnavailableError)) failed = undefined
        else if (failure.attempted) failed = { first_ms: failed?.first_ms ?? now_ms, last_ms: now_ms }
        controller.abort(failure)
        // At the timeout opossum only stops waiting for the body. If the body resolves later, no caller gets its result.
        work?.then(releaseLate, () => {})
        throw failure
      }
    },
    state,
    failing() {
      const now_ms = performance.now()
      return failed && { for_ms: Math.round(now_ms - failed.first_ms), ago_ms: Math.round(now_ms - failed.last_ms) }
    },
    close: () => breaker.shutdown(),
  }
}
