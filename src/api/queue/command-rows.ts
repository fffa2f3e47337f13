/**
 * Commands on purchases and bookings, in SQL. Invariant: one Idempotency-Key queues one command, and a repeated one with
 * another payment is refused.
 */
import { and, eq, gt, sql } from 'drizzle-orm'
import { charges, commands } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { reusedKey } from '../../shared/problem.ts'
import type { Database } from '../database.ts'

/** A command before it is queued. */
export interface NewCommand {
  id: string
  queue: string
  /** the id of its purchase or booking */
  subject: string
  action: string
  payment: Payment | null
  idempotency_key: string | null
  idempotency_scope: string
}

const { id, payment, idempotency_key, idempotency_scope } = commands
const byKey = and(eq(idempotency_key, value('key')), eq(idempotency_scope, value('scope')))
const findSql = prepare(
  build
    .select({ id, same: sql<boolean>`${payment} IS NOT DISTINCT FROM ${value('payment')}::jsonb`.as('same') })
    .from(commands)
    .where(byKey),
)
const stateSql = prepare(
  build
    .select({ status: commands.status, observed_status: commands.observed_status, reason: commands.reason })
    .from(commands)
    .where(eq(id, value('id'))),
)

/** The statements that name the subject of a command. */
function statementsOf(subject: 'purchase_id' | 'booking_id') {
  const failed = build
    .select({ status: charges.status })
    .from(charges)
    .innerJoin(commands, eq(commands[subject], charges[subject]))
    .where(
      and(
        eq(id, value('command')),
        eq(charges[subject], value('subject')),
        eq(charges.kind, 'attempt'),
        gt(charges.settled_at, commands.settled_at),
      ),
    )
    .orderBy(charges.settled_at)
    .limit(1)
  const insert = build
    .insert(commands)
    .values({
      id: value('id'),
      queue: value('queue'),
      [subject]: value('subject'),
      action: sql`${value('action')}`,
      payment: value('payment'),
      idempotency_key: value('idempotency_key'),
      idempotency_scope: value('idempotency_scope'),
    })
    .onConflictDoNothing({ target: [idempotency_key, idempotency_scope], where: sql`idempotency_key IS NOT NULL` })
    .returning({ id })
  return { failed: prepare(failed), insert: prepare(insert) }
}
const SUBJECTS = { purchase: statementsOf('purchase_id'), booking: statementsOf('booking_id') }

export interface CommandRows {
  /** The earlier command with this key. @throws Problem idempotency_key_reused when it has another payment */
  find(key: string, scope: string, payment: Payment | null): Promise<string | undefined>
  /**
   * Queues the command; returns the id of an earlier one with the same key, if there is one. In a transaction, so that
   * after a 503 the command is not committed later.
   */
  insert(command: NewCommand): Promise<string>
  state(id: string): Promise<CommandState>
  /**
   * The status of the failed charge that the command began or joined; undefined when it has not failed, or there was none.
   * It is the first failed attempt settled after the command: until it ends, no other charge can begin.
   */
  failedCharge(command: string, subject: string): Promise<string | undefined>
}
type CommandState = Pick<typeof commands.$inferSelect, 'status' | 'observed_status' | 'reason'>

export function createCommandRows(
  db: Database,
  noun: 'purchase' | 'booking',
  nudge: (resources: Iterable<string>) => void,
): CommandRows {
  const { insert, failed } = SUBJECTS[noun]
  async function find(key: string, scope: string, payment: Payment | null): Promise<string | undefined> {
    const [row] = await db.query(findSql, { key, scope, payment: payment && JSON.stringify(payment) })
    if (row && !row.same) throw reusedKey()
    return row?.id
  }
  return {
    find,
    async insert(command) {
      const inserted = await db.transaction((tx) => insert(tx, { ...command }))
      nudge([command.queue])
      const { id, idempotency_key, idempotency_scope, payment } = command
      if (inserted.length > 0 || idempotency_key === null) return id
      return (await find(idempotency_key, idempotency_scope, payment)) ?? id
    },
    async state(id) {
      const [row] = await db.query(stateSql, { id })
      return row ?? { status: 'queued', observed_status: null, reason: null }
    },
    async failedCharge(command, subject) {
      const [charge] = await db.query(failed, { command, subject })
      return charge?.status
    },
  }
}
