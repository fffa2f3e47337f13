/**
 * Standing in a line over HTTP, the same for purchases and bookings: taken with 202, waited for, replayed, commanded.
 * Invariant: this side only writes rows that stand in a line; what becomes of them is decided by the workers, and every
 * answer about a settled row is read from its committed row.
 */
import { createHash } from 'node:crypto'
import { sql } from 'drizzle-orm'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Breaker, UnavailableError } from '../../shared/breaker.ts'
import { type Client, query, transaction } from '../../shared/db/client.ts'
import type { Payment } from '../../shared/db/schema.ts'
import { newId } from '../../shared/ids.ts'
import { Problem, reusedKey } from '../../shared/problem.ts'
import { idempotencyKey, idempotencyScope, preferredWait } from '../http/headers.ts'
import { REPLAYED } from '../http/responses.ts'
import type { Intake, NewRow, Taken } from './intake.ts'
import type { Look } from './row-reader.ts'
import type { Waits } from './settlement-waiter.ts'

/** Milliseconds a command waits to be settled when nothing else is preferred. */
const COMMAND_WAIT_MS = 10_000
/** Seconds after which looking at a queued row makes sense. */
const RETRY_AFTER_S = 1

export interface LineDeps {
  client: Client
  waits: Waits
  nudge(resources: Iterable<string>): void
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

interface Standing {
  id: string
  queue: string
  status: string
}

/** What stands in the line, and how it is told. */
export interface Kind<Row extends Standing, New extends NewRow, Command extends string> {
  noun: 'purchase' | 'booking'
  look: Look<Row>
  intake: Intake<New>
  /** the row as it stands in its line just now */
  fresh(row: New, taken: Taken & { replayed: false }): Row
  present(row: Row): object & { status: string }
  /** what the one who waited for a settled row is told with 201. @throws Problem when it got nothing */
  outcome(row: Row): Promise<object>
  /** it has left the line, and its card is being asked: not settled yet */
  charging?(row: Row): boolean
  /** what the one is told whose command was done. @throws Problem when it came to nothing all the same */
  obeyed(command: Command, row: Row): Promise<object>
  /** the command that asks a card, or takes from a wallet */
  paying: Command
  /** the payment of a command took nothing; what it was for is still set aside, or was until the end of its hold */
  unpaid(code: string, row: Row): Problem
  /** @throws Problem wrong_status when no status that the row may still reach allows the command */
  refuseUnless(command: Command, row: Row): void
  /** a command that was refused in its turn, with the status it met */
  refused(command: Command, code: string, status: string, row: Row): Problem
}

/** Codes with which a payment is refused: 402. */
export const UNPAID: ReadonlySet<string> = new Set(['payment_declined', 'payment_unavailable'])

/** Why a command is refused for its payment although the status allows it: codes that purchases and bookings share. */
export const PAYMENT_REFUSALS: Readonly<Record<string, string>> = {
  payment_in_progress:
    'Another payment of it is being asked for: it is paid by that one, or can be paid when that has failed.',
  payment_conflict: 'It is paid from the wallet that it came with, whose money is set aside.',
  unknown_resource: 'The wallet does not exist.',
  currency_mismatch: 'The wallet has another currency.',
  limit: 'The wallet gives a customer no more than its limit.',
}

/** The columns that make one row of one key; nulls without the header. */
export function keyed(request: FastifyRequest, route: string, body: object) {
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

export function createLine<Row extends Standing, New extends NewRow, Command extends string>(
  { client, waits, nudge, guarded }: LineDeps,
  kind: Kind<Row, New, Command>,
) {
  const { noun, look, intake, present } = kind
  const column = sql.raw(noun)
  const standing = (row: Row) => row.status === 'queued' || kind.charging?.(row) === true

  async function readOne(id: string): Promise<Row> {
    const row = await look.one(id)
    if (!row) throw new Problem(404, 'not_found', `There is no ${noun} ${id}.`)
    return row
  }

  /** 202 while it stands in the line, else what became of it. */
  async function answer(reply: FastifyReply, row: Row): Promise<FastifyReply> {
    if (standing(row)) return accepted(reply, present(row))
    return reply.code(201).send(await kind.outcome(row))
  }

  /** Puts the row into its line and answers, at once or when it is settled. */
  async function submit(request: FastifyRequest, reply: FastifyReply, row: New): Promise<FastifyReply> {
    const wait_s = preferredWait(request)
    if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
    const own = wait_s === undefined ? undefined : waits.watch(row.id)
    try {
      const taken = await intake.take(row)
      if (taken.replayed && !taken.same_body) throw reusedKey()
      reply.header('location', `/api/${noun}s/${taken.id}`)
      if (taken.replayed) return await replay(reply, taken.id, wait_s)
      if (own && wait_s !== undefined) {
        await own.settled(wait_s * 1000)
        // It is in its line, whatever has become of Postgres since: a 503 would have it bought twice.
        const settled = await readOne(row.id).catch((error) => {
          if (error instanceof UnavailableError) return undefined
          throw error
        })
        if (settled) return await answer(reply, settled)
      }
      return accepted(reply, present(kind.fresh(row, taken)))
    } finally {
      own?.done()
    }
  }

  async function replay(reply: FastifyReply, id: string, wait_s: number | undefined): Promise<FastifyReply> {
    reply.header(REPLAYED, 'true')
    if (wait_s === undefined) return accepted(reply, present(await readOne(id)))
    const watch = waits.watch(id)
    try {
      const row = await readOne(id)
      if (!standing(row)) return await answer(reply, row)
      await watch.settled(wait_s * 1000)
      return await answer(reply, await readOne(id))
    } finally {
      watch.done()
    }
  }

  /** Puts a command into the line of what it is about, and answers when it is settled. */
  async function obey(
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
    // A status that can no longer lead to where the command wants to go needs no place in the line.
    if (!earlier) kind.refuseUnless(command, row)
    const since = performance.now()
    const wait_ms = wait_s === undefined ? COMMAND_WAIT_MS : wait_s * 1000
    let watch = waits.watch(earlier ?? id)
    try {
      const own = earlier ?? (await enqueue({ id, queue: row.queue, subject, command, payment, key, scope }))
      let settled = false
      if (own !== id) {
        reply.header(REPLAYED, 'true')
        // Another request with this key was faster by a moment: it is its command that is waited for.
        watch.done()
        watch = waits.watch(own)
        settled = (await commandState(own)).status !== 'queued'
      }
      if (!settled) await watch.settled(wait_ms)
      const { status, met, reason } = await commandState(own)
      if (status === 'rejected') throw kind.refused(command, reason ?? '', met ?? row.status, await readOne(subject))
      const left_ms = Math.max(0, wait_ms - (performance.now() - since))
      if (status !== 'done') return accepted(reply, present(await readOne(subject)))
      const after = await charged(subject, left_ms)
      const unpaid = command === kind.paying ? await unpaidBy(own, after) : undefined
      if (unpaid !== undefined) throw kind.unpaid(unpaid, after)
      if (kind.charging?.(after)) return accepted(reply, present(after))
      return reply.code(200).send(await kind.obeyed(command, after))
    } finally {
      watch.done()
    }
  }

  /** The row when its card has answered, or when the time is over. */
  async function charged(id: string, wait_ms: number): Promise<Row> {
    // Watched from here on: before the command was done, the row was as settled as it could be.
    const watch = waits.watch(id)
    try {
      const row = await readOne(id)
      if (!kind.charging?.(row)) return row
      await watch.settled(wait_ms)
      return await readOne(id)
    } finally {
      watch.done()
    }
  }

  /**
   * Why the charge that the command began or joined took nothing; undefined when it did not end so, or when there was none.
   * It is the first charge that made way for another one after the command was done: until then no other can begin.
   */
  async function unpaidBy(command: string, row: Row): Promise<string | undefined> {
    const [charge] = await guarded(() =>
      query<{ status: string }>(
        client,
        sql`SELECT a.status FROM charges a JOIN commands c ON c.${column} = a.${column}
            WHERE c.id = ${command} AND a.${column} = ${row.id} AND a.purpose = 'attempt' AND a.settled_at > c.settled_at
            ORDER BY a.settled_at LIMIT 1`,
      ),
    )
    return charge && (charge.status === 'declined' ? 'payment_declined' : 'payment_unavailable')
  }

  /** @throws Problem idempotency_key_reused when it was sent with another payment */
  async function findCommand(key: string, scope: string, payment: Payment | null): Promise<string | undefined> {
    const [row] = await guarded(() =>
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
   * Puts the command into the queue; the id of an earlier one with the same key, if there is one. A transaction, so that
   * the command of a caller who was answered 503 is not written after that.
   */
  async function enqueue(c: {
    id: string
    queue: string
    subject: string
    command: Command
    payment: Payment | null
    key: string | null
    scope: string
  }): Promise<string> {
    const insert = sql`
      INSERT INTO commands (id, queue, ${column}, command, payment, idempotency_key, idempotency_scope)
      VALUES (${c.id}, ${c.queue}, ${c.subject}, ${c.command}, ${json(c.payment)}::jsonb, ${c.key}, ${c.scope})
      ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
      RETURNING id`
    const made = await guarded((signal) => transaction(client, signal, (tx) => query(tx, insert)))
    nudge([c.queue])
    if (made.length > 0 || c.key === null) return c.id
    return (await findCommand(c.key, c.scope, c.payment)) ?? c.id
  }

  async function commandState(id: string) {
    const [row] = await guarded(() =>
      query<{ status: 'queued' | 'done' | 'rejected'; met: string | null; reason: string | null }>(
        client,
        sql`SELECT status, met, reason FROM commands WHERE id = ${id}`,
      ),
    )
    return row ?? { status: 'queued' as const, met: null, reason: null }
  }

  return { readOne, submit, obey }
}
