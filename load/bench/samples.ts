/** One run's result: what the table and the picture are made of. */
import type { Loaded } from './generator.ts'
import type { Count, SystemName } from './systems.ts'

export interface Measured extends Count {
  system: SystemName
  /** among which each purchase chose one at random */
  products: number
  round: number
  /** jobs at once of a peer's worker */
  concurrency: number
  /** accepted and not settled when counting ended */
  left: number
  loaded: Loaded
  /** from the first request to the last settlement */
  seconds: number
  per_second: number
}

export const TITLES: Record<SystemName, string> = {
  holdfast: 'Holdfast',
  bullmq: 'BullMQ, empty processor',
  tuned: 'the same, 16 jobs at once',
  redlock: 'BullMQ + redlock + select/update',
}
