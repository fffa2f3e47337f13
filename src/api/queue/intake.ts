/**
 * Group commit of purchases and of bookings: requests that arrive together share one INSERT. Invariants: a row is
 * acknowledged after its commit, never before; flushes of a table run one at a time under one advisory lock of the
 * database, so the order of seq is also the order of commits, and no worker sees a row before an earlier row of the same
 * queue, whichever API processes inserted them.
 */
import { randomUUID } from 'node:crypto'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import { openDb } from '../../shared/db/client.ts'
import { isDataError } from '../../shared/db/errors.ts'
import type { Log } from '../../shared/log.ts'
import { Problem, stopping } from '../../shared/problem.ts'
import {
  cancelRows,
  type EnqueueResult,
  type IntakeName,
  insertRows,
  type QueuedRowInput,
  TERMINATE_MS,
  terminateSql,
} from './intake-rows.ts'

interface PendingInsert<Row> {
  row: Row
  resolve(result: EnqueueResult): void
  reject(error: unknown): void
}

/**
 * Maximum number of requests that wait for the next INSERT, about a second's worth. Further ones would time out, so they get
 * 503.
 */
const BUFFER = 10_000
/** Maximum number of rows in one INSERT. */
const ROWS_PER_FLUSH = 1_000
/** Time limit of one flush, in milliseconds, so that a caller gets 503 within two seconds when the database is away. */
export const FLUSH_MS = 1_500
/**
 * Limit for idle transactions, in milliseconds; openDb requires one. Each statement of the intake is a transaction of its own,
 * which is never idle.
 */
const IDLE_MS = 1_000

export interface IntakeOptions {
  database_url: string
  breaker: Pick<Breaker, 'run'>
  log: Log
  nudge(resources: Iterable<string>): void
}

export class Intake<Row extends QueuedRowInput> {
  readonly #name: IntakeName
  readonly #options: IntakeOptions
  #db: Session
  #buffer: PendingInsert<Row>[] = []
  #flushing: Promise<void> | undefined
  #closed = false

  constructor(name: IntakeName, options: IntakeOptions) {
    this.#name = name
    this.#options = options
    this.#db = connect(options.database_url)
  }

  /**
   * Queues the row for the next INSERT; resolves after its commit.
   * @throws UnavailableError, or Problem 503 when the buffer is full
   */
  enqueue(row: Row): Promise<EnqueueResult> {
    if (this.#closed) return Promise.reject(stopping())
    if (this.#buffer.length >= BUFFER) {
      const detail = `Too many ${this.#name} are waiting to be written.`
      return Promise.reject(new Problem(503, 'overloaded', detail, { retry_after: 1 }))
    }
    return new Promise((resolve, reject) => {
      this.#buffer.push({ row, resolve, reject })
      // Requests that the event loop has already received join this flush.
      this.#flushing ??= new Promise((go) => setImmediate(go)).then(() => this.#flush())
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#flushing
    await this.#db.close()
  }

  async #flush(): Promise<void> {
    while (this.#buffer.length > 0) {
      const batch = this.#buffer.splice(0, ROWS_PER_FLUSH)
      try {
        await this.#insert(batch)
      } catch (error) {
        // The requests that are still in the buffer would most likely time out too: reject them now, instead of after one
        // more timeout per flush.
        const behind = this.#buffer
        this.#buffer = []
        for (const waiting of [...batch, ...behind]) waiting.reject(error)
        this.#options.log.warn({ error, [this.#name]: batch.length + behind.length }, 'intake failed')
      }
    }
    this.#flushing = undefined
  }

  async #insert(batch: PendingInsert<Row>[]): Promise<void> {
    const { breaker, nudge } = this.#options
    try {
      const results = await breaker.run(() =>
        insertRows(
          this.#db.client,
          this.#name,
          batch.map(({ row }) => row),
        ),
      )
      batch.forEach((waiting, i) => {
        const result = results[i]
        if (result) waiting.resolve(result)
        else waiting.reject(new Error('insertRows returned no result for this row'))
      })
      nudge(new Set(batch.flatMap(({ row }, i) => (results[i]?.replayed === false ? [row.queue] : []))))
    } catch (error) {
      if (isDataError(error)) return await this.#insertApart(batch, error)
      // If the breaker was open (`attempted` is false), nothing was sent to Postgres, so nothing can commit later.
      if (error instanceof UnavailableError && error.attempted && !this.#closed) this.#replaceSession(batch)
      throw error
    }
  }

  /** Inserts the rows one by one, and rejects only the request whose row Postgres refuses. */
  async #insertApart(batch: PendingInsert<Row>[], error: unknown): Promise<void> {
    const [only] = batch
    if (batch.length === 1 && only) {
      this.#options.log.error({ error, row: only.row }, 'Postgres refused a row that passed validation')
      only.reject(new Problem(400, 'invalid_request', 'The database cannot store this request.'))
    } else {
      for (const waiting of batch) await this.#insert([waiting])
    }
  }

  #replaceSession(batch: PendingInsert<Row>[]): void {
    const old = this.#db
    this.#db = connect(this.#options.database_url)
    // The pending flush was rejected already, so nothing awaits the old session any more.
    void old.client.end({ timeout: 0 }).catch(() => {})
    const keyless = batch.filter(({ row }) => row.idempotency_key === null).map(({ row }) => row.id)
    void this.#cancelUnacknowledged(keyless, old.session)
  }

  /**
   * Cancels the rows of a flush whose response was lost. The flush may have committed, or may hang at its lock, its fsync or
   * in the network, and its callers got 503. This first terminates the session of the flush, so that it cannot commit later.
   * Then it cancels the rows that are still queued, usually before a worker sees them: the API has not nudged their queues, so
   * only the sweeper would find them, after a second, or the worker of a hot queue, at its next poll. Rows with an idempotency
   * key stay, because a retry after the 503 finds them.
   */
  async #cancelUnacknowledged(ids: string[], session: string): Promise<void> {
    const { database_url, log } = this.#options
    const rescue = openDb(database_url, {
      max: 1,
      name: 'holdfast-withdraw',
      idle_in_transaction_ms: IDLE_MS,
      statement_ms: 2 * TERMINATE_MS,
    })
    for (let attempt = 0; attempt < 300 && !this.#closed; attempt++) {
      try {
        const [still] = await terminateSql(rescue.client, { session })
        if (still?.n !== 0) continue
        const found = await cancelRows(rescue.client, this.#name, ids)
        if (found.length > 0) {
          log.warn({ [this.#name]: found.length }, 'unacknowledged rows cancelled')
          log.debug({ [this.#name]: found.map((row) => row.id) }, 'unacknowledged rows cancelled, with their ids')
        }
        break
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
    await rescue.close().catch(() => {})
  }
}

type Session = ReturnType<typeof connect>

function connect(database_url: string) {
  // A unique name, so that terminateSql can find this session after a timeout.
  const session = `holdfast-intake ${randomUUID()}`
  return { session, ...openDb(database_url, { max: 1, name: session, idle_in_transaction_ms: IDLE_MS }) }
}
