/**
 * One chaos run: starts the fleet, loads it, carries out faults, lets it recover, and checks the records. Invariant:
 * the verdict covers all requests from the first to the last.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, openDb } from '../../src/shared/db/client.ts'
import type { Finding } from '../../src/shared/invariants.ts'
import { provider } from '../support/api-client.ts'
import { type Scope, until } from '../support/environment.ts'
import { check } from './checker.ts'
import { createClient } from './client.ts'
import { type Evidence, readClock, readLingering, readRows, settledBySecond, unsettled } from './evidence.ts'
import { openFleet } from './fleet.ts'
import { createLoad } from './load.ts'
import { createNemesis, type Done, type Fault, plan, WITHOUT_KILLS } from './nemesis.ts'
import type { Planted } from './planted.ts'
import { type Entry, openRecorder } from './record.ts'
import { type Recovery, recoveryOf } from './recovery.ts'
import { seeded } from './seeded.ts'
import { sellOut } from './sellout.ts'
import { fill, HOT } from './shelves.ts'

export interface Options {
  seed: number
  /** seconds of load */
  seconds: number
  /** clients that arrive in a second */
  rate: number
  /** seconds of load before the first fault and after the last */
  calm_s: readonly [number, number]
  /** false: only faults after which every process and connection still exists */
  kills?: boolean
  /** folder for records and logs; undefined: write none */
  folder?: string
  planted?: Planted
}

export interface Progress {
  at_ms: number
  came: number
  inside: number
  answered: number
  refused: number
  unanswered: number
  now: readonly Fault[]
  /** after the load: the counts of rows that have not ended */
  waits_for?: string
}

export interface Report {
  plan: readonly Fault[]
  faults: readonly Done[]
  entries: readonly Entry[]
  findings: readonly Finding[]
  recovery: Recovery
  /** rows settled in each second since the load began */
  settled: readonly number[]
  load_ms: number
  /** milliseconds from the end of the load until every row had ended */
  drain_ms: number
  /**
   * rows written although their request, sent without a key, was answered 503 (the gap that the README names) or got no
   * answer
   */
  unheard: { refused: number; unanswered: number }
  turnedAway: number
}

/** Milliseconds that clients and rows have to end after the load. */
const DRAIN_MS = 150_000
/** The same for a planted fault, where rows need not end. */
const PLANTED_DRAIN_MS = 15_000

