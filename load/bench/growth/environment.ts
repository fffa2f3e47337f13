/** Functions that the parts of the growth benchmark share: stock, load, and the count of settled purchases. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../../src/shared/db/client.ts'
import { verify } from '../../../src/shared/invariants.ts'
import { startNode } from '../../lib/child-process.ts'
import type { Environment } from '../../lib/environment.ts'
import { type Holdfast, stock, withHoldfast } from '../../lib/fleet.ts'
import type { Load, Loaded } from '../generator.ts'

export type Log = (line: string) => void

/** The result of one part: a quantity that grows, and what is measured for each of its values. */
export interface Figure {
  title: string
  /** heading of the table's first column: the quantity that grows */
  of: string
  /** unit of the lines */
  unit: string
  labels: string[]
  lines: { name: string; values: number[] }[]
  /** conclusions from the figures, one sentence each */
  notes: string[]
}

export interface Options {
  seconds: number
  runs: number
  workers: number[]
  products: number[]
  queued: number
  settled: number[]
  minutes: number
}

export type Part = (environment: Environment, options: Options, log: Log) => Promise<Figure>

const CONNECTIONS = 128
const WARM_UP_S = 2

/**
 * Starts an API and `workers` workers with this number of products, and runs the body. Throws if an invariant is
 * violated afterwards.
 */
export async function shop<T>(
  environment: Environment,
  { workers, products }: { workers: number; products: number },
  body: (holdfast: Holdfast) => Promise<T>,
): Promise<T> {
  return await environment.withStore((store) =>
    withHoldfast(store, workers, async (holdfast) => {
      await stock(holdfast.client, products)
      const result = await body(holdfast)
      const broken = (await verify(holdfast.client)).filter(({ offenders }) => offenders.length > 0)
      if (broken.length > 0) throw new Error(`broken: ${broken.map(({ invariant }) => invariant).join(', ')}`)
      return result
    }),
  )
}

/** Runs one load in a separate process. */
export async function load(
  { url }: Holdfast,
  wanted: Partial<Load> & Pick<Load, 'products' | 'seconds'>,
): Promise<Loaded> {
  const generator = startNode({ name: 'generator', entry: 'load/bench/generator.ts' })
  try {
    await generator.next('up')
    const body = { url: `${url}/api/purchases`, connections: CONNECTIONS, wait: false, ...wanted }
    const loaded = await generator.ask<Loaded>('load', body)
    if (loaded.refused > 0) throw new Error(`${loaded.refused} requests were not answered 2xx`)
    return loaded
  } finally {
    await generator.stop()
  }
}

export async function drained(client: Client): Promise<void> {
  const left = async () => {
    const [row] = await client<{ n: number }[]>`SELECT count(*)::int AS n FROM purchases WHERE status = 'queued'`
    return row?.n ?? 0
  }
  while ((await left()) > 0) await sleep(50)
}

/**
 * Returns the purchases settled per second, from the first request to the last settlement, with one buyer per
 * connection.
 */
export async function throughput(holdfast: Holdfast, products: number, seconds: number): Promise<number> {
  await load(holdfast, { products, seconds: WARM_UP_S })
  await drained(holdfast.client)
  const { from_ms } = await load(holdfast, { products, seconds })
  await drained(holdfast.client)
  const [row] = await holdfast.client<{ n: number; last_ms: number }[]>`
    SELECT count(*)::int AS n, max(extract(epoch FROM settled_at) * 1000)::float8 AS last_ms
    FROM purchases WHERE created_at >= to_timestamp(${from_ms / 1000}::float8) AND status = 'confirmed'`
  return row ? (row.n * 1_000) / (row.last_ms - from_ms) : 0
}

/**
 * Returns half of the rate at which buyers that wait for the outcome are answered: a rate that the system can keep up
 * for ever.
 */
export async function halfRate(holdfast: Holdfast, products: number, seconds: number): Promise<number> {
  await load(holdfast, { products, seconds: WARM_UP_S, wait: true })
  const { accepted, from_ms, until_ms } = await load(holdfast, { products, seconds, wait: true })
  await drained(holdfast.client)
  return Math.round((accepted * 1_000) / (until_ms - from_ms) / 2)
}

export const whole = (value: number) => Math.round(value).toLocaleString('en')
