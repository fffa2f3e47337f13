/**
 * The iteration to which the running code belongs, also after an await. Many iterations run concurrently in one
 * process, while k6 has a runtime for each virtual user.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Tags } from './metrics.ts'
import type { Scenario } from './scenarios.ts'

export interface Iteration {
  readonly scenario: Scenario
  /** number of the virtual user, from 1, unique in the run */
  readonly vu: number
  /** number of the iteration, from 0: in this scenario, and of this virtual user in the scenario */
  readonly number: number
  readonly of_vu: number
  readonly tags: Tags
  /** true once its time is over; from then on nothing of it counts */
  interrupted: boolean
}

export const running = new AsyncLocalStorage<Iteration>()

export const tagsNow = (): Tags => running.getStore()?.tags ?? {}
