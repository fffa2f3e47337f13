/**
 * SQL statements for commands on purchases and bookings. Invariant: one Idempotency-Key queues one command; a request that
 * repeats the key with another payment is refused.
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
  /** id of the purchase or booking that the command changes */
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

/** Builds the statements that name the subject (purchase or booking) of a command. */
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
  /**
   * Returns the id of the earlier command with this key, if there is one.
   * @throws Problem idempotency_key_reused when that command has another payment
   */
  find(key: string, scope: string, payment: Payment | null): Promise<string | undefined>
  /**
   * Queues the command and returns its id; if an earlier command has the same key, returns the id of that one instead. Runs
   * in a transaction, so that the command is not committed after the caller got 503.
   */
  insert(command: NewCommand): Promise<string>
  state(id: string): Promise<CommandState>
  /**
   * Returns the status of the failed charge that the command began or joined; undefined if that charge has not failed, or if
   * there was no charge. This is the first failed attempt that was settled after the command: until a charge ends, no other
   * charge of the row can begin.
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
