/** Measures how long buyers wait for the outcome, how a flash sale affects other products, and memory over minutes. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { median } from '../results.ts'
import { drained, halfRate, load, type Part, shop, whole } from './environment.ts'

const MS = 'ms'

export const wait: Part = async (environment, { seconds, runs }, log) => {
  const sizes = [1, 1_000]
  const found = sizes.map(() => ({ rates: [] as number[], p50: [] as number[], p99: [] as number[] }))
  for (let round = 1; round <= runs; round++) {
    for (const [i, products] of sizes.entries()) {
      await shop(environment, { workers: 1, products }, async (holdfast) => {
        const rate = await halfRate(holdfast, products, seconds)
        const { p50_ms, p99_ms, max_ms } = await load(holdfast, { products, seconds, wait: true, rate })
        log(`${whole(products)} products at ${whole(rate)}/s: p50 ${p50_ms} ms, p99 ${p99_ms} ms, max ${max_ms} ms`)
        found[i]?.rates.push(rate)
        found[i]?.p50.push(p50_ms)
        found[i]?.p99.push(p99_ms)
      })
    }
  }
  return {
    title: 'Prefer: wait, at half the rate at which all buyers wait',
    of: 'products',
    unit: MS,
    labels: sizes.map(whole),
    lines: [
      { name: 'p50', values: found.map(({ p50 }) => median(p50)) },
      { name: 'p99', values: found.map(({ p99 }) => median(p99)) },
    ],
    notes: [`Rates: ${found.map(({ rates }, i) => `${whole(median(rates))}/s on ${sizes[i]}`).join(', ')}.`],
  }
}

/** Other products, which sell slowly all the time, during a sale of one product at half of the possible rate. */
const NEIGHBOURS = 100
const NEIGHBOURS_RATE = 200
export const neighbours: Part = async (environment, { seconds, runs }, log) => {
  const alone: number[] = []
  const beside: number[] = []
  for (let round = 1; round <= runs; round++) {
    await shop(environment, { workers: 2, products: NEIGHBOURS + 1 }, async (holdfast) => {
      const rate = await halfRate(holdfast, 1, seconds)
      const others = { products: NEIGHBOURS, first: 2, seconds, wait: true, rate: NEIGHBOURS_RATE, connections: 32 }
      await load(holdfast, { ...others, seconds: 2 })
      const before = await load(holdfast, others)
      const [during] = await Promise.all([load(holdfast, others), load(holdfast, { products: 1, seconds, rate })])
      await drained(holdfast.client)
      log(
        `alone p50 ${before.p50_ms}, p99 ${before.p99_ms} ms; beside a sale of ${whole(rate)}/s ${during.p50_ms}, ${during.p99_ms} ms`,
      )
      alone.push(before.p99_ms)
      beside.push(during.p99_ms)
    })
  }
  const ratio = median(beside.map((value, i) => value / (alone[i] ?? value)))
  return {
    title: `${NEIGHBOURS} products that sell ${NEIGHBOURS_RATE} a second, and a flash sale of another`,
    of: '',
    unit: MS,
    labels: ['alone', 'beside the sale'],
    lines: [{ name: 'p99', values: [median(alone), median(beside)] }],
    notes: [`${ratio.toFixed(2)} times as long beside the sale (median of the rounds).`],
  }
}

/** Returns the resident memory of a process in megabytes. */
const resident = (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) / 1_024

export const soak: Part = async (environment, { minutes }, log) => {
  const SAMPLES = 20
  return await shop(environment, { workers: 1, products: 100 }, async (holdfast) => {
    const rate = await halfRate(holdfast, 100, 5)
    const [api, worker] = holdfast.processes
    if (!api || !worker) throw new Error('no processes')
    const loading = load(holdfast, { products: 100, seconds: minutes * 60, wait: true, rate })
    const lines = [api, worker].map(({ name }) => ({ name, values: [] as number[] }))
    for (let n = 0; n < SAMPLES; n++) {
      await Promise.race([loading, sleep((minutes * 60_000) / SAMPLES)])
      for (const [i, { pid }] of [api, worker].entries()) lines[i]?.values.push(resident(pid))
      log(
        `${(((n + 1) * minutes) / SAMPLES).toFixed(1)} min: ${lines.map((one) => `${one.name} ${whole(one.values.at(-1) ?? 0)} MB`).join(', ')}`,
      )
    }
    const { accepted, p99_ms } = await loading
    await drained(holdfast.client)
    const half = ({ values }: { values: number[] }, from: number) => median(values.slice(from, from + SAMPLES / 2))
    return {
      title: `Memory over ${minutes} minutes at ${whole(rate)} purchases a second`,
      of: 'minutes',
      unit: 'MB',
      labels: lines[0]?.values.map((_, n) => (((n + 1) * minutes) / SAMPLES).toFixed(1)) ?? [],
      lines,
      notes: [
        `${whole(accepted)} purchases, p99 ${p99_ms} ms. Median of the second half against the first: ` +
          `${lines.map((one) => `${one.name} ${(half(one, SAMPLES / 2) / half(one, 0)).toFixed(2)}`).join(', ')}.`,
      ],
    }
  })
}
