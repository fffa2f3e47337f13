/**
 * The measured systems behind one interface: Holdfast's real processes and the peers. Invariant: a run is void unless
 * the database afterwards proves the number that was counted as settled.
 */

import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { processSpec } from '../../ops/dev/environment.mjs'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { openDb } from '../../src/shared/db/client.ts'
import { migrateDb } from '../../src/shared/db/migrate.ts'
import { verify } from '../../src/shared/invariants.ts'
import { type NodeProcess, startNode } from '../lib/child-process.ts'
import type { Store } from '../lib/environment.ts'
import { STOCK, stock } from '../lib/fleet.ts'
import { PEER_QUEUE, type Settled, STEP_MS } from './peers/settled-counter.ts'
import { profileFlags } from './profile.ts'

export const SYSTEMS = ['holdfast', 'bullmq', 'tuned', 'redlock'] as const
export type SystemName = (typeof SYSTEMS)[number]
export const PEERS = ['bullmq', 'tuned', 'redlock'] as const

/** Counts since the load began. */
export interface Count extends Settled {
  /** reasons why the run is void; empty if it is valid */
  faults: string[]
}

export interface Running {
  /** address for POST of purchases */
  url: string
  /** the processes of the system, for profiles */
  processes: readonly NodeProcess[]
  /** returns the number settled since the start or the last reset; cheap enough to be called during a measurement */
  settled(): Promise<number>
  /** returns the number of purchases accepted but not settled */
  left(): Promise<number>
  /** Resets the counts. Pending purchases are settled first or discarded. */
  reset(): Promise<void>
  /** Counts the purchases settled since `from_ms`, and checks the count against the database. */
  count(from_ms: number, accepted: number): Promise<Count>
  stop(): Promise<void>
}

export interface SystemOptions {
  products: number
  /** concurrent jobs of a peer's worker */
  concurrency: number
  /** folder for V8 profiles of Holdfast's processes */
  profile: string | undefined
}

