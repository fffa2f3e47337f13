/** Measures purchases settled per second for growing numbers of workers, products, queued rows and settled rows. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../../src/shared/db/client.ts'
import type { Environment } from '../../lib/environment.ts'
import { median } from '../results.ts'
import { type Log, load, type Options, type Part, shop, throughput, whole } from './environment.ts'

const RATE = 'settled a second'

/**
 * Returns the medians over rounds. Each round measures every size once, so that a slow minute of the machine affects
 * all sizes.
 */
async function rounds(
  { runs, seconds }: Options,
  sizes: readonly number[],
  one: (size: number) => { name: string; workers: number; products: number },
  environment: Environment,
  log: Log,
): Promise<number[]> {
  const found = sizes.map(() => [] as number[])
  for (let round = 1; round <= runs; round++) {
    for (const [i, size] of sizes.entries()) {
      const { name, ...fleet } = one(size)
      const rate = await shop(environment, fleet, (holdfast) => throughput(holdfast, fleet.products, seconds))
      found[i]?.push(rate)
      log(`${name} ${whole(size)}, round ${round} of ${runs}: ${whole(rate)}/s`)
    }
  }
  return found.map((values) => median(values))
}

export const workers: Part = async (environment, options, log) => {
  const sizes = options.workers
  const values = await rounds(
    options,
    sizes,
    (size) => ({ name: 'workers', workers: size, products: 1 }),
    environment,
    log,
  )
  const [first = 1] = values
  return {
    title: 'One hot product, more and more workers',
    of: 'workers',
    unit: RATE,
    labels: sizes.map(String),
    lines: [{ name: RATE, values }],
    notes: [`With ${sizes.at(-1)} workers ${((values.at(-1) ?? 0) / first).toFixed(2)} times what ${sizes[0]} settle.`],
  }
}

export const products: Part = async (environment, options, log) => {
  const sizes = options.products
  const values = await rounds(
    options,
    sizes,
    (size) => ({ name: 'products', workers: 1, products: size }),
    environment,
    log,
  )
  return {
    title: 'One worker, more and more products',
    of: 'products',
    unit: RATE,
    labels: sizes.map(whole),
    lines: [{ name: RATE, values }],
    notes: ['Each purchase names one product at random.'],
  }
}

/** Measures the rate of each tenth of a long queue. */
export const line: Part = async (environment, { queued }, log) => {
  const seconds = await shop(environment, { workers: 0, products: 1 }, async ({ client, addWorker }) => {
    log(`${whole(queued)} rows are put in line`)
    await client`INSERT INTO purchases (id, queue, customer, items)
                 SELECT gen_random_uuid(), 'product:1', 'c' || n, '[{"resource": "product:1", "units": 1}]'
                 FROM generate_series(1, ${queued}) n`
    await client`ANALYZE purchases`
    await addWorker()
    const at: number[] = []
    for (let tenth = 0; tenth <= 10; tenth++) {
      // Start the clock at the first batch, not at the start of the worker.
      while ((await sold(client)) < Math.max(1, (queued * tenth) / 10)) await sleep(10)
      at.push(performance.now())
      log(`in line ${whole(queued * (1 - tenth / 10))}`)
    }
    return at.slice(1).map((end, n) => (end - (at[n] ?? end)) / 1_000)
  })
  const values = seconds.map((time) => queued / 10 / time)
  const [first = 1] = values
  return {
    title: `A line of ${whole(queued)} buyers, settled by one worker`,
    of: 'rows in line',
    unit: RATE,
    labels: values.map((_, n) => whole(queued * (1 - n / 10))),
    lines: [{ name: RATE, values }],
    notes: [
      `The last tenth at ${((values.at(-1) ?? 0) / first).toFixed(2)} times the speed of the first, all of it in ` +
        `${whole(seconds.reduce((sum, time) => sum + time, 0))} s.`,
    ],
  }
}

async function sold(client: Client): Promise<number> {
  const [row] = await client<{ n: number }[]>`
    SELECT (total - available)::int AS n FROM resources WHERE id = 'product:1'`
  return row?.n ?? 0
}

/** Settled rows that one statement inserts, for a thousand sold-out products. Chunks make progress visible. */
const CHUNK = 250_000
export const settled: Part = async (environment, { settled: sizes, seconds, runs }, log) => {
  const rates: number[] = []
  const waits: number[] = []
  await shop(environment, { workers: 1, products: 1_000 }, async (holdfast) => {
    const { client } = holdfast
    let there = 0
    for (const size of sizes) {
      for (; there < size; there += CHUNK) {
        await history(client, there, Math.min(CHUNK, size - there))
        log(`${whole(Math.min(there + CHUNK, size))} settled rows`)
      }
      await client`VACUUM ANALYZE purchases, ledger_entries`
      const found: number[] = []
      for (let run = 0; run < runs; run++) found.push(await throughput(holdfast, 1_000, seconds))
      const { p99_ms } = await load(holdfast, { products: 1_000, seconds, wait: true, rate: 500 })
      log(`${whole(size)} settled rows: ${whole(median(found))}/s, ${p99_ms} ms p99`)
      rates.push(median(found))
      waits.push(p99_ms)
    }
  })
  return {
    title: '1,000 products, more and more rows that are settled',
    of: 'settled rows',
    unit: RATE,
    labels: sizes.map(whole),
    lines: [{ name: RATE, values: rates }],
    notes: [`Prefer: wait at 500 purchases a second, p99: ${waits.map((ms) => `${ms} ms`).join(', ')}.`],
  }
}

/** Inserts settled rows without triggers, which would write once per row what real settlement writes once per batch. */
async function history(client: Client, after: number, rows: number): Promise<void> {
  await client.begin(async (tx) => {
    await tx`SET LOCAL session_replication_role = replica`
    await tx`
    WITH old AS (
      INSERT INTO purchases (id, seq, queue, customer, items, amount, currency, status, fencing_token, created_at, settled_at)
      SELECT gen_random_uuid(), nextval('queue_seq'), 'past:' || n % 1000, 'c' || n % 100000,
             json_build_array(json_build_object('resource', 'past:' || n % 1000, 'units', 1)), 100, 'USD', 'confirmed', 1,
             now() - interval '1 day', now() - interval '1 day'
      FROM generate_series(${after + 1}::int, ${after + rows}::int) n RETURNING id, queue
    ), counted AS (
      SELECT queue, count(*) AS n FROM old GROUP BY queue
    ), ledger AS (
      INSERT INTO ledger_entries (resource_id, purchase_id, delta, reason, fencing_token) SELECT queue, id, -1, 'sale', 1 FROM old
    ), made AS (
      INSERT INTO ledger_entries (resource_id, delta, reason) SELECT queue, n, 'restock' FROM counted
    )
    INSERT INTO resources (id, kind, name, total, available, price, fencing_token)
    SELECT queue, 'units', queue, n, 0, 100, 1 FROM counted
    ON CONFLICT (id) DO UPDATE SET total = resources.total + excluded.total`
  })
}
