/** The parts of `k6/execution` that the scripts use. */
import { type Iteration, running } from './iteration.ts'

function now(): Iteration {
  const iteration = running.getStore()
  if (!iteration) throw new Error('k6/execution describes an iteration, and none runs here')
  return iteration
}

export const scenario = {
  get name() {
    return now().scenario.name
  },
  get executor() {
    return now().scenario.executor
  },
  get iterationInTest() {
    return now().number
  },
}

export const vu = {
  get idInTest() {
    return now().vu
  },
  get iterationInScenario() {
    return now().of_vu
  },
}

export default { scenario, vu }