export async function runChaos(
  t: Scope,
  options: Options,
  tell: (progress: Progress) => void = () => {},
): Promise<Report> {
  const { seed, seconds, rate, calm_s, folder, planted } = options
  const kinds = planted?.kinds ?? (options.kills === false ? WITHOUT_KILLS : undefined)
  if (folder !== undefined) mkdirSync(folder, { recursive: true })
  const fleet = await openFleet(t, planted)
  const recorder = openRecorder(folder === undefined ? undefined : join(folder, 'records.jsonl'))
  const db = openDb(fleet.postgres.url, { max: 4, name: 'chaos', idle_in_transaction_ms: 60_000 })
  t.teardown(() => db.close())
  const draw = seeded(seed, 'client')
  const apis = fleet.members.filter((one) => one.kind === 'api')
  let began = performance.now()
  const client = createClient(
    () => draw.pick(apis).url,
    recorder,
    () => performance.now() - began,
  )
  // A quarter of the clients want the hot product.
  const shelves = await fill(client, Math.ceil((seconds * rate * 0.3) / HOT.buyers) + 1)
  began = performance.now()
  const began_ms = performance.timeOrigin + began
  const faults = plan(seed, calm_s[0] * 1000, (seconds - calm_s[1]) * 1000, kinds)
  const nemesis = createNemesis(fleet, [shelves.snack, ...shelves.carts, ...shelves.properties])
  const load = createLoad(client, shelves, seed)

  const counts = { answered: 0, refused: 0, unanswered: 0 }
  let counted = 0
  let waits_for: string | undefined
  const ticker = setInterval(() => {
    for (; counted < recorder.entries.length; counted++) {
      const { status = 0 } = recorder.entries[counted] ?? {}
      if (status === 0) counts.unanswered++
      else if (status === 503) counts.refused++
      else counts.answered++
    }
    const { came, inside } = load.counts()
    tell({
      at_ms: performance.now() - began,
      came,
      inside,
      ...counts,
      now: nemesis.now(),
      ...(waits_for && { waits_for }),
    })
  }, 1_000)
  t.teardown(async () => clearInterval(ticker))

  const loading = load.run(rate)
  const hurting = nemesis.run(faults, began)
  await hurting
  // The last faults must be undone, however late they were, before the calm at the end begins.
  const end = Math.max(began + seconds * 1000, performance.now() + calm_s[1] * 1000)
  await sleep(end - performance.now())
  load.stop()
  const load_ms = performance.now() - began
  waits_for = 'the requests under way'
  await loading
  await load.over()
  // From here on the fleet has only queued rows to settle.
  const watched = watchLingering(db.client)
  const timeout_ms = planted && !planted.harmless ? PLANTED_DRAIN_MS : DRAIN_MS
  const drained = async () => {
    const left = await unsettled(db.client)
    waits_for = left.join(', ')
    return left.length === 0
  }
  await until(drained, { what: 'everything to come to its end', timeout_ms }).catch(() => {})
  const drain_ms = performance.now() - began - load_ms
  // Skip the final sale if rows linger: the planted fault is found, and the last buyers would wait behind these rows in
  // vain.
  if (!planted || planted.harmless || watched.seen() === 0) {
    await sellOut(client, shelves)
    await until(drained, { what: 'the last rides to be over', timeout_ms }).catch(() => {})
  }
  clearInterval(ticker)

  const rows = await readRows(db.client)
  const lines = new Map(shelves.hot.map((ref) => [ref, HOT.units]))
  const done = nemesis.done()
  const findings = check({
    ...rows,
    entries: recorder.entries,
    lines,
    provider: await provider(fleet.sandbox.url).ledger(),
    fallen: fleet.fallen(),
    faults: done.length,
    lingering: await watched.stop(),
  })
  const settled = await settledBySecond(db.client, began_ms)
  const first_ms = Math.min(load_ms, ...done.map((one) => one.from_ms))
  const last_ms = Math.max(0, ...done.map((one) => one.until_ms))
  await recorder.close()
  if (folder !== undefined) {
    for (const [name, text] of fleet.logs()) writeFileSync(join(folder, `${name}.txt`), text)
  }
  return {
    plan: faults,
    faults: done,
    entries: recorder.entries,
    findings,
    recovery: recoveryOf(settled, { first_ms, last_ms }, load_ms),
    settled,
    load_ms,
    drain_ms,
    unheard: unheardOf(recorder.entries, rows.rows),
    turnedAway: load.counts().turnedAway,
  }
}

/** Looks for rows that stay queued, twice a second until it is stopped. */
function watchLingering(client: Client): { seen(): number; stop(): Promise<Evidence['lingering']> } {
  const rows = new Set<string>()
  let looks = 0
  let stopped = false
  const watching = (async () => {
    let since: string | undefined
    while (!stopped) {
      // Ignore a poll that fails: the next one finds a lingering row too.
      since ??= await readClock(client).catch(() => undefined)
      const found = since === undefined ? undefined : await readLingering(client, since).catch(() => undefined)
      for (const row of found ?? []) rows.add(row)
      if (found) looks++
      await sleep(500)
    }
  })()
  return {
    seen: () => rows.size,
    async stop() {
      stopped = true
      await watching
      return { looks, rows: [...rows] }
    },
  }
}

/** Counts rows of clients without a key that got 503 or no answer. Withdrawn rows do not count. */
function unheardOf(
  entries: readonly Entry[],
  rows: readonly { customer: string; status: string; key: string | null }[],
): Report['unheard'] {
  const told = new Map(
    entries.filter(({ body }) => body).map(({ body, status }) => [body?.customer ?? body?.rider_id, status]),
  )
  const stand = rows
    .filter((row) => row.key === null && row.status !== 'cancelled')
    .map((row) => told.get(row.customer))
  return {
    refused: stand.filter((status) => status === 503).length,
    unanswered: stand.filter((status) => status === 0).length,
  }
}
