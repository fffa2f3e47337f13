/** The result of one run, from which the table and the picture are made. */
import type { Loaded } from './generator.ts'
import type { Count, SystemName } from './systems.ts'

export interface Measured extends Count {
  system: SystemName
  /** number of products, of which each purchase chose one at random */
  products: number
  round: number
  /** concurrent jobs of a peer's worker */
  concurrency: number
  /** purchases accepted but not settled when counting ended */
  left: number
  loaded: Loaded
  /** seconds from the first request to the last settlement */
  seconds: number
  per_second: number
}

export const TITLES: Record<SystemName, string> = {
  holdfast: 'Holdfast',
  bullmq: 'BullMQ, empty processor',
  tuned: 'the same, 16 jobs at once',
  redlock: 'BullMQ + redlock + select/update',
}