export function startSystem(name: SystemName, store: Store, options: SystemOptions): Promise<Running> {
  return name === 'holdfast' ? startHoldfast(store, options) : startPeer(name, store, options)
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

async function stopAll(processes: readonly NodeProcess[]): Promise<void> {
  // Stop the API first, so that no purchase comes in while the worker finishes its batch.
  for (const one of processes) await one.stop()
}

async function startHoldfast(
  { database_url, redis_prefix, environment }: Store,
  options: SystemOptions,
): Promise<Running> {
  await migrateDb(database_url)
  const db = openDb(database_url, { max: 1, name: 'holdfast-bench', idle_in_transaction_ms: 60_000 })
  const sql = db.client
  const processes: NodeProcess[] = []
  const stop = async () => {
    await stopAll(processes)
    await db.close()
  }
  try {
    await stock(sql, options.products)
    const [api_spec, worker_spec] = [await processSpec('api'), await processSpec('worker')]
    const env = {
      DATABASE_URL: database_url,
      REDIS_URL: environment.redis_url,
      REDIS_PREFIX: redis_prefix,
      HOST: '127.0.0.1',
      LOG_LEVEL: 'warn',
      ...api_spec.env,
      ...worker_spec.env,
    }
    const profiled = (who: string) => (options.profile ? profileFlags(options.profile, who) : [])
    const api = startNode({ name: 'api', entry: api_spec.entry, env, flags: profiled('api') })
    const worker = startNode({ name: 'worker', entry: worker_spec.entry, env, flags: profiled('worker') })
    processes.push(api, worker)
    await api.ready(`${api_spec.url}/readyz`)
    await worker.ready(`${worker_spec.url}/readyz`)
    const total = async () => {
      const [row] = await sql<{ sold: number }[]>`SELECT sum(total - available)::bigint AS sold FROM resources`
      return row?.sold ?? 0
    }
    const left = async () => {
      const [row] = await sql<{ n: number }[]>`SELECT count(*)::bigint AS n FROM purchases WHERE status = 'queued'`
      return row?.n ?? 0
    }
    let base = 0
    return {
      url: `${api_spec.url}/api/purchases`,
      processes,
      settled: async () => (await total()) - base,
      left,
      async reset() {
        while ((await left()) > 0) await sleep(50)
        base = await total()
      },
      async count(from_ms, accepted) {
        const ahead_ms = await clockAhead(sql)
        const from_s = (from_ms + ahead_ms) / 1000
        const rows = await sql<{ step: number; n: number; last_ms: number }[]>`
          SELECT floor((extract(epoch FROM settled_at) * 1000 - ${ahead_ms}::float8) / ${STEP_MS})::bigint AS step,
                 count(*)::bigint AS n, max(extract(epoch FROM settled_at) * 1000 - ${ahead_ms}::float8)::float8 AS last_ms
          FROM purchases WHERE created_at >= to_timestamp(${from_s}::float8) AND status = 'confirmed' GROUP BY 1 ORDER BY 1`
        const others = await sql<{ status: string; n: number }[]>`
          SELECT status, count(*)::bigint AS n FROM purchases
          WHERE created_at >= to_timestamp(${from_s}::float8) AND status <> 'confirmed' GROUP BY status`
        const settled = rows.reduce((sum, { n }) => sum + n, 0)
        const faults: string[] = []
        for (const { status, n } of others) faults.push(`${n} purchases are ${status}, not confirmed`)
        if (settled < accepted) faults.push(`${accepted - settled} purchases that were answered 202 are lost`)
        for (const { invariant, offenders } of await verify(sql)) {
          if (offenders.length > 0) faults.push(`${invariant}: broken by ${offenders.join(', ')}`)
        }
        const last_ms = rows.at(-1)?.last_ms ?? 0
        return { settled, failed: 0, last_ms, timeline: rows.map(({ step, n }) => [step, n]), faults }
      },
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/**
 * Returns the milliseconds by which Postgres' clock is ahead of ours, to half a round trip. It differs from 0 only if
 * Postgres is on another machine.
 */
async function clockAhead(sql: ReturnType<typeof openDb>['client']): Promise<number> {
  const before = Date.now()
  const [row] = await sql<{ now: number }[]>`SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now`
  const after = Date.now()
  const ahead = (row?.now ?? after) - (before + after) / 2
  return Math.abs(ahead) <= after - before + 1 ? 0 : Math.round(ahead)
}

const ENTRIES = {
  bullmq: 'load/bench/peers/bullmq-empty.ts',
  tuned: 'load/bench/peers/bullmq-empty.ts',
  redlock: 'load/bench/peers/redlock.ts',
}

async function startPeer(
  name: (typeof PEERS)[number],
  { database_url, redis_prefix, environment }: Store,
  options: SystemOptions,
): Promise<Running> {
  const db = openDb(database_url, { max: 1, name: 'bench-peer', idle_in_transaction_ms: 60_000 })
  const sql = db.client
  const connection = new Redis(environment.redis_url, { maxRetriesPerRequest: null })
  const queue = new Queue(PEER_QUEUE, { connection, prefix: redis_prefix })
  const processes: NodeProcess[] = []
  const stop = async () => {
    await stopAll(processes)
    await queue.close()
    connection.disconnect()
    await db.close()
  }
  try {
    await sql`CREATE TABLE products (ref text PRIMARY KEY, stock integer NOT NULL CHECK (stock >= 0)) WITH (fillfactor = 50)`
    await sql`CREATE TABLE orders (id text PRIMARY KEY, product text NOT NULL, customer text NOT NULL,
                                   units integer NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`
    await sql`INSERT INTO products SELECT 'product:' || n, ${STOCK} FROM generate_series(1, ${options.products}) n`
    await sql`ANALYZE products`
    const port = await anyFreePort()
    const env = {
      DATABASE_URL: database_url,
      REDIS_URL: environment.redis_url,
      REDIS_PREFIX: redis_prefix,
      PORT: `${port}`,
      PEER_CONCURRENCY: `${options.concurrency}`,
    }
    const api = startNode({ name: `${name} api`, entry: 'load/bench/peers/api.ts', env })
    const worker = startNode({ name: `${name} worker`, entry: ENTRIES[name], env })
    processes.push(api, worker)
    await worker.next('up')
    await api.ready(`http://127.0.0.1:${port}/readyz`)
    const left = async () => {
      const counts = await queue.getJobCounts('waiting', 'active', 'delayed')
      return Object.values(counts).reduce((sum, n) => sum + n, 0)
    }
    const finish = async () => {
      await queue.drain()
      while ((await left()) > 0) await sleep(50)
    }
    let orders = 0
    const ordered = async () => {
      const [row] = await sql<{ orders: number; units: number; sold: number }[]>`
        SELECT (SELECT count(*) FROM orders) AS orders, (SELECT coalesce(sum(units), 0) FROM orders)::bigint AS units,
               (SELECT sum(${STOCK} - stock)::bigint FROM products) AS sold`
      return row ?? { orders: 0, units: 0, sold: 0 }
    }
    return {
      url: `http://127.0.0.1:${port}/api/purchases`,
      processes,
      settled: async () => (await worker.ask<Settled>('settled')).settled,
      left,
      async reset() {
        await finish()
        await worker.ask('reset')
        orders = (await ordered()).orders
      },
      async count(_from_ms, accepted) {
        // Read in this order, so that a job that completes in between is counted twice rather than not at all.
        const remaining = await left()
        const count = await worker.ask<Settled>('settled')
        const faults: string[] = []
        if (count.failed > 0) faults.push(`${count.failed} jobs failed`)
        if (count.settled + remaining < accepted) faults.push('jobs that were answered 202 are lost')
        if (name === 'redlock') {
          await finish()
          const done = await worker.ask<Settled>('settled')
          const now = await ordered()
          if (now.units !== now.sold) faults.push(`${now.units} units ordered, ${now.sold} taken out of stock`)
          if (now.orders - orders !== done.settled) {
            faults.push(`${done.settled} jobs completed, ${now.orders - orders} orders written`)
          }
        }
        return { ...count, faults }
      },
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}
