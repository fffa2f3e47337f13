/**
 * Settles several queues in one transaction, so that queues with few rows share commits. Invariants: the batcher settles
 * a queue only under the lease that the batch request brings; a row that cannot be decided, or a lease that a newer one has
 * superseded, may delay the other queues of the transaction, but never changes what is decided there.
 */
import type { Breaker } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { isDataError } from '../../shared/db/errors.ts'
import type { Lease, Locks } from '../../shared/locks/api.ts'
import { UnprocessableError } from '../decide/common.ts'
import { createBookingFetcher } from './booking-rows.ts'
import { type PublishDeps, publish } from './publish.ts'
import { fetchPending } from './purchase-rows.ts'
import { idOf, type QueueItem, resourcesOf, rowOf } from './queue-item.ts'
import {
  ChangedRowError,
  isConstraintConflict,
  quarantine,
  rowsPerQueue,
  StaleLeaseError,
  settle,
} from './settlement.ts'

export interface BatcherDeps extends PublishDeps {
  client: Client
  locks: Locks
  database: Breaker
  /** milliseconds that a driver has to accept a ride */
  accept_ms: number
  /** milliseconds without progress after which a lease is released */
  progress_ms: number
  /** called when the database has rejected writes of a superseded lease holder, once for each such resource */
  onStaleWrite(): void
}

export interface BatchRequest {
  queue: string
  lease: Lease
  /** only purchases and bookings of this queue with a higher seq are fetched */
  after: number
  /**
   * true if the last batch of this queue was full: then the queue may add more rows to the transaction than a queue whose
   * last batch was not full
   */
  last_full: boolean
  /** leases on other resources that the caller has waited for */
  extras: ReadonlyMap<string, Lease>
  /** called after each step of this queue */
  onProgress(): void
}

export interface BatchResult {
  /** pending rows of this queue that were not decided because another holder has one of their leases */
  missed: QueueItem[]
  /** rows of this queue in the batch */
  fetched: number
  /** true if the batch was full and its round decided at least one row: more rows may be pending */
  full: boolean
  /** `after` of the next request */
  after: number
}

interface PendingRequest extends BatchRequest {
  tries: number
  resolve(result: BatchResult): void
  reject(error: unknown): void
}

/** Returns true for errors that concern leases or rows: the database works, so they never open its breaker. */
export const isDatabaseAnswer = (error: unknown) =>
  error instanceof StaleLeaseError ||
  error instanceof ChangedRowError ||
  error instanceof UnprocessableError ||
  isDataError(error)

/** Most concurrent transactions. */
const ROUNDS_AT_ONCE = 4
/**
 * Milliseconds in which a new transaction runs alone: meanwhile batch requests collect, and share the next transaction.
 * Then the next one starts beside it, because it may be stuck.
 */
const SLOW_MS = 50
/** Most queues in one transaction. */
const QUEUES_PER_ROUND = 256
/**
 * Most rounds for one batch request, if each fails because a row has changed or the lease on another queue is superseded;
 * then the batcher rejects the request.
 */
const TRIES = 4

/** Settles the pending rows of several queues at a time; each round is one transaction. */
export class Batcher {
  readonly #deps: BatcherDeps
  readonly #bookings: ReturnType<typeof createBookingFetcher>
  readonly #waiting: PendingRequest[] = []
  /**
   * Resource → its fencing token in the database, if that was higher than the token of our lease: a newer holder has
   * written, or the lock server has lost its data. The token of the next lease must be higher.
   */
  readonly #minTokens = new Map<string, number>()
  /**
   * Rows that the batcher could not quarantine either. It skips them until this process restarts, so that the rest of
   * their queue is settled.
   */
  readonly #unwritable = new Set<string>()
  #rounds = 0
  #begun_at = 0
  #timer: NodeJS.Timeout | undefined
  #scheduled = false

  constructor(deps: BatcherDeps) {
    this.#deps = deps
    this.#bookings = createBookingFetcher(deps.client)
  }

  /** Settles one batch of the queue, together with the other batch requests that wait for a transaction. */
  requestBatch(request: BatchRequest): Promise<BatchResult> {
    return new Promise((resolve, reject) => this.#enqueue({ ...request, tries: 0, resolve, reject }))
  }

  /** Returns the token that the next lease on this resource must exceed. */
  minToken(resource: string): number {
    return this.#minTokens.get(resource) ?? 0
  }

  #enqueue(request: PendingRequest): void {
    this.#waiting.push(request)
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => this.#startRounds())
  }

