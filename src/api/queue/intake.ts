/**
 * Group commit of purchases and of bookings: requests that arrive together share one INSERT. Invariants: a row is
 * acknowledged after its commit, never before; flushes of a table run one at a time under one advisory lock of the
 * database, so that seq is the order of commit too and no worker sees a row before an earlier one of its queue, whichever
 * API process inserted them.
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

/** Most requests that wait for the next INSERT: about a second's worth; more would time out, so they get 503. */
const BUFFER = 10_000
/** Rows in one INSERT. */
const ROWS_PER_FLUSH = 1_000
/** Milliseconds for one flush, so that a caller gets 503 within two seconds when the database is away. */
export const FLUSH_MS = 1_500
/** Milliseconds after which the server ends a transaction whose API process stopped. */
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

  /** Resolves after the commit. @throws UnavailableError, or Problem 503 when the buffer is full */
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
        // Requests behind this flush have waited as long: reject them now, instead of after one timeout each.
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
        else waiting.reject(new Error('an INSERT returned fewer rows than it was given'))
      })
      nudge(new Set(batch.flatMap(({ row }, i) => (results[i]?.replayed === false ? [row.queue] : []))))
    } catch (error) {
      if (isDataError(error)) return await this.#insertApart(batch, error)
      // With an open breaker nothing was sent.
      if (error instanceof UnavailableError && error.attempted && !this.#closed) this.#replaceSession(batch)
      throw error
    }
  }

  /** Rejects the row that Postgres refused: the others are inserted one by one. */
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
    // Its result is no longer awaited.
    void old.client.end({ timeout: 0 }).catch(() => {})
    const keyless = batch.filter(({ row }) => row.idempotency_key === null).map(({ row }) => row.id)
    void this.#cancelUnacknowledged(keyless, old.session)
  }

  /**
   * A flush whose response was lost may have committed, or may hang at its lock, its fsync or in the network, and its callers
   * got 503. Its session is terminated first, so that it cannot commit later. Then its rows are cancelled, usually before a
   * worker sees them: they were not nudged, so the sweeper finds them after a second. Rows with an idempotency key stay: a
   * retry after the 503 finds them.
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
  // A unique name, by which the session is found and terminated after a timeout.
  const session = `holdfast-intake ${randomUUID()}`
  return { session, ...openDb(database_url, { max: 1, name: session, idle_in_transaction_ms: IDLE_MS }) }
}
