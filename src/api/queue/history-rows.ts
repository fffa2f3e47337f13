/**
 * Reads what has happened to a purchase or booking, and what waits before it in its queue. Invariants: one statement reads the
 * row and everything that belongs to it, so all of it shows the same moment; every part is bounded by an index and a limit.
 */
import { sql } from 'drizzle-orm'
import { prepare, type Statement, value } from '../../shared/db/statements.ts'
import type { BookingCommand, BookingStatus } from '../../shared/domain/booking.ts'
import type { ChargeCommand, ChargeKind, ChargeStatus } from '../../shared/domain/charge.ts'
import type { Observed, PurchaseCommand, PurchaseStatus } from '../../shared/domain/purchase.ts'
import { COUNT_TO, entryCount, firstEntries } from './queue-entries.ts'

/** Rows before a row that one step of the count reads: the count ends at a step that finds none that waited. */
const PAGE = 500
/** Largest number of commands, of charges and of deliveries that are read, newest first. */
const PARTS = 500

/** Times are microseconds since 1970: with milliseconds, events of one transaction would lose their order. */
export interface Settlement {
  status: PurchaseStatus | BookingStatus
  at_us: number
  by: string | null
  fencing_token: number | null
  expires_us: number | null
}

export interface HistoryCommand {
  id: string
  seq: number
  action: PurchaseCommand | BookingCommand | ChargeCommand
  status: 'queued' | 'done' | 'rejected'
  reason: string | null
  observed_status: PurchaseStatus | BookingStatus | null
  fencing_token: number | null
  by: string | null
  created_us: number
  settled_us: number | null
}

export interface HistoryMovement {
  resource: string
  delta: number
  reason: 'hold' | 'release' | 'sale' | 'refund'
  fencing_token: number | null
  at_us: number
}

export interface HistoryCharge {
  kind: ChargeKind
  status: ChargeStatus
  amount: number
  currency: string
  reason: string | null
  at_provider: boolean
  created_us: number
  settled_us: number | null
  /** when the provider had authorized or refused the charge; null: not yet, or it is a refund or dispute */
  answered_us: number | null
  next_attempt_us: number
}

/** The attempt at which an endpoint accepted an event, or the last one if it has not. */
export interface HistoryDelivery {
  endpoint: string
  event: string
  type: string
  resource: string
  attempt: number
  status: number | null
  accepted: boolean
  at_us: number
}

export interface HistoryRow {
  seq: number
  queue: string
  status: PurchaseStatus | BookingStatus
  reason: string | null
  observed: Observed | null
  conflicting_ids: string[] | null
  replaces_id: string | null
  created_us: number
  expires_us: number | null
  /** oldest first; empty while the row is queued */
  settlements: Settlement[]
  /** rows of its queue that it found before it, at most COUNT_TO + 1 */
  ahead: number
  commands: HistoryCommand[]
  movements: HistoryMovement[]
  charges: HistoryCharge[]
  deliveries: HistoryDelivery[]
  /** the row that its late payment paid for */
  replacement: (Omit<Settlement, 'status' | 'expires_us'> & { id: string }) | null
}

const us = (time: string) => `(extract(epoch FROM ${time}) * 1000000)::bigint`
/** Returns SQL for an array of JSON objects, one for each row of `from`. */
const list = (members: Record<string, string>, from: string, order: string) =>
  `(SELECT coalesce(json_agg(${object(members)} ORDER BY ${order}), '[]') FROM ${from})`
const object = (members: Record<string, string>) =>
  `json_build_object(${Object.entries(members).flatMap(([name, of]) => [`'${name}'`, of])})`

/** What the two tables have under different names. */
interface Subject {
  table: 'purchases' | 'bookings'
  queue: 'queue' | 'resource_id'
  /** column of commands, ledger_entries and charges */
  id: 'purchase_id' | 'booking_id'
  /** SELECT of the resources in whose ledger the row `r` may have entries */
  resources: string
  observed: string
  conflicting_ids: string
}

