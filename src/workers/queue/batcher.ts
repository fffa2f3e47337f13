/**
 * Settles several queues in one transaction, so that cold queues share commits. Invariants: a queue is settled only under
 * the lease of its request; one bad row or one stale lease costs the other requests a round, never their result.
 */
import type { Breaker } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { isDataError } from '../../shared/db/errors.ts'
import type { Lease, Locks } from '../../shared/locks/api.ts'
import type { Log } from '../../shared/log.ts'
import type { Metrics } from '../../shared/metrics.ts'
import { UnprocessableError } from '../decide/purchases.ts'
import { createBookingFetcher } from './booking-rows.ts'
import { fetchPending } from './purchase-rows.ts'
import { idOf, type QueueItem, resourcesOf, rowOf } from './queue-item.ts'
import {
  ChangedRowError,
  type Decision,
  isConstraintConflict,
  quarantine,
  rowsPerQueue,
  StaleLeaseError,
  settle,
} from './settlement.ts'
import type { SettledRow } from './tracing.ts'

export interface BatcherDeps {
  client: Client
  locks: Locks
  database: Breaker
  metrics: Metrics
  log: Log
  /** milliseconds a ride waits to be accepted */
  accept_ms: number
  /** milliseconds without progress after which a lease is released */
  progress_ms: number
  /** notifies the waiting requests of the API that these ids are settled */
  notify(ids: string[]): void
  /** adds charge jobs for these purchases and bookings */
  enqueueCharges(ids: Iterable<string>): void
  /** the database rejected writes of a superseded holder */
  onStaleWrite(): void
  /** continues the traces of the settled rows; absent: tracing is off */
  trace?(rows: readonly SettledRow[], decided_ms: number): void
}

export interface BatchRequest {
  queue: string
  lease: Lease
  /** only purchases and bookings of this queue with a higher seq are fetched */
  after: number
  /** the last batch of this queue was full: it gets more rows of the transaction than a queue with one or two */
  last_full: boolean
  /** leases on other resources that the caller has waited for */
  extras: ReadonlyMap<string, Lease>
  /** called after each step that this queue has made */
  onProgress(): void
}

export interface BatchResult {
  /** items of this queue that were not decided because another holder has one of their leases */
  missed: QueueItem[]
  /** rows of this queue in the batch */
  fetched: number
  /** the batch was full and at least one row was decided: more rows may be pending */
  full: boolean
  /** where the next batch starts */
  after: number
}

interface PendingRequest extends BatchRequest {
  tries: number
  resolve(result: BatchResult): void
  reject(error: unknown): void
}

/** True for the errors that are answers of the database and not its failure: they never open its breaker. */
export const isDatabaseAnswer = (error: unknown) =>
  error instanceof StaleLeaseError ||
  error instanceof ChangedRowError ||
  error instanceof UnprocessableError ||
  isDataError(error)

/** Concurrent transactions. */
const ROUNDS_AT_ONCE = 4
/** Milliseconds that the next transaction waits for those under way, so that new requests share it; no longer: one may be stuck. */
const SLOW_MS = 50
/** Queues in one transaction. */
const QUEUES_PER_ROUND = 256
/** Rounds in which a request is tried again after other requests made its transaction fail; then it is rejected. */
const TRIES = 4