  #startRounds(): void {
    this.#scheduled = false
    if (this.#waiting.length === 0 || this.#rounds === ROUNDS_AT_ONCE) return
    const early_ms = this.#rounds === 0 ? 0 : this.#begun_at + SLOW_MS - performance.now()
    if (early_ms > 0) {
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.#startRounds(), early_ms)
      return
    }
    const requests = this.#nextRound()
    if (requests.length === 0) return
    this.#rounds++
    this.#begun_at = performance.now()
    void this.#runRound(requests).finally(() => {
      this.#rounds--
      this.#startRounds()
    })
    // Start or schedule a round for the remaining requests now, because this round may get stuck.
    this.#startRounds()
  }

  /**
   * Returns the batch requests of the next transaction: one per queue, with leases that are still valid. Rejects those
   * whose lease was lost while they waited here, because they would make the transaction fail for the other queues.
   */
  #nextRound(): PendingRequest[] {
    const chosen = new Map<string, PendingRequest>()
    const next: PendingRequest[] = []
    for (const request of this.#waiting.splice(0)) {
      const lost = [request.lease, ...request.extras.values()].map(lossOf).find((error) => error !== undefined)
      if (lost !== undefined) request.reject(lost)
      else if (chosen.has(request.queue) || chosen.size === QUEUES_PER_ROUND) next.push(request)
      else chosen.set(request.queue, request)
    }
    this.#waiting.push(...next)
    return [...chosen.values()]
  }

  async #runRound(requests: PendingRequest[]): Promise<void> {
    try {
      const { limits, fetched } = await this.#fetch(requests)
      const round = new Round(requests)
      round.progress()
      const { resources, bad } = this.#resourcesByItem([...fetched.values()].flat())
      round.extras = await this.#tryExtraLeases(round.missing(resources.values()))
      const { able, missed } = round.partition(resources)
      let undecided: QueueItem[]
      try {
        undecided = able.length > 0 ? await this.#commitOrBisect(able, resources, round) : []
      } finally {
        await this.#deps.locks.releaseMany(round.extras.values())
      }
      for (const item of bad) {
        await this.#quarantine(item, new UnprocessableError('the items or the payment of the row cannot be read'))
        round.progress()
      }
      const staying = new Set([...missed, ...undecided])
      const progress = able.length > undecided.length
      for (const request of requests) {
        const { queue } = request
        const limit = limits.get(queue) ?? 0
        request.resolve(resultFor(request, fetched.get(queue) ?? [], missed, staying, progress, limit))
      }
    } catch (error) {
      this.#rejectOrRetry(requests, error)
    }
  }

  /** Fetches the pending rows of the queues. Returns them with each queue's limit of rows. */
  async #fetch(requests: readonly PendingRequest[]) {
    const { client, database } = this.#deps
    const few = rowsPerQueue(requests.length)
    const many = rowsPerQueue(requests.filter((request) => request.last_full).length)
    const cursors = requests.map(({ queue, after, last_full }) => ({ queue, after, limit: last_full ? many : few }))
    const limits = new Map(cursors.map(({ queue, limit }) => [queue, limit]))
    const [purchases, bookings] = await database.run(() =>
      Promise.all([fetchPending(client, cursors), this.#bookings.fetch(cursors)]),
    )
    const fetched = new Map<string, QueueItem[]>(purchases)
    for (const [queue, items] of bookings) fetched.set(queue, [...(purchases.get(queue) ?? []), ...items])
    return { limits, fetched }
  }

  /** Returns the resources of every pending row, in order, and the rows whose resources cannot be read. */
  #resourcesByItem(items: readonly QueueItem[]) {
    const resources = new Map<QueueItem, string[]>()
    const bad: QueueItem[] = []
    for (const item of items) {
      if (this.#unwritable.has(idOf(item))) continue
      try {
        resources.set(item, resourcesOf(item))
      } catch {
        bad.push(item)
      }
    }
    return { resources, bad }
  }

  /** Tries to acquire leases on further resources, without waiting. Rows without a lease stay for the next round. */
  async #tryExtraLeases(needs: ReadonlySet<string>): Promise<Map<string, Lease>> {
    const { locks, progress_ms, log } = this.#deps
    if (needs.size === 0) return new Map()
    const above = Math.max(0, ...Array.from(needs, (ref) => this.minToken(ref)))
    try {
      return await locks.tryAcquireMany([...needs], { above, progress_ms })
    } catch (error) {
      log.warn({ error }, 'leases on further resources could not be requested')
      return new Map()
    }
  }

  /**
   * Commits the pending rows, and bisects the batch if a bad row makes it fail. Returns the rows that could not be
   * decided yet.
   */
  async #commitOrBisect(
    items: readonly QueueItem[],
    resources: ReadonlyMap<QueueItem, string[]>,
    round: Round,
    collided = false,
  ): Promise<QueueItem[]> {
    try {
      return await this.#commit(items, round.tokens(items, resources), () => round.progress())
    } catch (error) {
      if (!(error instanceof UnprocessableError || isDataError(error))) throw error
      const [first] = items
      if (items.length === 1 && first) {
        // Decide once more: the row that conflicts was committed by another writer, so now the decision reads and names it.
        if (isConstraintConflict(error) && !collided) return await this.#commitOrBisect(items, resources, round, true)
        await this.#quarantine(first, error)
        return []
      }
      // The whole batch was rolled back: settle its halves in order, until the bad row is alone in its batch.
      const half = Math.ceil(items.length / 2)
      const first_half = await this.#commitOrBisect(items.slice(0, half), resources, round)
      return [...first_half, ...(await this.#commitOrBisect(items.slice(half), resources, round))]
    }
  }

  /** Commits the rows under these tokens and publishes the decision. Returns the rows that could not be decided yet. */
  async #commit(
    items: readonly QueueItem[],
    tokens: ReadonlyMap<string, number>,
    onProgress: () => void,
  ): Promise<QueueItem[]> {
    const { client, database, accept_ms } = this.#deps
    const attempt = () =>
      database
        .run(async (signal) => {
          const decision = await settle(client, items, tokens, accept_ms, signal)
          publish(this.#deps, items, decision)
          return decision
        })
        .finally(onProgress)
    // Retry once after a broken connection, with the same tokens. If another holder has written meanwhile, the database
    // rejects the transaction, and #rejectOrRetry counts the stale write.
    const decision = await attempt().catch((error) => (isDatabaseAnswer(error) ? Promise.reject(error) : attempt()))
    for (const ref of tokens.keys()) this.#minTokens.delete(ref)
    const skipped = new Set(decision.skipped.map(idOf))
    return items.filter((item) => skipped.has(idOf(item)))
  }

  async #quarantine(item: QueueItem, error: unknown): Promise<void> {
    const { client, log, notify } = this.#deps
    const id = idOf(item)
    log.error({ row: rowOf(item).id, resource: rowOf(item).queue, error }, 'row is unprocessable: quarantining it')
    try {
      await quarantine(client, item, error)
      notify([id])
    } catch (failure) {
      if (!isDataError(failure)) throw failure
      this.#unwritable.add(id)
      log.error({ row: rowOf(item).id, error: failure }, 'row cannot be quarantined: it stays queued')
    }
  }

  #rejectOrRetry(requests: readonly PendingRequest[], error: unknown): void {
    const { log, onStaleWrite } = this.#deps
    const stale = error instanceof StaleLeaseError ? error.stored : new Map<string, number>()
    for (const [resource, fencing_token] of stale) {
      onStaleWrite()
      this.#minTokens.set(resource, fencing_token)
      log.warn({ resource, fencing_token, error }, 'lease superseded by a newer token: nothing was written')
    }
    const retry = error instanceof StaleLeaseError || error instanceof ChangedRowError
    for (const request of requests) {
      if (retry && !stale.has(request.queue) && ++request.tries < TRIES) this.#enqueue(request)
      else request.reject(error)
    }
  }
}

