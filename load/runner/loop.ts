/** Runs one scenario: starts due iterations on free virtual users. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Iteration } from './iteration.ts'
import type { Scenario } from './scenarios.ts'

/**
 * Bounds of the pause between two looks at the clock, in milliseconds. The pause is half the time between two
 * iterations.
 */
const SHORTEST_MS = 1
const LONGEST_MS = 50

interface LoopOptions {
  scenario: Scenario
  /** Runs one iteration. Resolves when it is over; never rejects. */
  iterate(iteration: Iteration): Promise<void>
  nextVu(): number
  dropped(count: number): void
}

export function createLoop({ scenario, iterate, nextVu, dropped }: LoopOptions) {
  const free = Array.from({ length: scenario.vus }, () => ({ id: nextVu(), iterations: 0 }))
  const active = new Set<Iteration>()
  const tags = { ...scenario.tags, scenario: scenario.name }
  let vus = scenario.vus
  let [started, lost, complete, interrupted, late_ms] = [0, 0, 0, 0, 0]
  let stopped = false
  let began: number | undefined
  let idle = () => {}

  const halt = new AbortController()
  /** Waits for `ms`, or until the run is stopped or the signal aborts. */
  const pause = (ms: number, until?: AbortSignal) =>
    sleep(ms, undefined, { signal: until ? AbortSignal.any([halt.signal, until]) : halt.signal }).catch(() => {})

  function start(): void {
    const vu = free.pop()
    if (!vu) {
      // As in k6: drop this iteration, and add a virtual user for the next one.
      lost++
      dropped(1)
      if (vus < scenario.max_vus) {
        vus++
        free.push({ id: nextVu(), iterations: 0 })
      }
      return
    }
    const iteration: Iteration = {
      scenario,
      vu: vu.id,
      number: started++,
      of_vu: vu.iterations++,
      tags,
      interrupted: false,
    }
    active.add(iteration)
    void iterate(iteration).then(() => {
      if (iteration.interrupted) return
      active.delete(iteration)
      complete++
      free.push(vu)
      if (active.size === 0) idle()
    })
  }

  async function go(): Promise<void> {
    await pause(scenario.start_s * 1_000)
    began = performance.now()
    let before_s = 0
    let tried = 0
    for (;;) {
      const at = (performance.now() - began) / 1_000
      const due = scenario.due(Math.min(at, scenario.duration_s))
      if (due > tried) late_ms = Math.max(late_ms, (at - before_s) * 1_000)
      for (; tried < due && !stopped; tried++) start()
      before_s = at
      if (stopped || at >= scenario.duration_s) break
      const rate = scenario.rate(at)
      await pause(Math.min(LONGEST_MS, Math.max(SHORTEST_MS, rate > 0 ? 500 / rate : LONGEST_MS)))
    }
    if (active.size > 0 && !stopped) {
      const over = new AbortController()
      idle = () => over.abort()
      await pause(scenario.graceful_s * 1_000, over.signal)
    }
    for (const iteration of active) {
      iteration.interrupted = true
      interrupted++
    }
    active.clear()
  }

  return {
    done: go(),
    stop() {
      stopped = true
      halt.abort()
    },
    active: () => active.size,
    vus: () => vus,
    complete: () => complete,
    interrupted: () => interrupted,
    dropped: () => lost,
    late_ms: () => late_ms,
    seconds: () => (began === undefined ? 0 : Math.min(scenario.duration_s, (performance.now() - began) / 1_000)),
  }
}
