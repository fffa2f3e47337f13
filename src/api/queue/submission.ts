/**
 * HTTP flow shared by purchases and bookings: enqueue (202), Prefer: wait, idempotent replay, commands. Invariant: the API
 * only inserts queued rows; workers decide their outcome, and every answer about a settled row is read from its committed
 * row.
 */
import { createHash } from 'node:crypto'
import { sql } from 'drizzle-orm'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import { type Client, query, transaction } from '../../shared/db/client.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { newId } from '../../shared/ids.ts'
import { Problem, reusedKey } from '../../shared/problem.ts'
import { idempotencyKey, idempotencyScope, preferredWait } from '../http/headers.ts'
import { REPLAYED } from '../http/responses.ts'
import type { EnqueueResult, Intake, QueuedRowInput } from './intake.ts'
import type { RowReader } from './row-reader.ts'
import type { SettlementWaiter } from './settlement-waiter.ts'

/** Milliseconds to wait for a command to be settled, without `Prefer: wait`. */
const COMMAND_WAIT_MS = 10_000
/** Seconds after which a client should poll a queued row. */
const RETRY_AFTER_S = 1

export interface SubmissionDeps {
  client: Client
  waiter: SettlementWaiter
  nudge(resources: Iterable<string>): void
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

interface QueuedRow {
  id: string
  queue: string
  status: string
}

/** How rows of one table are read, answered and commanded. */
export interface SubmissionHandlers<Row extends QueuedRow, Input extends QueuedRowInput, Command extends string> {
  noun: 'purchase' | 'booking'
  reader: RowReader<Row>
  intake: Intake<Input>
  /** the row as it was just queued */
  asQueued(input: Input, result: EnqueueResult & { replayed: false }): Row
  toResponse(row: Row): object & { status: string }
  /** the body of the 201 for a settled row. @throws Problem when it was rejected or failed */
  outcome(row: Row): Promise<object>
  /** it has left the queue and its card charge is in progress: not settled yet */
  isCharging(row: Row): boolean
  /** the body of the 200 for an executed command. @throws Problem when its charge failed later */
  commandOutcome(command: Command, row: Row): Promise<object>
  /** the command that can carry a payment */
  payingCommand: Command
  /** the 402 of a command whose charge failed; its units or time are still held, or were until the hold expired */
  paymentFailed(code: string, row: Row): Problem
  /** @throws Problem wrong_status when neither the present nor a later status of the row allows the command */
  assertAllowed(command: Command, row: Row): void
  /** the 409 of a command that the worker rejected, with the status in which it found the row */
  commandRejected(command: Command, code: string, status: string, row: Row): Problem
}

/** Codes of a failed payment: 402. */
export const PAYMENT_FAILURES: ReadonlySet<string> = new Set(['payment_declined', 'payment_unavailable'])

/** Codes of purchases and bookings with which a command is refused for its payment, although the status allows it. */
export const PAYMENT_REFUSALS: Readonly<Record<string, string>> = {
  payment_in_progress:
    'Another card charge is in progress: either it succeeds, or you can pay again after it has failed.',
  payment_conflict: 'It is paid from the wallet given at creation, where the money is already reserved.',
  unknown_resource: 'The wallet does not exist.',
  currency_mismatch: 'The wallet has another currency.',
  limit: 'The payment exceeds the limit per customer of the wallet.',
}

/** The columns by which one Idempotency-Key creates one row; null or empty without the header. */
export function idempotencyColumns(request: FastifyRequest, route: string, body: object) {
  const idempotency_key = idempotencyKey(request)
  const has = idempotency_key !== null
  return {
    idempotency_key,
    idempotency_scope: has ? idempotencyScope(request, route) : '',
    request_hash: has ? createHash('sha256').update(JSON.stringify(body)).digest('base64url') : null,
  }
}

const json = (value: object | null) => (value === null ? null : JSON.stringify(value))

const accepted = (reply: FastifyReply, body: object) => reply.code(202).header('retry-after', RETRY_AFTER_S).send(body)

export function createSubmission<Row extends QueuedRow, Input extends QueuedRowInput, Command extends string>(
  { client, waiter, nudge, viaBreaker }: SubmissionDeps,
  handlers: SubmissionHandlers<Row, Input, Command>,
) {
  const { noun, reader, intake, toResponse } = handlers
  const column = sql.raw(`${noun}_id`)
  const isPending = (row: Row) => row.status === 'queued' || handlers.isCharging(row)

  async function readOne(id: string): Promise<Row> {
    const row = await reader.findById(id)
    if (!row) throw new Problem(404, 'not_found', `There is no ${noun} ${id}.`)
    return row
  }

  /** 202 while the row is pending, else its outcome. */
  async function respond(reply: FastifyReply, row: Row): Promise<FastifyReply> {
    if (isPending(row)) return accepted(reply, toResponse(row))
    return reply.code(201).send(await handlers.outcome(row))
  }

  /** Queues the row and responds, at once or, with `Prefer: wait`, when it is settled. */
  async function enqueueAndRespond(request: FastifyRequest, reply: FastifyReply, input: Input): Promise<FastifyReply> {
    const wait_s = preferredWait(request)
    if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
    const watch = wait_s === undefined ? undefined : waiter.watch(input.id)
    try {
      const result = await intake.enqueue(input)
      if (result.replayed && !result.same_body) throw reusedKey()
      reply.header('location', `/api/${noun}s/${result.id}`)
      if (result.replayed) return await replay(reply, result.id, wait_s)
      if (watch && wait_s !== undefined) {
        await watch.wait(wait_s * 1000)
        // The row is committed, even if Postgres is away now: after a 503 the client would buy it twice.
        const settled = await readOne(input.id).catch((error) => {
          if (error instanceof UnavailableError) return undefined
          throw error
        })
        if (settled) return await respond(reply, settled)
      }
      return accepted(reply, toResponse(handlers.asQueued(input, result)))
    } finally {
      watch?.stop()
    }
  }

  async function replay(reply: FastifyReply, id: string, wait_s: number | undefined): Promise<FastifyReply> {
    reply.header(REPLAYED, 'true')
    if (wait_s === undefined) return accepted(reply, toResponse(await readOne(id)))
    const watch = waiter.watch(id)
    try {
      const row = await readOne(id)
      if (!isPending(row)) return await respond(reply, row)
      await watch.wait(wait_s * 1000)
      return await respond(reply, await readOne(id))
    } finally {
      watch.stop()
    }
  }

  /** Queues a command behind earlier rows of its subject's queue, and responds when it is settled. */
  async function submitCommand(
    command: Command,
    request: FastifyRequest,
    subject: string,
    reply: FastifyReply,
    payment: Payment | null = null,
  ) {
    const wait_s = preferredWait(request)
    const key = idempotencyKey(request)
    const scope = key === null ? '' : idempotencyScope(request, `${command} ${subject}`)
    const row = await readOne(subject)
    if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
    const id = newId()
    const earlier = key === null ? undefined : await findCommand(key, scope, payment)
    // Refused at once if no later status of the row can allow the command: it need not be queued.
    if (!earlier) handlers.assertAllowed(command, row)
    const started_ms = performance.now()
    const wait_ms = wait_s === undefined ? COMMAND_WAIT_MS : wait_s * 1000
    let watch = waiter.watch(earlier ?? id)
    try {
      const command_id =
        earlier ?? (await insertCommand({ id, queue: row.queue, subject, command, payment, key, scope }))
      let settled = false
      if (command_id !== id) {
        reply.header(REPLAYED, 'true')
        // A request with this key has already inserted its command: wait for that one.
        watch.stop()
        watch = waiter.watch(command_id)
        settled = (await commandState(command_id)).status !== 'queued'
      }
      if (!settled) await watch.wait(wait_ms)
      const { status, observed_status, reason } = await commandState(command_id)
      if (status === 'rejected') {
        throw handlers.commandRejected(command, reason ?? '', observed_status ?? row.status, await readOne(subject))
      }
      const left_ms = Math.max(0, wait_ms - (performance.now() - started_ms))
      if (status !== 'done') return accepted(reply, toResponse(await readOne(subject)))
      const after = await waitForCharge(subject, left_ms)
      const failure = command === handlers.payingCommand ? await chargeFailure(command_id, after) : undefined
      if (failure !== undefined) throw handlers.paymentFailed(failure, after)
      if (handlers.isCharging(after)) return accepted(reply, toResponse(after))
      return reply.code(200).send(await handlers.commandOutcome(command, after))
    } finally {
      watch.stop()
    }
  }

  /** The row once its card charge has ended, or after wait_ms. */
  async function waitForCharge(id: string, wait_ms: number): Promise<Row> {
    // Watched only now: before the command was executed the row counted as settled, so an earlier watch would end at once.
    const watch = waiter.watch(id)
    try {
      const row = await readOne(id)
      if (!handlers.isCharging(row)) return row
      await watch.wait(wait_ms)
      return await readOne(id)
    } finally {
      watch.stop()
    }
  }

  /**
   * The code of the failed charge that the command began or joined; undefined when it has not failed, or there was none. It
   * is the first failed attempt settled after the command: until it ends, no other charge can begin.
   */
  async function chargeFailure(command: string, row: Row): Promise<string | undefined> {
    const [charge] = await viaBreaker(() =>
      query<{ status: string }>(
        client,
        sql`SELECT a.status FROM charges a JOIN commands c ON c.${column} = a.${column}
            WHERE c.id = ${command} AND a.${column} = ${row.id} AND a.kind = 'attempt' AND a.settled_at > c.settled_at
            ORDER BY a.settled_at LIMIT 1`,
      ),
    )
    return charge && (charge.status === 'declined' ? 'payment_declined' : 'payment_unavailable')
  }

  /** @throws Problem idempotency_key_reused when the key was used with another payment */
  async function findCommand(key: string, scope: string, payment: Payment | null): Promise<string | undefined> {
    const [row] = await viaBreaker(() =>
      query<{ id: string; same: boolean }>(
        client,
        sql`SELECT id, payment IS NOT DISTINCT FROM ${json(payment)}::jsonb AS same
            FROM commands WHERE idempotency_key = ${key} AND idempotency_scope = ${scope}`,
      ),
    )
    if (row && !row.same) throw reusedKey()
    return row?.id
  }

  /**
   * Queues the command; returns the id of an earlier one with the same key, if there is one. In a transaction, so that
   * after a 503 the command is not committed later.
   */
  async function insertCommand(c: {
    id: string
    queue: string
    subject: string
    command: Command
    payment: Payment | null
    key: string | null
    scope: string
  }): Promise<string> {
    const insert = sql`
      INSERT INTO commands (id, queue, ${column}, action, payment, idempotency_key, idempotency_scope)
      VALUES (${c.id}, ${c.queue}, ${c.subject}, ${c.command}, ${json(c.payment)}::jsonb, ${c.key}, ${c.scope})
      ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
      RETURNING id`
    const inserted = await viaBreaker((signal) => transaction(client, signal, (tx) => query(tx, insert)))
    nudge([c.queue])
    if (inserted.length > 0 || c.key === null) return c.id
    return (await findCommand(c.key, c.scope, c.payment)) ?? c.id
  }

  async function commandState(id: string) {
    const [row] = await viaBreaker(() =>
      query<{ status: 'queued' | 'done' | 'rejected'; observed_status: string | null; reason: string | null }>(
        client,
        sql`SELECT status, observed_status, reason FROM commands WHERE id = ${id}`,
      ),
    )
    return row ?? { status: 'queued' as const, observed_status: null, reason: null }
  }

  return { readOne, enqueueAndRespond, submitCommand }
}
