/**
 * The scenarios in which lock libraries are measured. Each runs in a separate process and checks itself: two holders at
 * once make it void.
 */
import type { Acquirer } from './libraries.ts'

const HOLD_MS = 2

export interface Pairs {
  per_second: number
  p50_ms: number
  p99_ms: number
  /** CPU time of the whole process */
  cpu_us_per_pair: number
}

export interface Line {
  per_second: number
  /** holds per second without any lock, one after the other, in the same process */
  ideal_per_second: number
  p50_wait_ms: number
  p99_wait_ms: number
  /** grants to a caller while an earlier one was still waiting */
  inversions: number
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

/** Measures acquire and release without contention: `loops` concurrent loops, each on a separate key. */
export async function pairs(locks: Acquirer, loops: number, seconds: number): Promise<Pairs> {
  const took: number[] = []
  const loop = async (key: string, until: number, count: boolean) => {
    while (performance.now() < until) {
      const began = performance.now()
      const release = await locks.acquire(key)
      await release()
      if (count) took.push(performance.now() - began)
    }
  }
  const all = (until: number, count: boolean) =>
    Promise.all(Array.from({ length: loops }, (_, n) => loop(`pair:${n}`, until, count)))
  await all(performance.now() + 1000, false)
  const began = performance.now()
  const cpu = process.cpuUsage()
  await all(began + seconds * 1000, true)
  const passed_ms = performance.now() - began
  const { user, system } = process.cpuUsage(cpu)
  took.sort((a, b) => a - b)
  return {
    per_second: (took.length * 1000) / passed_ms,
    p50_ms: quantile(took, 0.5),
    p99_ms: quantile(took, 0.99),
    cpu_us_per_pair: (user + system) / took.length,
  }
}

/**
 * Measures one hot key: `count` callers arrive at once, and each holds the lock for HOLD_MS and releases it. The next
 * callers arrive after all were served. (If callers came back at once, a library that polls would look too good: the
 * caller that releases would acquire the lock again while the others sleep.)
 */
export async function line(locks: Acquirer, count: number, seconds: number): Promise<Line> {
  const ideal_per_second = await ideal(Math.min(seconds, 2))
  const waits: number[] = []
  let holders = 0
  let inversions = 0
  const round = () => {
    const waiting = new Set<number>()
    const one = async (n: number) => {
      const began = performance.now()
      waiting.add(n)
      const release = await locks.acquire('hot:1')
      waiting.delete(n)
      if (++holders > 1) throw new Error('two hold the lock at once')
      waits.push(performance.now() - began)
      for (const other of waiting) {
        if (other >= n) continue
        inversions += 1
        break
      }
      await sleep(HOLD_MS)
      holders -= 1
      await release()
    }
    return Promise.all(Array.from({ length: count }, (_, n) => one(n)))
  }
  await round()
  waits.length = 0
  inversions = 0
  const began = performance.now()
  while (performance.now() < began + seconds * 1000) await round()
  const per_second = (waits.length * 1000) / (performance.now() - began)
  waits.sort((a, b) => a - b)
  const result = { p50_wait_ms: quantile(waits, 0.5), p99_wait_ms: quantile(waits, 0.99), inversions }
  return { per_second, ideal_per_second, ...result }
}

async function ideal(seconds: number): Promise<number> {
  const began = performance.now()
  let held = 0
  while (performance.now() < began + seconds * 1000) {
    await sleep(HOLD_MS)
    held += 1
  }
  return (held * 1000) / (performance.now() - began)
}