export function createBatcher(deps: BatcherDeps) {
  const { client, locks, database, metrics, log, accept_ms, progress_ms, notify, enqueueCharges, onStaleWrite, trace } =
    deps
  const waiting: PendingRequest[] = []
  const bookingFetcher = createBookingFetcher(client)
  /** Stored tokens above a lease's token (the lock server has lost its data): the next lease must exceed them. */
  const minTokens = new Map<string, number>()
  /** Rows that could not be quarantined either: skipped until this process restarts, so that their queue goes on. */
  const unwritable = new Set<string>()
  let rounds = 0
  let begun_at = 0
  let timer: NodeJS.Timeout | undefined
  let scheduled = false

  function startRounds(): void {
    scheduled = false
    if (waiting.length === 0 || rounds === ROUNDS_AT_ONCE) return
    const early_ms = rounds === 0 ? 0 : begun_at + SLOW_MS - performance.now()
    if (early_ms > 0) {
      clearTimeout(timer)
      timer = setTimeout(startRounds, early_ms)
      return
    }
    const requests = nextRound()
    if (requests.length === 0) return
    rounds++
    begun_at = performance.now()
    void runRound(requests).finally(() => {
      rounds--
      startRounds()
    })
    // Schedules the rest for the case that this round is stuck, too.
    startRounds()
  }

  /**
   * The requests of the next transaction: one of each queue, with leases that are still valid. A request whose lease was
   * lost while it waited here would make the transaction fail for the other queues.
   */
  function nextRound(): PendingRequest[] {
    const chosen = new Map<string, PendingRequest>()
    const next: PendingRequest[] = []
    for (const request of waiting.splice(0)) {
      const lost = [request.lease, ...request.extras.values()].map(lossOf).find((error) => error !== undefined)
      if (lost !== undefined) request.reject(lost)
      else if (chosen.has(request.queue) || chosen.size === QUEUES_PER_ROUND) next.push(request)
      else chosen.set(request.queue, request)
    }
    waiting.push(...next)
    return [...chosen.values()]
  }

  function enqueue(request: PendingRequest): void {
    waiting.push(request)
    if (scheduled) return
    scheduled = true
    setImmediate(startRounds)
  }

  async function runRound(requests: PendingRequest[]): Promise<void> {
    try {
      const few = rowsPerQueue(requests.length)
      const many = rowsPerQueue(requests.filter((request) => request.last_full).length)
      const cursors = requests.map(({ queue, after, last_full }) => ({ queue, after, limit: last_full ? many : few }))
      const limits = new Map(cursors.map(({ queue, limit }) => [queue, limit]))
      const [purchases, bookings] = await database.run(() =>
        Promise.all([fetchPending(client, cursors), bookingFetcher.fetch(cursors)]),
      )
      let extras: ReadonlyMap<string, Lease> = new Map()
      const onProgress = () => {
        for (const request of requests) {
          request.onProgress()
          for (const lease of request.extras.values()) lease.progress()
        }
        for (const lease of extras.values()) lease.progress()
      }
      onProgress()
      const fetched = new Map<string, QueueItem[]>(purchases)
      for (const [queue, items] of bookings) fetched.set(queue, [...(purchases.get(queue) ?? []), ...items])
      const leases = new Map(
        requests.flatMap((request) => [[request.queue, request.lease] as const, ...request.extras]),
      )
      const { resources, bad } = resourcesByItem([...fetched.values()].flat())
      extras = await tryExtraLeases(new Set([...resources.values()].flat().filter((ref) => !leases.has(ref))))
      for (const [ref, lease] of extras) leases.set(ref, lease)
      const able: QueueItem[] = []
      const missed = new Set<QueueItem>()
      for (const [item, needs] of resources) {
        if (needs.every((ref) => leases.has(ref))) able.push(item)
        else missed.add(item)
      }
      let left: QueueItem[]
      try {
        left = able.length > 0 ? await commitOrBisect(able, resources, leases, onProgress) : []
      } finally {
        await locks.releaseMany(extras.values())
      }
      for (const item of bad) {
        await quarantineItem(item, new UnprocessableError('its items cannot be read'))
        onProgress()
      }
      const staying = new Set([...missed, ...left])
      const progress = able.length > left.length
      for (const request of requests) {
        request.resolve(
          resultFor(
            request,
            fetched.get(request.queue) ?? [],
            missed,
            staying,
            progress,
            limits.get(request.queue) ?? 0,
          ),
        )
      }
    } catch (error) {
      rejectOrRetry(requests, error)
    }
  }

  /** The resources of every item, in order, and the items whose resources cannot be read. */
  function resourcesByItem(items: readonly QueueItem[]) {
    const resources = new Map<QueueItem, string[]>()
    const bad: QueueItem[] = []
    for (const item of items) {
      if (unwritable.has(idOf(item))) continue
      try {
        resources.set(item, resourcesOf(item))
      } catch {
        bad.push(item)
      }
    }
    return { resources, bad }
  }

  /** Tries to acquire the leases of further resources, without waiting. Rows whose lease is missing stay for the next round. */
  async function tryExtraLeases(needs: ReadonlySet<string>): Promise<Map<string, Lease>> {
    if (needs.size === 0) return new Map()
    const above = Math.max(0, ...Array.from(needs, (ref) => minTokens.get(ref) ?? 0))
    try {
      return await locks.tryAcquireMany([...needs], { above, progress_ms })
    } catch (error) {
      log.warn({ error }, 'leases on further resources could not be requested')
      return new Map()
    }
  }

  /** Commits the items; bisects the batch when a bad row makes it fail. Returns the items that could not be decided yet. */
  async function commitOrBisect(
    items: readonly QueueItem[],
    resources: ReadonlyMap<QueueItem, string[]>,
    leases: ReadonlyMap<string, Lease>,
    onProgress: () => void,
    collided = false,
  ): Promise<QueueItem[]> {
    const tokens = new Map<string, number>()
    for (const item of items) {
      for (const ref of resources.get(item) ?? []) tokens.set(ref, leases.get(ref)?.token ?? 0)
    }
    const attempt = () =>
      database
        .run(async (signal) => {
          const decision = await settle(client, items, tokens, accept_ms, signal)
          publish(items, decision)
          return decision
        })
        .finally(onProgress)
    try {
      // One retry after a broken connection, with the same tokens: if another holder has written meanwhile, the database
      // rejects the transaction, and that is counted.
      const decision = await attempt().catch((error) => (isDatabaseAnswer(error) ? Promise.reject(error) : attempt()))
      for (const ref of tokens.keys()) minTokens.delete(ref)
      const skipped = new Set(decision.skipped.map(idOf))
      return items.filter((item) => skipped.has(idOf(item)))
    } catch (error) {
      if (!(error instanceof UnprocessableError || isDataError(error))) throw error
      const [first] = items
      if (items.length === 1 && first) {
        // Once more: the conflicting row is committed by now, and the decision can name it.
        if (isConstraintConflict(error) && !collided)
          return await commitOrBisect(items, resources, leases, onProgress, true)
        await quarantineItem(first, error)
        return []
      }
      // The whole batch was rolled back: settle its halves in order, until the bad row is alone in its batch.
      const half = Math.ceil(items.length / 2)
      const first_half = await commitOrBisect(items.slice(0, half), resources, leases, onProgress)
      return [...first_half, ...(await commitOrBisect(items.slice(half), resources, leases, onProgress))]
    }
  }

  async function quarantineItem(item: QueueItem, error: unknown): Promise<void> {
    const id = idOf(item)
    log.error({ row: rowOf(item).id, resource: rowOf(item).queue, error }, 'row quarantined as unprocessable')
    try {
      await quarantine(client, item, error)
      notify([id])
    } catch (failure) {
      if (!isDataError(failure)) throw failure
      unwritable.add(id)
      log.error({ row: rowOf(item).id, error: failure }, 'row cannot be quarantined: it stays queued')
    }
  }

  function publish(items: readonly QueueItem[], decision: Decision & { now_ms: number }): void {
    const rows = new Map(items.map((item) => [rowOf(item).id, rowOf(item)]))
    const perQueue = new Map<string, { fencing_token: number; settled: Record<string, string[]> }>()
    for (const { was, status } of decision.purchases) if (was !== status) metrics.purchases.inc({ status })
    for (const { was, status } of decision.bookings) if (was !== status) metrics.bookings.inc({ status })
    metrics.bookings.inc({ status: 'expired' }, decision.overdue.length)
    for (const change of [...decision.purchases, ...decision.bookings]) {
      const row = rows.get(change.id)
      if (!row) continue
      if (change.was === 'queued') {
        metrics.settlement_latency_seconds.observe(Math.max(0, decision.now_ms - row.created_ms) / 1000)
      }
      const queue = perQueue.get(row.queue) ?? { fencing_token: change.fencing_token, settled: {} }
      perQueue.set(row.queue, queue)
      queue.settled[change.status] ??= []
      queue.settled[change.status]?.push(change.id)
    }
    metrics.settlement_batch_rows.observe(
      decision.purchases.length + decision.bookings.length + decision.commands.length,
    )
    for (const [resource, { fencing_token, settled }] of perQueue) {
      const counts = Object.fromEntries(Object.entries(settled).map(([status, ids]) => [status, ids.length]))
      log.info({ resource, fencing_token, settled: counts }, 'settled')
      log.debug({ resource, fencing_token, settled }, 'settled, by id')
    }
    metrics.purchases.inc({ status: 'confirmed' }, decision.purchaseReplacements.length)
    metrics.bookings.inc({ status: 'accepted' }, decision.bookingReplacements.length)
    enqueueCharges(decision.chargeRequests.map((charge) => charge.id))
    // A client that waits for a purchase or booking also waits for its charge: no notice before it ends.
    const charging = new Set(decision.chargeRequests.flatMap(({ step, id }) => (step === 'charge' ? [id] : [])))
    const settled = [...decision.purchases, ...decision.bookings].filter(
      ({ id, status }) => !((status === 'held' || status === 'requested') && charging.has(id)),
    )
    notify([...settled, ...decision.commands].map((change) => change.id))
    trace?.(
      [...decision.purchases, ...decision.bookings].map(({ id, status, fencing_token, was }) => {
        const row = was === 'queued' ? rows.get(id) : undefined
        return { id, status, fencing_token, ...(row && { queued: row }) }
      }),
      decision.now_ms,
    )
  }

  function rejectOrRetry(requests: PendingRequest[], error: unknown): void {
    const stale = error instanceof StaleLeaseError ? error.stored : new Map<string, number>()
    for (const [resource, fencing_token] of stale) {
      onStaleWrite()
      minTokens.set(resource, fencing_token)
      log.warn({ resource, fencing_token, error }, 'lease superseded by a newer token: nothing was written')
    }
    const retry = error instanceof StaleLeaseError || error instanceof ChangedRowError
    for (const request of requests) {
      if (retry && !stale.has(request.queue) && ++request.tries < TRIES) enqueue(request)
      else request.reject(error)
    }
  }

  return {
    /** Settles one batch of the queue, together with the other requests that wait for a transaction. */
    requestBatch: (request: BatchRequest) =>
      new Promise<BatchResult>((resolve, reject) => enqueue({ ...request, tries: 0, resolve, reject })),
    /** The token that the next lease on this resource must exceed. */
    minToken: (resource: string) => minTokens.get(resource) ?? 0,
  }
}

/** The error of a lease that is no longer valid; undefined while it is valid. */
function lossOf(lease: Lease): unknown {
  try {
    lease.assertValid()
    return undefined
  } catch (error) {
    return error
  }
}

function resultFor(
  { queue, after }: BatchRequest,
  fetched: readonly QueueItem[],
  missed: ReadonlySet<QueueItem>,
  staying: ReadonlySet<QueueItem>,
  progress: boolean,
  limit: number,
): BatchResult {
  const own = fetched.filter((item) => rowOf(item).queue === queue)
  const rows = own.filter((item) => item.kind === 'purchase' || item.kind === 'booking')
  const seqs = rows.filter((item) => staying.has(item)).map((item) => rowOf(item).seq)
  const kinds = ['purchase', 'booking', 'command', 'expired'] as const
  return {
    missed: own.filter((item) => missed.has(item)),
    fetched: own.length,
    full: progress && kinds.some((kind) => fetched.filter((item) => item.kind === kind).length >= limit),
    after: seqs.length > 0 ? Math.min(...seqs) - 1 : Math.max(after, ...rows.map((item) => rowOf(item).seq)),
  }
}
