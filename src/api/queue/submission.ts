/**
 * The queue of one table, purchases or bookings: enqueue a row or a command, and wait until it is settled. Invariant: the API
 * only inserts queued rows; workers decide their outcome, and every settled row is read from Postgres after its commit.
 */
import { UnavailableError } from '../../shared/breaker.ts'
import type { Statement } from '../../shared/db/statements.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { newId } from '../../shared/ids.ts'
import { Problem } from '../../shared/problem.ts'
import type { CommandRows } from './command-rows.ts'
import type { Intake } from './intake.ts'
import type { Enqueued, QueuedRowInput, Replayed } from './intake-rows.ts'
import type { RowReader } from './row-reader.ts'
import type { SettlementWaiter, Watch } from './settlement-waiter.ts'

export interface QueuedRow {
  id: string
  /** the resource in whose queue it is */
  queue: string
  status: string
  /** it has expired, and its row does not say so yet */
  overdue: boolean
  /** its card charge is in progress: it has left the queue, and is not settled yet */
  charging: boolean
}

export const isPending = ({ status, charging }: QueuedRow) => status === 'queued' || charging

/** The status that a client sees. */
export const statusNow = <Row extends QueuedRow>({ status, overdue }: Row): Row['status'] | 'expired' =>
  overdue ? 'expired' : status

/** A row of this request; `watch` ends with waitUntilSettled. */
export type Submitted = (Enqueued & { watch: Watch | undefined }) | Replayed

/** A command of a request. */
export interface Command {
  action: string
  /** it pays, with the payment of the command or of the row */
  pays: boolean
  payment: Payment | null
  idempotency_key: string | null
  idempotency_scope: string
  wait_ms: number
}

export type CommandResult<Row> = {
  row: Row
  /** an earlier request with this key had queued the command */
  replayed: boolean
} & (
  | { status: 'done' }
  | { status: 'pending' }
  /** the worker rejected it in this status of the row; or no later status can allow it either, and it was not queued */
  | { status: 'rejected'; reason: string; observed_status: string }
  /** its card charge failed; the units or the time are still held, or were until the hold expired */
  | { status: 'unpaid'; reason: 'payment_declined' | 'payment_unavailable' }
)
export type CommandFailure<Row> = Extract<CommandResult<Row>, { status: 'rejected' | 'unpaid' }>

export interface QueueParts<Row, Input extends QueuedRowInput> {
  noun: 'purchase' | 'booking'
  /** the row of an input that no worker has settled yet */
  asQueued(input: Input, enqueued: Enqueued): Row
  intake: Pick<Intake<Input>, 'enqueue'>
  reader: RowReader<Row>
  waiter: Pick<SettlementWaiter, 'watch'>
  commands: CommandRows
}

export class RowQueue<Row extends QueuedRow, Input extends QueuedRowInput> {
  readonly noun: 'purchase' | 'booking'
  readonly asQueued: (input: Input, enqueued: Enqueued) => Row
  readonly #intake: Pick<Intake<Input>, 'enqueue'>
  readonly #reader: RowReader<Row>
  readonly #waiter: Pick<SettlementWaiter, 'watch'>
  readonly #commands: CommandRows

  constructor({ noun, asQueued, intake, reader, waiter, commands }: QueueParts<Row, Input>) {
    this.noun = noun
    this.asQueued = asQueued
    this.#intake = intake
    this.#reader = reader
    this.#waiter = waiter
    this.#commands = commands
  }

  /** @throws Problem 404 */
  async readOne(id: string): Promise<Row> {
    const row = await this.#reader.findById(id)
    if (!row) throw new Problem(404, 'not_found', `There is no ${this.noun} ${id}.`)
    return row
  }

  /** The rows of a statement of its own columns. */
  findAll(statement: Statement<Row>, values: Readonly<Record<string, unknown>>): Promise<Row[]> {
    return this.#reader.findAll(statement, values)
  }

