/**
 * The queue of one table, purchases or bookings: enqueues a row or a command, and waits until it is settled. Invariant: the
 * API inserts queued rows, and cancels those whose insert it could not acknowledge (intake.ts); workers decide every other
 * outcome, and the API reads a settled row after its commit.
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
  /** the resource in whose queue the row is */
  queue: string
  status: string
  /** its hold is over by the database's clock, but its status does not say so yet */
  overdue: boolean
  /** a worker has decided the row, and the charge of its card is in progress */
  charging: boolean
}

/** Returns true if the row is not settled for a caller, who waits for the charge of the card too. */
export const isPending = ({ status, charging }: QueuedRow) => status === 'queued' || charging

/** Returns the status that a client sees. */
export const statusNow = <Row extends Pick<QueuedRow, 'status' | 'overdue'>>({
  status,
  overdue,
}: Row): Row['status'] | 'expired' => (overdue ? 'expired' : status)

/** The row that a request queued, or the row of an earlier request with its key. waitUntilSettled ends the `watch`. */
export type Submitted = (Enqueued & { watch: Watch | undefined }) | Replayed

/** A command of a request. */
export interface Command {
  action: string
  /** true if the command pays, with its payment or with the payment of the row */
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
  /**
   * The worker rejected the command because of the row's status, `observed_status`, or for another `reason`; or the API did
   * not queue it, because neither this status nor a later one can allow it.
   */
  | { status: 'rejected'; reason: string; observed_status: string }
  /** the card charge of the command failed; the row keeps its units or its time until its hold expires */
  | { status: 'unpaid'; reason: 'payment_declined' | 'payment_unavailable' }
)
export type CommandFailure<Row> = Extract<CommandResult<Row>, { status: 'rejected' | 'unpaid' }>

export interface QueueParts<Row, Input extends QueuedRowInput> {
  noun: 'purchase' | 'booking'
  /** builds the row of an input that no worker has settled yet */
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

  /** Reads the row. @throws Problem 404 */
  async readOne(id: string): Promise<Row> {
    const row = await this.#reader.findById(id)
    if (!row) throw new Problem(404, 'not_found', `There is no ${this.noun} ${id}.`)
    return row
  }

  /** Runs a statement that selects rows of this table, such as a page of a list, and returns the rows. */
  findAll(statement: Statement<Row>, values: Readonly<Record<string, unknown>>): Promise<Row[]> {
    return this.#reader.findAll(statement, values)
  }

  /**
   * Commits the row, or finds the row of an earlier request with the same key. If `watched` is true, the caller must call
   * waitUntilSettled afterwards.
   */
  async enqueue(input: Input, watched: boolean): Promise<Submitted> {
    // Begin to watch before the row is inserted, so that no notice arrives too early.
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

  /** Waits until the row is settled or wait_ms have passed, and returns it; undefined if Postgres does not answer. */
  async waitUntilSettled({ id, watch }: Submitted & Enqueued, wait_ms: number): Promise<Row | undefined> {
    try {
      await watch?.wait(wait_ms)
      return await this.readOne(id)
    } catch (error) {
      // The row is committed, even if Postgres is away now: a client that got 503 would buy a second time.
      if (error instanceof UnavailableError) return undefined
      throw error
    } finally {
      watch?.stop()
    }
  }

  /** Returns the row of an earlier request: at once if it is settled, otherwise after a wait of at most wait_ms. */
  async waitForEarlier(id: string, wait_ms: number): Promise<Row> {
    return await this.#waitWhile(id, isPending, wait_ms)
  }

  /**
   * Watches the row and then reads it. While `unsettled` is true, waits for at most wait_ms and reads the row again. The order
   * matters: a watch that began after the read could miss the notice.
   */
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
   * Queues a command behind the earlier rows in the queue of its subject. Waits, for at most its wait_ms, until the command
   * and the charge that it begins have ended. `mayStill`: whether the present status of the row, or a later one, can allow the
   * command; if not, the command is not queued.
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
    // Begin to watch before the command is inserted, so that no notice arrives too early.
    let watch = this.#waiter.watch(earlier ?? id)
    try {
      const { queue } = subject
      const command_id = earlier ?? (await this.#commands.insert({ id, queue, subject: subject.id, ...command }))
      const replayed = command_id !== id
      if (replayed) {
        // Another request with this key has already inserted its command: wait for that command.
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
    // Watch the row only now. Until a worker had executed the command, no charge was in progress and the row counted as
    // settled, so the waiter would have ended an earlier watch at its next poll.
    const row = await this.#waitWhile(subject.id, (one) => one.charging, left_ms)
    const failed = pays ? await this.#commands.failedCharge(command, row.id) : undefined
    if (failed !== undefined) {
      const reason = failed === 'declined' ? ('payment_declined' as const) : ('payment_unavailable' as const)
      return { status: 'unpaid' as const, reason, row }
    }
    return row.charging ? { status: 'pending' as const, row } : { status: 'done' as const, row }
  }
}
