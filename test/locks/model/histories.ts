/** Random histories of one lock, by fast-check: it finds a short one that violates the model, and reports its seed. */
import fc from 'fast-check'
import type { HistoryWorld } from './environment.ts'
import type { Given, Wish } from './model.ts'
import * as nemesis from './nemesis.ts'
import * as steps from './steps.ts'
import * as writes from './writes.ts'

type Step = fc.AsyncCommand<object, { h: steps.History }>

function step(name: string, run: (h: steps.History) => Promise<void>): Step {
  return { check: () => true, run: (_, { h }) => run(h), toString: () => name }
}

/** One of the leases granted so far, more likely a late one. */
function pickLease(h: steps.History, which: number, mode?: string): Given | undefined {
  const all = mode ? h.given.filter((lease) => lease.mode === mode) : h.given
  return all[all.length - 1 - Math.floor((which / 100) ** 2 * all.length)]
}

const wishes: fc.Arbitrary<Wish> = fc.constantFrom(
  { mode: 'exclusive', limit: 0 },
  { mode: 'exclusive', limit: 0 },
  { mode: 'shared', limit: 0 },
  { mode: 'permit', limit: 2 },
  { mode: 'permit', limit: 1 },
)
const which = fc.nat(99)
const by = fc.nat(2)
const ttl_ms = fc.constantFrom(60_000, 600_000)

const acquire = fc.tuple(by, wishes, fc.boolean(), ttl_ms).map(([by, wish, local, ttl_ms]) =>
  step(`acquire(${by}, ${wish.mode} ${wish.limit}, ${local ? 'local' : 'remote'}, ${ttl_ms})`, async (h) => {
    await steps.acquire(h, by, wish, local, ttl_ms)
    await steps.settle(h)
  }),
)
const enqueue = fc.tuple(by, wishes, ttl_ms).map(([by, wish, ttl_ms]) =>
  step(`enqueue(${by}, ${wish.mode} ${wish.limit}, ${ttl_ms})`, async (h) => {
    if (h.waiting.length < 3) await steps.enqueue(h, by, wish, ttl_ms)
  }),
)
const cancel = which.map((n) => step(`cancel(${n})`, (h) => steps.cancel(h, n)))
const onOne = (name: string, mode: string | undefined, run: (h: steps.History, lease: Given) => Promise<void>) =>
  which.map((n) =>
    step(`${name}(${n})`, async (h) => {
      const lease = pickLease(h, n, mode)
      if (lease) await run(h, lease)
    }),
  )
const clock = fc
  .constantFrom(1, 61, 601, 3600, -1, -61, -3600)
  .map((by_s) => step(`stepClock(${by_s})`, (h) => nemesis.stepClock(h, by_s)))
const force = fc.constant(step('force()', nemesis.force))
const flush = fc.constant(step('flush()', nemesis.flush))
// The standby stops replicating; the next time it is promoted.
const fallBack = fc.constant(step('fallBack()', (h) => (h.snapshot ? nemesis.promote(h) : nemesis.snapshot(h))))

const extend = onOne('extend', undefined, steps.extend)
const release = onOne('release', undefined, steps.release)
// The first time its holder begins, later it writes.
const work = onOne('work', 'exclusive', (h, lease) =>
  lease.read === undefined ? writes.begin(h, lease) : writes.write(h, lease),
)

/** A step that is listed more often happens more often. */
const STEPS = [
  acquire,
  acquire,
  acquire,
  enqueue,
  enqueue,
  cancel,
  extend,
  release,
  release,
  work,
  work,
  work,
  work,
  work,
]
const NEMESIS = [clock, clock, flush, force, fallBack]

export interface Run {
  histories: number
  seed?: number
  /** Of a failed history: fast-check prints both. */
  path?: string
  replayPath?: string
  onHistory?(done: number): void
  /** Called before fast-check searches for a shorter one, which takes a while. */
  onFailure?(error: unknown): void
}

export interface Outcome {
  failed: boolean
  histories: number
  seed: number
  report: string
  seen: steps.Seen
}

let runs = 0

export async function runHistories(world: HistoryWorld, sql: steps.Fenced, run: Run): Promise<Outcome> {
  const seen: steps.Seen = {}
  let done = 0
  runs += 1
  const history = async (commands: Iterable<Step>) => {
    done += 1
    run.onHistory?.(done)
    const h = steps.newHistory(world, sql, `history:${runs}-${done}`, seen)
    world.setClock(0)
    try {
      await fc.asyncModelRun(() => ({ model: {}, real: { h } }), commands)
      await steps.finish(h)
    } catch (error) {
      run.onFailure?.(error)
      throw error
    } finally {
      for (const one of h.waiting) one.stop.abort()
    }
  }
  const commands = fc.commands([...STEPS, ...NEMESIS] as fc.Arbitrary<Step>[], {
    ...{ maxCommands: 24, size: 'max' },
    ...(run.replayPath !== undefined && { replayPath: run.replayPath }),
  })
  const details = await fc.check(fc.asyncProperty(commands, history), {
    numRuns: run.histories,
    ...(run.seed !== undefined && { seed: run.seed }),
    ...(run.path !== undefined && { path: run.path, endOnFailure: true }),
  })
  const report = details.failed ? `${fc.defaultReportMessage(details)}\n${String(details.errorInstance)}` : ''
  return { failed: details.failed, histories: done, seed: details.seed, report, seen }
}

/** The fencing token of the database, without a database. */
export function fencedInMemory(): steps.Fenced {
  const rows = new Map<string, { fence: number; value: number }>()
  const rowOf = (resource: string) => {
    const row = rows.get(resource) ?? { fence: 0, value: 0 }
    rows.set(resource, row)
    return row
  }
  return {
    async raise(resource, token) {
      const row = rowOf(resource)
      if (row.fence > token) return undefined
      row.fence = token
      return row.value
    },
    async write(resource, token, value) {
      const row = rowOf(resource)
      if (row.fence > token) return false
      Object.assign(row, { fence: token, value })
      return true
    },
    fenceOf: async (resource) => rowOf(resource).fence,
  }
}