/** The leases of one round: the leases of its batch requests, and the extra leases that the round itself has acquired. */
class Round {
  extras: ReadonlyMap<string, Lease> = new Map()
  readonly #requests: readonly PendingRequest[]
  readonly #leases: ReadonlyMap<string, Lease>

  constructor(requests: readonly PendingRequest[]) {
    this.#requests = requests
    this.#leases = new Map(requests.flatMap(({ queue, lease, extras }) => [[queue, lease] as const, ...extras]))
  }

  /** Reports progress on each lease of the round, after a step of the round. */
  progress(): void {
    for (const request of this.#requests) {
      request.onProgress()
      for (const lease of request.extras.values()) lease.progress()
    }
    for (const lease of this.extras.values()) lease.progress()
  }

  /** Returns the resources without a lease. */
  missing(needs: Iterable<readonly string[]>): Set<string> {
    return new Set([...needs].flat().filter((ref) => !this.#leases.has(ref)))
  }

  /** Returns in `able`, in order, the pending rows whose leases are all held, and in `missed` the other rows. */
  partition(resources: ReadonlyMap<QueueItem, string[]>) {
    const able: QueueItem[] = []
    const missed = new Set<QueueItem>()
    for (const [item, needs] of resources) {
      if (needs.every((ref) => this.#leaseOn(ref))) able.push(item)
      else missed.add(item)
    }
    return { able, missed }
  }

  /** Returns the fencing tokens of the resources that the settlement of these rows may write. */
  tokens(items: readonly QueueItem[], resources: ReadonlyMap<QueueItem, string[]>): Map<string, number> {
    const tokens = new Map<string, number>()
    for (const item of items) {
      for (const ref of resources.get(item) ?? []) tokens.set(ref, this.#leaseOn(ref)?.token ?? 0)
    }
    return tokens
  }

  #leaseOn(ref: string): Lease | undefined {
    return this.extras.get(ref) ?? this.#leases.get(ref)
  }
}

/** Returns the error of a lease that is no longer valid, or undefined while it is valid. */
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
