/**
 * Settles what stands in several lines at once, so that cold lines share commits. Invariants: a line is settled only
 * under a lease that its asker holds; one bad row or one stale lease costs the others a round, never their result.
 */
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, isDataError } from '../../shared/db/client.ts'
import type { Lease, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { UnprocessableError } from '../decide/purchases.ts'
import { createCalendars } from './booking-rows.ts'
import { type Item, idOf, refsOf, rowOf } from './queue-item.ts'
import {
  ChangedRowError,
  commit,
  isCollision,
  rowsPerLine,
  StaleLeaseError,
  setApart,
  take,
  type Verdict,
} from './settlement.ts'
import type { Settled } from './tracing.ts'

export interface SettleDeps {
  client: Client
  locks: Locks
  database: Breaker
  metrics: Metrics
  log: Log
  /** milliseconds a ride waits to be accepted */
  accept_ms: number
  /** milliseconds without progress after which a lease is let go */
  progress_ms: number
  /** tells whoever waits that these ids have an answer */
  notify(ids: string[]): void
  /** tells the payment jobs that these purchases and bookings have money to be moved */
  pay(ids: Iterable<string>): void
  /** a superseded holder's writes were refused */
  onStaleWrite(): void
  /** goes on with the traces of what was settled; absent: there are none */
  traced?(rows: readonly Settled[], decided_ms: number): void
}

export interface Ask {
  queue: string
  lease: Lease
  /** seq after which purchases of this line are taken */
  after: number
  /** its last batch was full: it gets more room than those who bring a row or two */
  long: boolean
  /** leases on other resources, taken beforehand by waiting */
  extras: ReadonlyMap<string, Lease>
  /** called after each step: it says that the queue under this lease moves */
  moved(): void
}

export interface Outcome {
  /** items of this line that stay because a lease of theirs was taken */
  missed: Item[]
  /** rows of this line in the batch */
  took: number
  /** the batch was full and something of it was decided: there may be more behind it */
  full: boolean
  /** where the next batch starts */
  after: number
}

interface Pending extends Ask {
  tries: number
  resolve(outcome: Outcome): void
  reject(error: unknown): void
}

/** True for the errors that are answers of the database and not its failure: they never open its breaker. */
export const isDatabaseAnswer = (error: unknown) =>
  error instanceof StaleLeaseError ||
  error instanceof ChangedRowError ||
  error instanceof UnprocessableError ||
  isDataError(error)

/** Transactions under way at once. */
const ROUNDS_AT_ONCE = 4
/** Milliseconds that the next one waits for those under way: what asks meanwhile shares it, unless one of them is stuck. */
const SLOW_MS = 50
/** Lines in one transaction. */
const LINES_PER_ROUND = 256
/** Rounds that an ask survives when others in its transaction were refused, before its job is told. */
const TRIES = 4

export function createSettler(deps: SettleDeps) {
  const {
    client,
    locks,
    database,
    metrics,
    log,
    accept_ms,
    progress_ms,
    notify,
    pay,
    onStaleWrite: fenced,
    traced,
  } = deps
  const waiting: Pending[] = []
  const calendars = createCalendars(client)
  /** Fences found above a lease's token (the lock server lost its memory): the next lease must exceed them. */
  const floors = new Map<string, number>()
  /** Rows that cannot even be set apart: passed over while this process lives, so that their line goes on. */
  const hopeless = new Set<string>()
  let rounds = 0
  let begun_at = 0
  let later: NodeJS.Timeout | undefined
  let scheduled = false

  function pump(): void {
    scheduled = false
    if (waiting.length === 0 || rounds === ROUNDS_AT_ONCE) return
    const early_ms = rounds === 0 ? 0 : begun_at + SLOW_MS - performance.now()
    if (early_ms > 0) {
      clearTimeout(later)
      later = setTimeout(pump, early_ms)
      return
    }
    const asks = nextRound()
    if (asks.length === 0) return
    rounds++
    begun_at = performance.now()
    void round(asks).finally(() => {
      rounds--
      pump()
    })
    // What did not fit is not forgotten if this one is stuck too.
    pump()
  }

  /**
   * What shares the next transaction: one request of a queue, with leases that are still valid. A holder that was frozen
   * while it waited here would make the whole transaction fail, and with it the requests of other queues.
   */
  function nextRound(): Pending[] {
    const chosen = new Map<string, Pending>()
    const next: Pending[] = []
    for (const ask of waiting.splice(0)) {
      const lost = [ask.lease, ...ask.extras.values()].map(lossOf).find((error) => error !== undefined)
      if (lost !== undefined) ask.reject(lost)
      else if (chosen.has(ask.queue) || chosen.size === LINES_PER_ROUND) next.push(ask)
      else chosen.set(ask.queue, ask)
    }
    waiting.push(...next)
    return [...chosen.values()]
  }

  function enqueue(ask: Pending): void {
    waiting.push(ask)
    if (scheduled) return
    scheduled = true
    setImmediate(pump)
  }

  async function round(asks: Pending[]): Promise<void> {
    try {
      const few = rowsPerLine(asks.length)
      const many = rowsPerLine(asks.filter((ask) => ask.long).length)
      const places = asks.map(({ queue, after, long }) => ({ queue, after, limit: long ? many : few }))
      const limits = new Map(places.map(({ queue, limit }) => [queue, limit]))
      const [purchases, bookings] = await database.run(() =>
        Promise.all([take(client, places), calendars.take(places)]),
      )
      let extras: ReadonlyMap<string, Lease> = new Map()
      const moved = () => {
        for (const ask of asks) {
          ask.moved()
          for (const lease of ask.extras.values()) lease.progress()
        }
        for (const lease of extras.values()) lease.progress()
      }
      moved()
      const taken = new Map<string, Item[]>(purchases)
      for (const [queue, items] of bookings) taken.set(queue, [...(purchases.get(queue) ?? []), ...items])
      const leases = new Map(asks.flatMap((ask) => [[ask.queue, ask.lease] as const, ...ask.extras]))
      const { refs, bad } = sort([...taken.values()].flat())
      extras = await borrow(new Set([...refs.values()].flat().filter((ref) => !leases.has(ref))))
      for (const [ref, lease] of extras) leases.set(ref, lease)
      const able: Item[] = []
      const missed = new Set<Item>()
      for (const [item, needs] of refs) {
        if (needs.every((ref) => leases.has(ref))) able.push(item)
        else missed.add(item)
      }
      let left: Item[]
      try {
        left = able.length > 0 ? await settle(able, refs, leases, moved) : []
      } finally {
        await locks.releaseMany(extras.values())
      }
      for (const item of bad) {
        await apart(item, new UnprocessableError('its lines cannot be read'))
        moved()
      }
      const stay = new Set([...missed, ...left])
      const progress = able.length > left.length
      for (const ask of asks) {
        ask.resolve(outcomeOf(ask, taken.get(ask.queue) ?? [], missed, stay, progress, limits.get(ask.queue) ?? 0))
      }
    } catch (error) {
      refuse(asks, error)
    }
  }

  /** The resources of every item, in order, and the items whose resources cannot be read. */
  function sort(items: readonly Item[]) {
    const refs = new Map<Item, string[]>()
    const bad: Item[] = []
    for (const item of items) {
      if (hopeless.has(idOf(item))) continue
      try {
        refs.set(item, refsOf(item))
      } catch {
        bad.push(item)
      }
    }
    return { refs, bad }
  }

  /** Takes the other resources' leases without waiting. None is also an answer: those rows stay for the next round. */
  async function borrow(needs: ReadonlySet<string>): Promise<Map<string, Lease>> {
    if (needs.size === 0) return new Map()
    const above = Math.max(0, ...Array.from(needs, (ref) => floors.get(ref) ?? 0))
    try {
      return await locks.tryAcquireMany([...needs], { above, progress_ms })
    } catch (error) {
      log.warn({ error }, 'leases on further resources could not be asked for')
      return new Map()
    }
  }

  /** Commits the items, one bad row set apart if need be. Returns those that could not be decided yet. */
  async function settle(
    items: readonly Item[],
    refs: ReadonlyMap<Item, string[]>,
    leases: ReadonlyMap<string, Lease>,
    moved: () => void,
    collided = false,
  ): Promise<Item[]> {
    const tokens = new Map<string, number>()
    for (const item of items) {
      for (const ref of refs.get(item) ?? []) tokens.set(ref, leases.get(ref)?.token ?? 0)
    }
    const attempt = () =>
      database
        .run(async (signal) => {
          const verdict = await commit(client, items, tokens, accept_ms, signal)
          tell(items, verdict)
          return verdict
        })
        .finally(moved)
    try {
      // One more try after a broken connection, with the same tokens: if another holder has written in between, it is
      // the database that says so, and the refusal is counted.
      const verdict = await attempt().catch((error) => (isDatabaseAnswer(error) ? Promise.reject(error) : attempt()))
      for (const ref of tokens.keys()) floors.delete(ref)
      const skipped = new Set(verdict.skipped.map(idOf))
      return items.filter((item) => skipped.has(idOf(item)))
    } catch (error) {
      if (!(error instanceof UnprocessableError || isDataError(error))) throw error
      const [first] = items
      if (items.length === 1 && first) {
        // Once more: what it has met is committed by now, and can be named.
        if (isCollision(error) && !collided) return await settle(items, refs, leases, moved, true)
        await apart(first, error)
        return []
      }
      // The batch was rolled back whole: its halves are settled in order, until the bad row stands alone.
      const half = Math.ceil(items.length / 2)
      const first_half = await settle(items.slice(0, half), refs, leases, moved)
      return [...first_half, ...(await settle(items.slice(half), refs, leases, moved))]
    }
  }

  async function apart(item: Item, error: unknown): Promise<void> {
    const id = idOf(item)
    log.error({ row: rowOf(item).id, resource: rowOf(item).queue, error }, 'row set apart')
    try {
      await setApart(client, item, error)
      notify([id])
    } catch (second) {
      if (!isDataError(second)) throw second
      hopeless.add(id)
      log.error({ row: rowOf(item).id, error: second }, 'row cannot be written at all: it stays queued')
    }
  }

  function tell(items: readonly Item[], verdict: Verdict & { now_ms: number }): void {
    const rows = new Map(items.map((item) => [rowOf(item).id, rowOf(item)]))
    const perLine = new Map<string, { fencing_token: number; settled: Record<string, string[]> }>()
    for (const { was, status } of verdict.purchases) if (was !== status) metrics.purchases.inc({ status })
    for (const { was, status } of verdict.bookings) if (was !== status) metrics.bookings.inc({ status })
    metrics.bookings.inc({ status: 'expired' }, verdict.overdue.length)
    for (const change of [...verdict.purchases, ...verdict.bookings]) {
      const row = rows.get(change.id)
      if (!row) continue
      if (change.was === 'queued') {
        metrics.settlement_latency_seconds.observe(Math.max(0, verdict.now_ms - row.created_ms) / 1000)
      }
      const line = perLine.get(row.queue) ?? { fencing_token: change.fencing_token, settled: {} }
      perLine.set(row.queue, line)
      line.settled[change.status] ??= []
      line.settled[change.status]?.push(change.id)
    }
    metrics.settlement_batch_rows.observe(verdict.purchases.length + verdict.bookings.length + verdict.commands.length)
    for (const [resource, { fencing_token, settled }] of perLine) {
      const counts = Object.fromEntries(Object.entries(settled).map(([status, ids]) => [status, ids.length]))
      log.info({ resource, fencing_token, settled: counts }, 'settled')
      log.debug({ resource, fencing_token, settled }, 'settled, by id')
    }
    metrics.purchases.inc({ status: 'confirmed' }, verdict.successors.length)
    metrics.bookings.inc({ status: 'accepted' }, verdict.rebooked.length)
    pay(verdict.payables.map((payable) => payable.id))
    // Whoever waits for a purchase or booking waits for its charge too.
    const charging = new Set(verdict.payables.flatMap(({ step, id }) => (step === 'charge' ? [id] : [])))
    const settled = [...verdict.purchases, ...verdict.bookings].filter(
      ({ id, status }) => !((status === 'held' || status === 'requested') && charging.has(id)),
    )
    notify([...settled, ...verdict.commands].map((change) => change.id))
    traced?.(
      [...verdict.purchases, ...verdict.bookings].map(({ id, status, fencing_token, was }) => {
        const row = was === 'queued' ? rows.get(id) : undefined
        return { id, status, fencing_token, ...(row && { stood: row }) }
      }),
      verdict.now_ms,
    )
  }

  function refuse(asks: Pending[], error: unknown): void {
    const stale = error instanceof StaleLeaseError ? error.fences : new Map<string, number>()
    for (const [resource, fencing_token] of stale) {
      fenced()
      floors.set(resource, fencing_token)
      log.warn({ resource, fencing_token, error }, 'superseded: nothing was written')
    }
    const again = error instanceof StaleLeaseError || error instanceof ChangedRowError
    for (const ask of asks) {
      if (again && !stale.has(ask.queue) && ++ask.tries < TRIES) enqueue(ask)
      else ask.reject(error)
    }
  }

  return {
    /** Settles one batch of the line, together with other lines that ask meanwhile. */
    settle: (ask: Ask) => new Promise<Outcome>((resolve, reject) => enqueue({ ...ask, tries: 0, resolve, reject })),
    /** What the next lease on this resource must exceed. */
    floor: (resource: string) => floors.get(resource) ?? 0,
  }
}

/** Why the lease is no longer valid; undefined while it is. */
function lossOf(lease: Lease): unknown {
  try {
    lease.assertValid()
    return undefined
  } catch (error) {
    return error
  }
}

function outcomeOf(
  { queue, after }: Ask,
  taken: readonly Item[],
  missed: ReadonlySet<Item>,
  stay: ReadonlySet<Item>,
  progress: boolean,
  limit: number,
): Outcome {
  const own = taken.filter((item) => rowOf(item).queue === queue)
  const news = own.filter((item) => item.kind === 'purchase' || item.kind === 'booking')
  const staying = news.filter((item) => stay.has(item)).map((item) => rowOf(item).seq)
  const kinds = ['purchase', 'booking', 'command', 'expired'] as const
  return {
    missed: own.filter((item) => missed.has(item)),
    took: own.length,
    full: progress && kinds.some((kind) => taken.filter((item) => item.kind === kind).length >= limit),
    after: staying.length > 0 ? Math.min(...staying) - 1 : Math.max(after, ...news.map((item) => rowOf(item).seq)),
  }
}