const wallet = `SELECT (r.payment ->> 'account') COLLATE "C" AS id`
const PURCHASE: Subject = {
  table: 'purchases',
  queue: 'queue',
  id: 'purchase_id',
  resources: `${wallet} UNION SELECT (l ->> 'resource') COLLATE "C" FROM jsonb_array_elements(r.items) l`,
  observed: 'r.observed',
  conflicting_ids: 'NULL::jsonb',
}
const BOOKING: Subject = {
  table: 'bookings',
  queue: 'resource_id',
  id: 'booking_id',
  resources: wallet,
  observed: 'NULL::jsonb',
  conflicting_ids: 'r.conflicting_ids',
}

function settlementsOf(): string {
  const earlier = list(
    {
      status: `e.one ->> 'status'`,
      at_us: us(`(e.one ->> 'settled_at')::timestamptz`),
      by: `e.one ->> 'settled_by'`,
      fencing_token: `(e.one ->> 'fencing_token')::bigint`,
      expires_us: us(`(e.one ->> 'expires_at')::timestamptz`),
    },
    `jsonb_array_elements(r.earlier_settlements) WITH ORDINALITY AS e(one, n)`,
    'e.n',
  )
  const last = object({
    status: 'r.status',
    at_us: us('r.settled_at'),
    by: 'r.settled_by',
    fencing_token: 'r.fencing_token',
    expires_us: us('r.expires_at'),
  })
  return `${earlier}::jsonb || CASE WHEN r.settled_at IS NULL THEN '[]' ELSE jsonb_build_array(${last}) END`
}

/**
 * Counts the rows that were queued before this one and left the queue after it came. They are the newest rows with a lower id,
 * because a queue is settled in its order, so the count goes back by pages until a page has none of them. (Ids of two API
 * processes have the order of their clocks; seq decides which row is before which.)
 */
const aheadOf = ({ table, queue }: Subject) => `(
  WITH RECURSIVE page(before, ahead) AS (
    SELECT r.id, 0::bigint
    UNION ALL
    SELECT p.first, page.ahead + p.waited FROM page CROSS JOIN LATERAL (
      SELECT (array_agg(q.id ORDER BY q.id))[1] AS first,
             count(*) FILTER (WHERE q.seq < r.seq AND coalesce(q.left_at > r.created_at, true)) AS waited
      FROM (
        SELECT id, seq, coalesce((earlier_settlements -> 0 ->> 'settled_at')::timestamptz, settled_at) AS left_at
        FROM ${table} WHERE ${queue} = r.${queue} AND id < page.before ORDER BY id DESC LIMIT ${PAGE}) q
    ) p WHERE p.waited > 0 AND page.ahead <= ${COUNT_TO}
  ) SELECT least(max(page.ahead), ${COUNT_TO + 1}) FROM page)`

const commandsOf = ({ id }: Subject) =>
  list(
    {
      id: 'c.id',
      seq: 'c.seq',
      action: 'c.action',
      status: 'c.status',
      reason: 'c.reason',
      observed_status: 'c.observed_status',
      fencing_token: 'c.fencing_token',
      by: 'c.settled_by',
      created_us: us('c.created_at'),
      settled_us: us('c.settled_at'),
    },
    `(SELECT * FROM commands WHERE ${id} = r.id ORDER BY seq DESC LIMIT ${PARTS}) c`,
    'c.seq',
  )

const movementsOf = ({ id, resources }: Subject) =>
  list(
    {
      resource: 'm.resource_id',
      delta: 'm.delta',
      reason: 'm.reason',
      fencing_token: 'm.fencing_token',
      at_us: us('m.created_at'),
    },
    `(${resources}) resource JOIN ledger_entries m ON m.resource_id = resource.id AND m.${id} = r.id`,
    'm.created_at, m.resource_id, m.id',
  )

