/** Whose iteration runs now, across awaits: many run at once in one process, where k6 has a runtime for each. */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Tags } from './metrics.ts'
import type { Scenario } from './scenarios.ts'

export interface Iteration {
  readonly scenario: Scenario
  /** from 1, unique in the run */
  readonly vu: number
  /** from 0, in this scenario; and of this virtual user in it */
  readonly number: number
  readonly of_vu: number
  readonly tags: Tags
  /** its time is over: nothing that it does counts any more */
  interrupted: boolean
}

export const running = new AsyncLocalStorage<Iteration>()

export const tagsNow = (): Tags => running.getStore()?.tags ?? {}
