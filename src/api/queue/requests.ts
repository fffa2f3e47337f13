/**
 * The HTTP side of a queue, for purchases and bookings alike: Prefer, Idempotency-Key and the headers of 202. Invariant:
 * errors before the row is committed become problem responses; once it is committed, an outage is answered with 202.
 */
import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type, { type TSchema } from 'typebox'
import type { Payment } from '../../shared/domain/charge.ts'
import { type Problem, reusedKey } from '../../shared/problem.ts'
import { idempotencyKey, idempotencyScope, Key, preferredWait } from '../http/headers.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import { IdParams } from '../http/schemas.ts'
import type { QueuedRowInput } from './intake-rows.ts'
import { PayingSchema } from './payment-request.ts'
import { type CommandResult, isPending, type QueuedRow, type RowQueue } from './submission.ts'

/** Milliseconds to wait for a command to be settled, without `Prefer: wait`. */
const COMMAND_WAIT_MS = 10_000
/** Seconds after which a client should poll a queued row. */
const RETRY_AFTER_S = 1

/** Returns the columns that make an Idempotency-Key unique; they are null or empty when the header is absent. */
export function idempotencyColumns(request: FastifyRequest, route: string, body: object) {
  const idempotency_key = idempotencyKey(request)
  const has = idempotency_key !== null
  return {
    idempotency_key,
    idempotency_scope: has ? idempotencyScope(request, route) : '',
    request_hash: has ? createHash('sha256').update(JSON.stringify(body)).digest('base64url') : null,
  }
}

export const accepted = (reply: FastifyReply, body: object) =>
  reply.code(202).header('retry-after', RETRY_AFTER_S).send(body)

/**
 * Queues the row of a request. Returns the row as it was queued, or the present row of an earlier request with the same key.
 * With `Prefer: wait`, returns the row as it is once it is settled or the wait has ended. If `settled` is true, the caller
 * answers with the outcome, otherwise with 202.
 */
export async function enqueueRow<Row extends QueuedRow, Input extends QueuedRowInput>(
  queue: RowQueue<Row, Input>,
  input: Input,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<{ row: Row; settled: boolean }> {
  const wait_s = preferredWait(request)
  if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
  const submitted = await queue.enqueue(input, wait_s !== undefined)
  if (submitted.replayed && !submitted.same_body) throw reusedKey()
  reply.header('location', `/api/${queue.noun}s/${submitted.id}`)
  if (submitted.replayed) reply.header(REPLAYED, 'true')
  if (wait_s === undefined) {
    const row = submitted.replayed ? await queue.readOne(submitted.id) : queue.asQueued(input, submitted)
    return { row, settled: false }
  }
  const row = submitted.replayed
    ? await queue.waitForEarlier(submitted.id, wait_s * 1000)
    : ((await queue.waitUntilSettled(submitted, wait_s * 1000)) ?? queue.asQueued(input, submitted))
  return { row, settled: !isPending(row) }
}

interface CommandRequest {
  action: string
  /** true if the command pays: with `payment` if given, otherwise with the payment stored in the row */
  pays: boolean
  payment: Payment | null
}

/**
 * Queues a command on the row with this id and waits until the command is settled. `mayStill`: whether the row can still
 * reach a status that allows the command.
 */
export async function submitCommand<Row extends QueuedRow, Input extends QueuedRowInput>(
  queue: RowQueue<Row, Input>,
  { action, pays, payment }: CommandRequest,
  id: string,
  mayStill: (row: Row) => boolean,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<CommandResult<Row>> {
  const wait_s = preferredWait(request)
  const idempotency_key = idempotencyKey(request)
  const idempotency_scope = idempotency_key === null ? '' : idempotencyScope(request, `${action} ${id.toLowerCase()}`)
  const subject = await queue.readOne(id.toLowerCase())
  if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
  const wait_ms = wait_s === undefined ? COMMAND_WAIT_MS : wait_s * 1000
  const command = { action, pays, payment, idempotency_key, idempotency_scope, wait_ms }
  const result = await queue.submitCommand(subject, command, mayStill(subject))
  if (result.replayed) reply.header(REPLAYED, 'true')
  return result
}

/**
 * Returns the OpenAPI schema of a command route. `example`: the problem returned when the row's status does not allow the
 * command.
 */
export function commandSchema<Row extends TSchema>(
  noun: 'purchase' | 'booking',
  row: Row,
  { action, pays, summary, description, sample }: CommandText,
  example: Problem,
) {
  return {
    operationId: `${action}${noun === 'purchase' ? 'Purchase' : 'Booking'}`,
    tags: [`${noun}s`],
    summary,
    description: `${description} The command waits behind earlier ${noun}s in the queue of the same resource. The API answers once the command is settled, or with 202 after ${COMMAND_WAIT_MS / 1000} seconds; \`Prefer: wait=N\` makes this N seconds.`,
    params: IdParams(sample),
    headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
    ...(pays && { body: PayingSchema }),
    response: {
      200: response(row, 'Done', 'preference-applied', REPLAYED),
      202: response(row, 'Queued', 'retry-after', 'preference-applied', REPLAYED),
      ...problemResponses(400, ...(pays ? [402, 422] : []), 404, example, 413, 415),
    },
  }
}

interface CommandText {
  action: string
  pays: boolean
  summary: string
  description: string
  /** id of a sample row on which the command succeeds */
  sample: string
}

/** Problem codes of a failed payment; the API answers them with 402. */
export const PAYMENT_FAILURES: ReadonlySet<string> = new Set(['payment_declined', 'payment_unavailable'])

/** Reasons for rejecting a command because of its payment, when the status would allow it: problem code → detail. */
export const PAYMENT_REFUSALS: Readonly<Record<string, string>> = {
  payment_in_progress:
    'Another card charge is in progress: either it succeeds, or you can pay again after it has failed.',
  payment_conflict: 'The payment was given at creation: its wallet has already reserved the money.',
  unknown_resource: 'The wallet does not exist.',
  currency_mismatch: 'The wallet has another currency.',
  limit: 'The payment exceeds the limit per customer of the wallet.',
}