  /** Commits the row, or finds the one of an earlier request with its key. If it is watched, waitUntilSettled must follow. */
  async enqueue(input: Input, watched: boolean): Promise<Submitted> {
    // Before the row is inserted, so that no notice arrives too early.
    const watch = watched ? this.#waiter.watch(input.id) : undefined
    try {
      const result = await this.#intake.enqueue(input)
      if (!result.replayed) return { ...result, watch }
      watch?.stop()
      return result
    } catch (error) {
      watch?.stop()
      throw error
    }
  }

  /** The row of a request that is watched, once it is settled or wait_ms have passed; undefined when Postgres is away. */
  async waitUntilSettled({ id, watch }: Submitted & Enqueued, wait_ms: number): Promise<Row | undefined> {
    try {
      await watch?.wait(wait_ms)
      return await this.readOne(id)
    } catch (error) {
      // The row is committed, even if Postgres is away now: after a 503 the client would buy it twice.
      if (error instanceof UnavailableError) return undefined
      throw error
    } finally {
      watch?.stop()
    }
  }

  /** The row of an earlier request, at once if it is settled. */
  async waitForEarlier(id: string, wait_ms: number): Promise<Row> {
    return await this.#waitWhile(id, isPending, wait_ms)
  }

  /** Watches the row, reads it, and waits and reads it again if it is in that state: in this order no notice is missed. */
  async #waitWhile(id: string, unsettled: (row: Row) => boolean, wait_ms: number): Promise<Row> {
    const watch = this.#waiter.watch(id)
    try {
      const row = await this.readOne(id)
      if (!unsettled(row)) return row
      await watch.wait(wait_ms)
      return await this.readOne(id)
    } finally {
      watch.stop()
    }
  }

  /**
   * Queues a command behind earlier rows of the queue of its subject, and waits until it is settled, with the charge that it
   * begins. `mayStill`: the present or a later status of the row can allow it; otherwise it need not be queued.
   */
  async submitCommand(subject: Row, command: Command, mayStill: boolean): Promise<CommandResult<Row>> {
    const { idempotency_key: key, idempotency_scope: scope, payment, wait_ms } = command
    const earlier = key === null ? undefined : await this.#commands.find(key, scope, payment)
    if (!earlier && !mayStill) {
      return {
        status: 'rejected',
        reason: 'wrong_status',
        observed_status: statusNow(subject),
        row: subject,
        replayed: false,
      }
    }
    const until_ms = performance.now() + wait_ms
    const id = newId()
    // Before the command is inserted, so that no notice arrives too early.
    let watch = this.#waiter.watch(earlier ?? id)
    try {
      const { queue } = subject
      const command_id = earlier ?? (await this.#commands.insert({ id, queue, subject: subject.id, ...command }))
      const replayed = command_id !== id
      if (replayed) {
        // A request with this key has already inserted its command: wait for that one.
        watch.stop()
        watch = this.#waiter.watch(command_id)
      }
      if (!replayed || (await this.#commands.state(command_id)).status === 'queued') await watch.wait(wait_ms)
      return { ...(await this.#commandResult(command_id, subject, command.pays, until_ms)), replayed }
    } finally {
      watch.stop()
    }
  }

  async #commandResult(command: string, subject: Row, pays: boolean, until_ms: number) {
    const { status, observed_status, reason } = await this.#commands.state(command)
    if (status === 'queued') return { status: 'pending' as const, row: await this.readOne(subject.id) }
    if (status === 'rejected') {
      const found = observed_status ?? subject.status
      return { status, reason: reason ?? '', observed_status: found, row: await this.readOne(subject.id) }
    }
    const left_ms = Math.max(0, until_ms - performance.now())
    // Watched only now: before the command was executed the row counted as settled, so an earlier watch would end at once.
    const row = await this.#waitWhile(subject.id, (one) => one.charging, left_ms)
    const failed = pays ? await this.#commands.failedCharge(command, row.id) : undefined
    if (failed !== undefined) {
      const reason = failed === 'declined' ? ('payment_declined' as const) : ('payment_unavailable' as const)
      return { status: 'unpaid' as const, reason, row }
    }
    return row.charging ? { status: 'pending' as const, row } : { status: 'done' as const, row }
  }
}