/** A replacement is paid by the charge of the row that it replaces. A charge job queues the answer of the provider as a command. */
const chargesOf = ({ id }: Subject) =>
  list(
    {
      kind: 'c.kind',
      status: 'c.status',
      amount: 'c.amount',
      currency: 'c.currency',
      reason: 'c.reason',
      at_provider: 'c.at_provider',
      created_us: us('c.created_at'),
      settled_us: us('c.settled_at'),
      answered_us: `(SELECT ${us('a.created_at')} FROM commands a
                     WHERE a.idempotency_key = c.id::text AND a.idempotency_scope = 'charge')`,
      next_attempt_us: us('greatest(c.next_attempt_at, c.recheck_at)'),
    },
    `(SELECT * FROM charges WHERE ${id} = coalesce(r.replaces_id, r.id) ORDER BY created_at DESC LIMIT ${PARTS}) c`,
    'c.created_at, c.n',
  )

const deliveriesOf = () =>
  list(
    {
      endpoint: 'd.endpoint_id',
      event: 'd.event',
      type: 'd.type',
      resource: 'd.resource_id',
      attempt: 'd.attempt',
      status: 'd.status',
      accepted: 'd.accepted',
      at_us: us('d.created_at'),
    },
    `(SELECT DISTINCT ON (endpoint_id, event) * FROM (
        SELECT *, coalesce(status BETWEEN 200 AND 299, false) AS accepted FROM webhook_deliveries
        WHERE subject_id = r.id ORDER BY created_at DESC LIMIT ${PARTS}) n
      ORDER BY endpoint_id, event, accepted DESC, CASE WHEN accepted THEN id ELSE -id END) d`,
    'd.created_at, d.id',
  )

/** Written as raw SQL: the parts are JSON arrays of correlated subqueries, one of them recursive. */
function historyStatement(subject: Subject): Statement<HistoryRow> {
  const { table, queue, observed, conflicting_ids } = subject
  const replacement = object({
    id: 'n.id',
    at_us: us('n.settled_at'),
    by: 'n.settled_by',
    fencing_token: 'n.fencing_token',
  })
  const columns = {
    seq: 'r.seq',
    queue: `r.${queue}`,
    status: 'r.status',
    reason: 'r.reason',
    observed,
    conflicting_ids,
    replaces_id: 'r.replaces_id',
    created_us: us('r.created_at'),
    expires_us: us('r.expires_at'),
    settlements: settlementsOf(),
    ahead: aheadOf(subject),
    commands: commandsOf(subject),
    movements: movementsOf(subject),
    charges: chargesOf(subject),
    deliveries: deliveriesOf(),
    replacement: `(SELECT ${replacement} FROM ${table} n WHERE n.replaces_id = r.id)`,
  }
  const selected = Object.entries(columns).map(([name, of]) => `${of} AS ${name}`)
  return prepare<HistoryRow>(
    sql`SELECT ${sql.raw(selected.join(', '))} FROM ${sql.raw(table)} r WHERE r.id = ${value('id')}`,
  )
}

/** Statements by the parameter `id`. */
export const HISTORY = { purchase: historyStatement(PURCHASE), booking: historyStatement(BOOKING) }

export interface QueuePosition {
  /** purchases, bookings and commands with a lower seq, counted up to COUNT_TO + 1 */
  ahead: number
  /** first entry of the queue; null if a worker has just settled the last one */
  head: { kind: 'purchase' | 'booking'; id: string; command: string | null; since_us: number } | null
}

const queue = sql`${value('queue')}`

/**
 * Reads the position of an entry in its queue. Parameters: `queue` and `seq`. Written as raw SQL: a queue is a union of three
 * tables, each with its own index and limit.
 */
export const queuePosition = prepare<QueuePosition>(sql`
  SELECT least(${entryCount(queue, sql`${value('seq')}`)}, ${COUNT_TO + 1}::int) AS ahead,
         (SELECT ${sql.raw(object({ kind: 'h.kind', id: 'h.id', command: 'h.command', since_us: us('h.created_at') }))}
          FROM (${firstEntries(queue)}) h ORDER BY h.seq LIMIT 1) AS head`)
