/** What the parts of the growth benchmark share: stock, load, and what was settled of it. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../../src/shared/db/client.ts'
import { verify } from '../../../src/shared/invariants.ts'
import { startNode } from '../../lib/child-process.ts'
import type { Environment } from '../../lib/environment.ts'
import { type Holdfast, stock, withHoldfast } from '../../lib/fleet.ts'
import type { Load, Loaded } from '../generator.ts'

export type Log = (line: string) => void

/** One thing that there is more and more of, and what it does. */
export interface Figure {
  title: string
  /** what the table's first column is */
  of: string
  /** of the lines */
  unit: string
  labels: string[]
  lines: { name: string; values: number[] }[]
  /** what the figures say, in a sentence each */
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

/** Runs body beside an API and `workers`, with so many products for sale; the invariants hold afterwards. */
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

/** One load from a process of its own. */
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

/** Settled a second by as many buyers as there are connections, from the first request to the last settlement. */
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

/** Half of what it answers when every buyer waits for the outcome: a rate that can be kept for ever. */
export async function halfRate(holdfast: Holdfast, products: number, seconds: number): Promise<number> {
  await load(holdfast, { products, seconds: WARM_UP_S, wait: true })
  const { accepted, from_ms, until_ms } = await load(holdfast, { products, seconds, wait: true })
  await drained(holdfast.client)
  return Math.round((accepted * 1_000) / (until_ms - from_ms) / 2)
}

export const whole = (value: number) => Math.round(value).toLocaleString('en')
