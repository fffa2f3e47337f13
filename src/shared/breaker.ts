/**
 * Circuit breakers (opossum) around what can be down. Invariant: what the breaker counts as a failure leaves it as
 * UnavailableError; a business answer (sold out, stale lease, bad data) passes unchanged and never opens it.
 */
import CircuitBreaker from 'opossum'
import type { Metrics } from './metrics.ts'

export class UnavailableError extends Error {
  readonly code = 'unavailable'
  readonly dependency: string
  /** false when the breaker was open, or its capacity used up: nothing was sent */
  readonly attempted: boolean
  constructor(dependency: string, cause: unknown) {
    super(`${dependency} is unavailable: ${cause instanceof Error ? cause.message : cause}`, { cause })
    this.dependency = dependency
    this.attempted = !['EOPENBREAKER', 'ESEMLOCKED'].includes((cause as { code?: string } | undefined)?.code ?? '')
  }
}

export interface BreakerOptions {
  /** what stands behind it, in metrics and in /readyz */
  name: string
  /** milliseconds after which a call is given up: its signal aborts, and it counts as failed */
  timeout_ms: number
  /** true for errors that are answers and not failures */
  isAnswer: (error: unknown) => boolean
  /** calls at once, beyond which one is refused and not sent (a bulkhead); default: no limit */
  capacity?: number
  metrics: Metrics
}

export type BreakerState = 'closed' | 'half_open' | 'open'
export interface Breaker {
  readonly name: string
  /**
   * Runs the body and rejects with UnavailableError when it fails, is late, or is not run at all. The body's signal aborts
   * when the call is given up: the body must stop there. What it yields all the same goes to `giveBack`, so that nothing
   * is kept that no caller knows of.
   */
  run<T>(body: (signal: AbortSignal) => Promise<T>, giveBack?: (late: T) => unknown): Promise<T>
  state(): BreakerState
  close(): void
}

/** Milliseconds an open breaker waits before it lets one call try again: half of what a caller is told to wait. */
const RESET_MS = 500

export function createBreaker({ name, timeout_ms, isAnswer, capacity, metrics }: BreakerOptions): Breaker {
  const breaker = new CircuitBreaker((body: () => Promise<unknown>) => body(), {
    name,
    timeout: timeout_ms,
    resetTimeout: RESET_MS,
    errorThresholdPercentage: 50,
    // Fewer calls than this in ten seconds say nothing about a share of failures.
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
  return {
    name,
    async run<T>(body: (signal: AbortSignal) => Promise<T>, giveBack?: (late: T) => unknown) {
      const controller = new AbortController()
      let work: Promise<T> | undefined
      try {
        return (await breaker.fire(() => {
          work = body(controller.signal)
          return work
        })) as T
      } catch (error) {
        const failure = isAnswer(error) ? error : new UnavailableError(name, error)
        controller.abort(failure)
        // opossum only stops waiting at its time limit: a result that comes later has no other owner.
        work?.then(giveBack, () => {})
        throw failure
      }
    },
    state,
    close: () => breaker.shutdown(),
  }
}
