/**
 * The tables. Invariant: the database forbids every state that must never happen (CHECK, UNIQUE, EXCLUDE, triggers in
 * drizzle/), so that its data is right even when every lock fails. What drizzle-kit cannot express (EXCLUDE, triggers, fill
 * factors) is in the hand-written migration drizzle/0001_guards.sql.
 */
import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  customType,
  index,
  integer,
  jsonb,
  pgSequence,
  pgTable,
  pgView,
  primaryKey,
  real,
  smallint,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import {
  BOOKING_COMMANDS,
  BOOKING_KINDS,
  BOOKING_STATUSES,
  type BookingCommand,
  type BookingKind,
  type BookingStatus,
  type Pickup,
} from '../domain/booking.ts'
import {
  CHARGE_COMMANDS,
  type ChargeCommand,
  type ChargeKind,
  type ChargeStatus,
  type Payment,
} from '../domain/charge.ts'
import {
  type LineItem,
  type Observed,
  PURCHASE_COMMANDS,
  PURCHASE_STATUSES,
  type PurchaseCommand,
  type PurchaseStatus,
} from '../domain/purchase.ts'

/**
 * Column type of a resource reference. It sorts in byte order, as JavaScript does, so that both sides lock in the same
 * order.
 */
const ref = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' })
const tstzrange = customType<{ data: string }>({ dataType: () => 'tstzrange' })
const units = (name: string) => bigint(name, { mode: 'number' })
/** Returns the values as a list for IN, so that each status is written only once, in src/shared/domain. */
const oneOf = (values: readonly string[]) => sql.raw(`(${values.map((value) => `'${value}'`).join(', ')})`)
const at = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

/** A settlement of a purchase or booking that a later one has replaced. Times are as Postgres writes them into JSON. */
interface EarlierSettlement {
  status: PurchaseStatus | BookingStatus
  settled_at: string
  settled_by: string | null
  fencing_token: number | null
  expires_at: string | null
}

/**
 * Who settled a purchase or booking, and what it was before. `settled_by`: host:pid of the process that wrote `settled_at`.
 * `earlier_settlements`: the settlements before that, oldest first; null until a settled row is settled again.
 */
const settlement = () => ({
  settled_by: text('settled_by'),
  earlier_settlements: jsonb('earlier_settlements').$type<EarlierSettlement[]>(),
})

/** The order of all queued rows: purchases, bookings and commands take their seq from this one sequence. */
export const queueSeq = pgSequence('queue_seq')

export const resources = pgTable(
  'resources',
  {
    id: ref('id').primaryKey(),
    kind: text('kind').$type<'units' | 'calendar'>().notNull(),
    name: text('name').notNull().default(''),
    total: units('total').notNull().default(0),
    available: units('available').notNull().default(0),
    /** Units reserved by holds. The number of sold units is not stored: it is total - available - held. */
    held: units('held').notNull().default(0),
    /** In the currency's minor unit (cents). */
    price: units('price').notNull().default(0),
    currency: text('currency').notNull().default('USD'),
    /** Maximum number of units that one customer may have, held units included; null: no limit, and units are not counted. */
    max_per_customer: units('max_per_customer'),
    /** When max_per_customer was set: sales before that time may exceed it. */
    limit_set_at: at('limit_set_at'),
    /** The ETag: rises with every change of the definition or the total, but not with sales. */
    version: integer('version').notNull().default(1),
    fencing_token: units('fencing_token').notNull().default(0),
    created_at: at('created_at').notNull().defaultNow(),
    updated_at: at('updated_at').notNull().defaultNow(),
  },
  (t) => [
    check('resources_available_check', sql`${t.available} BETWEEN 0 AND ${t.total}`),
    check('resources_held_check', sql`${t.held} >= 0 AND ${t.available} + ${t.held} <= ${t.total}`),
    check('resources_kind_check', sql`${t.kind} IN ('units', 'calendar')`),
    check('resources_price_check', sql`${t.price} >= 0`),
    check(
      'resources_limit_check',
      sql`${t.max_per_customer} IS NULL OR (${t.max_per_customer} > 0 AND ${t.limit_set_at} IS NOT NULL)`,
    ),
  ],
)

export const purchases = pgTable(
  'purchases',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    seq: units('seq').notNull().default(sql`nextval('queue_seq')`),
    /** The resource in whose queue the purchase is settled. */
    queue: ref('queue').notNull(),
    customer: text('customer').notNull().default(''),
    items: jsonb('items').$type<LineItem[]>().notNull(),
    /** In minor units; null until a worker has priced the purchase under the lease. */
    amount: units('amount'),
    currency: text('currency'),
    payment: jsonb('payment').$type<Payment>().notNull().default({ method: 'none' }),
    hold_seconds: integer('hold_seconds'),
    status: text('status').$type<PurchaseStatus>().notNull().default('queued'),
    reason: text('reason'),
    /** State that a worker saw when it rejected the purchase: a replay answers with that state, not with the present one. */
    observed: jsonb('observed').$type<Observed>(),
    fencing_token: units('fencing_token'),
    expires_at: at('expires_at'),
    /** The expired purchase whose late payment paid for this one; an expired purchase is replaced at most once. */
    replaces_id: uuid('replaces_id'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    request_hash: text('request_hash'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
    ...settlement(),
  },
  (t) => [
    uniqueIndex('purchases_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
    uniqueIndex('purchases_replaces_id').on(t.replaces_id).where(sql`replaces_id IS NOT NULL`),
    index('purchases_queued').on(t.queue, t.seq).where(sql`status = 'queued'`),
    // Lists are ordered by id, which is the order of time (UUIDv7). With an index on (queue, seq) instead, the planner might
    // not use the partial index.
    index('purchases_by_queue').on(t.queue, t.id),
    index('purchases_by_customer').on(t.customer, t.id),
    index('purchases_held_items').using('gin', sql`items jsonb_path_ops`).where(sql`status = 'held'`),
    index('purchases_held_wallets').on(sql`(payment ->> 'account')`).where(sql`status = 'held'`),
    index('purchases_held_expires_at').on(t.expires_at).where(sql`status = 'held'`),
    index('purchases_multi_item').using('gin', sql`items jsonb_path_ops`).where(sql`jsonb_array_length(items) > 1`),
    check('purchases_status_check', sql`${t.status} IN ${oneOf(PURCHASE_STATUSES)}`),
    check('purchases_items_check', sql`jsonb_typeof(${t.items}) = 'array'`),
    check('purchases_held_check', sql`${t.status} <> 'held' OR ${t.expires_at} IS NOT NULL`),
  ],
)

/**
 * Held and confirmed units of each customer, for resources that have a limit. The transaction of the sale writes them under
 * the resource's row lock; a trigger refuses a rise above the limit.
 */
export const customerHoldings = pgTable(
  'customer_holdings',
  {
    resource_id: ref('resource_id').notNull(),
    customer: text('customer').notNull(),
    units: units('units').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.resource_id, t.customer] }),
    check('customer_holdings_units_check', sql`${t.units} >= 0`),
  ],
)

/** Commands that only bookings have. Both purchases and bookings can be cancelled. */
const OF_BOOKINGS_ALONE = BOOKING_COMMANDS.filter((command) => command !== 'cancel')

/** Commands on purchases and bookings. A command is in the same queue as the row that it changes. */
export const commands = pgTable(
  'commands',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    seq: units('seq').notNull().default(sql`nextval('queue_seq')`),
    queue: ref('queue').notNull(),
    /** The subject of the command: either a purchase or a booking. */
    purchase_id: uuid('purchase_id').references(() => purchases.id),
    booking_id: uuid('booking_id').references(() => bookings.id),
    action: text('action').$type<PurchaseCommand | BookingCommand | ChargeCommand>().notNull(),
    /** The payment of a confirm or accept; null: the payment of the purchase or booking. */
    payment: jsonb('payment').$type<Payment>(),
    status: text('status').$type<'queued' | 'done' | 'rejected'>().notNull().default('queued'),
    reason: text('reason'),
    /** The status of the purchase or booking when a worker executed the command. */
    observed_status: text('observed_status').$type<PurchaseStatus | BookingStatus>(),
    fencing_token: units('fencing_token'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
    /** host:pid of the worker that executed the command */
    settled_by: text('settled_by'),
  },
  (t) => [
    uniqueIndex('commands_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
    index('commands_queued').on(t.queue, t.seq).where(sql`status = 'queued'`),
    index('commands_by_purchase').on(t.purchase_id),
    index('commands_by_booking').on(t.booking_id).where(sql`booking_id IS NOT NULL`),
    check('commands_subject_check', sql`num_nonnulls(${t.purchase_id}, ${t.booking_id}) = 1`),
    check(
      'commands_action_check',
      sql`${t.action} IN ${oneOf([...PURCHASE_COMMANDS, ...CHARGE_COMMANDS])} OR ${t.booking_id} IS NOT NULL AND ${t.action} IN ${oneOf(OF_BOOKINGS_ALONE)}`,
    ),
    check('commands_status_check', sql`${t.status} IN ('queued', 'done', 'rejected')`),
  ],
)

export const bookings = pgTable(
  'bookings',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    seq: units('seq').notNull().default(sql`nextval('queue_seq')`),
    kind: text('kind').$type<BookingKind>().notNull().default('stay'),
    /** The booked resource; workers settle the booking in the queue of this resource. */
    resource_id: ref('resource_id').notNull(),
    customer: text('customer').notNull().default(''),
    /** Half-open range; a ride has no end until it is completed. */
    period: tstzrange('period').notNull(),
    /** Number of days that a stay is charged for, by the local clock; null: its duration counts. */
    days: integer('days'),
    pickup: jsonb('pickup').$type<Pickup>(),
    amount: units('amount'),
    currency: text('currency'),
    payment: jsonb('payment').$type<Payment>().notNull().default({ method: 'none' }),
    hold_seconds: integer('hold_seconds'),
    status: text('status').$type<BookingStatus>().notNull().default('queued'),
    reason: text('reason'),
    /** Ids of the conflicting bookings, if the booking was rejected for a conflict. */
    conflicting_ids: jsonb('conflicting_ids').$type<string[]>(),
    fencing_token: units('fencing_token'),
    /** When the booking expires if it is not accepted. */
    expires_at: at('expires_at'),
    /** The expired booking whose late payment paid for this one; an expired booking is replaced at most once. */
    replaces_id: uuid('replaces_id'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    request_hash: text('request_hash'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
    ...settlement(),
  },
  (t) => [
    uniqueIndex('bookings_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
    uniqueIndex('bookings_replaces_id').on(t.replaces_id).where(sql`replaces_id IS NOT NULL`),
    uniqueIndex('bookings_active_ride')
      .on(t.customer)
      .where(sql`kind = 'ride' AND status IN ('requested', 'accepted')`),
    index('bookings_queued').on(t.resource_id, t.seq).where(sql`status = 'queued'`),
    // Lists are ordered by id, as lists of purchases are.
    index('bookings_by_resource').on(t.resource_id, t.id),
    index('bookings_by_customer').on(t.customer, t.id),
    // The first index serves reads of one resource's requested bookings, the second the sweeper, which reads those of all.
    index('bookings_requested').on(t.resource_id, t.expires_at).where(sql`status = 'requested'`),
    index('bookings_requested_until').on(t.expires_at).where(sql`status = 'requested'`),
    check('bookings_kind_check', sql`${t.kind} IN ${oneOf(BOOKING_KINDS)}`),
    check('bookings_days_check', sql`${t.days} > 0`),
    check('bookings_period_check', sql`NOT isempty(${t.period})`),
    check('bookings_status_check', sql`${t.status} IN ${oneOf(BOOKING_STATUSES)}`),
  ],
)

/**
 * The ledger, append-only. Entries for stock that comes in or goes out have neither purchase nor booking. A purchase writes
 * the entries hold, release, sale and refund, each at most once per resource. So for each resource: total = sum of the entries
 * without purchase, held = -(hold + release), sold = -(sale + refund), available = sum of all entries.
 */
export const ledgerEntries = pgTable(
  'ledger_entries',
  {
    id: bigint('id', { mode: 'number' }).generatedAlwaysAsIdentity(),
    resource_id: ref('resource_id').notNull(),
    purchase_id: uuid('purchase_id'),
    booking_id: uuid('booking_id'),
    delta: units('delta').notNull(),
    reason: text('reason').notNull(),
    fencing_token: units('fencing_token'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [
    primaryKey({ columns: [t.resource_id, t.id] }),
    uniqueIndex('ledger_entries_effect').on(t.resource_id, t.purchase_id, t.reason).where(sql`purchase_id IS NOT NULL`),
    uniqueIndex('ledger_entries_booking_effect')
      .on(t.resource_id, t.booking_id, t.reason)
      .where(sql`booking_id IS NOT NULL`),
    uniqueIndex('ledger_entries_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
  ],
)

/**
 * Charges, refunds and disputes. A purchase or booking has at most one charge and one refund of ours, a row for each refund
 * that was made at the provider, and a row for each dispute. If a charge fails and the hold remains open, the charge becomes an
 * `attempt`, so that another card can be charged. Workers under the lease write `pending`, `capturing` and our refunds. Charge
 * jobs write what the provider has answered, without a lease, and only if the row still has the status that they read. They
 * read the purchase or booking through the view `payable`, because they need the same columns of both.
 */
export const charges = pgTable(
  'charges',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    /** What the charge pays for: either a purchase or a booking. */
    purchase_id: uuid('purchase_id').references(() => purchases.id),
    booking_id: uuid('booking_id').references(() => bookings.id),
    kind: text('kind').$type<ChargeKind>().notNull(),
    /**
     * 1 for our charge and our refund; attempts are numbered separately; refunds made at the provider are numbered from 2.
     */
    n: smallint('n').notNull().default(1),
    /**
     * True for a refund that was made at the provider, and for a dispute: we did not request it and never request it again.
     */
    at_provider: boolean('at_provider').notNull().default(false),
    provider_id: text('provider_id'),
    /** In minor units. */
    amount: units('amount').notNull().default(0),
    currency: text('currency').notNull().default('USD'),
    /** For a refund: the number of the current or last attempt. It is part of the idempotency key at the provider. */
    attempts: smallint('attempts').notNull().default(0),
    status: text('status').$type<ChargeStatus>().notNull().default('pending'),
    /** The provider's code for why it declined or ended the charge. */
    reason: text('reason'),
    /** From this time on the sweeper adds a job for the row: its job was lost, or has postponed the next step. */
    next_attempt_at: at('next_attempt_at').notNull().default(sql`clock_timestamp() + interval '2 seconds'`),
    /**
     * When a job next calls the provider about this row. For a captured charge the job looks for refunds and disputes made
     * outside Holdfast; null: never. For our refund it requests the refund again, or reads the refund's state; null: now.
     */
    recheck_at: at('recheck_at'),
    /**
     * The end that the hold had before this charge extended it; the hold ends then if the card is declined. Null if there is
     * no `hold_seconds`.
     */
    hold_until: at('hold_until'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
  },
  (t) => [
    uniqueIndex('charges_effect').on(t.purchase_id, t.kind, t.n),
    uniqueIndex('charges_booking_effect').on(t.booking_id, t.kind, t.n),
    // Unique by the provider's id, so that two refunds of the same amount are two rows.
    uniqueIndex('charges_provider').on(t.provider_id, t.kind).where(sql`provider_id IS NOT NULL`),
    index('charges_due')
      .on(t.next_attempt_at)
      .where(
        sql`status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider`,
      ),
    index('charges_recheck').on(t.recheck_at).where(sql`status = 'captured' AND recheck_at IS NOT NULL`),
    check('charges_subject_check', sql`num_nonnulls(${t.purchase_id}, ${t.booking_id}) = 1`),
    check('charges_amount_check', sql`${t.amount} > 0`),
    check(
      'charges_status_check',
      sql`CASE ${t.kind} WHEN 'charge' THEN ${t.status} IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'captured',
        'declined', 'unavailable', 'released', 'authorization_lost') WHEN 'refund' THEN ${t.status} IN ('pending', 'refunded', 'released', 'failed')
        WHEN 'dispute' THEN ${t.status} IN ('open', 'won', 'lost')
        WHEN 'attempt' THEN ${t.status} IN ('declined', 'unavailable') ELSE false END`,
    ),
  ],
)

/** The columns of a purchase or booking that a charge job needs: a view that drizzle/0001_guards.sql creates. */
export const payable = pgView('payable', {
  id: uuid('id').notNull(),
  purchase_id: uuid('purchase_id'),
  booking_id: uuid('booking_id'),
  queue: ref('queue').notNull(),
  /** token of the card */
  token: text('token'),
  /** true while units or time are held and the hold has not expired */
  open: boolean('open').notNull(),
}).existing()

/**
 * Everything that became visible to buyers, in order: every committed change of status, and stock that came in or went out.
 * Triggers write the outbox (drizzle/0001_guards.sql), so that no writer can forget it. There is one row per statement and
 * resource; its arrays contain all changes that the statement made to the resource. So a change of a cart is in several rows,
 * one for each of the cart's resources. Each change gets the resource's next number; the numbers of a resource have no gap.
 */
export const outbox = pgTable(
  'outbox',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    /** The resource that the events are about: a resource of the purchase, or the booked resource. */
    resource_id: ref('resource_id').notNull(),
    subject_type: text('subject_type').$type<'purchase' | 'booking' | 'payment' | 'resource'>().notNull(),
    /**
     * The number of the last change in this row. The number of the first change is last_sequence - (number of changes) + 1.
     */
    last_sequence: units('last_sequence').notNull(),
    subject_ids: uuid('subject_ids').array().notNull(),
    statuses: text('statuses').array().notNull(),
    reasons: text('reasons').array().notNull(),
    /** Units that came in (above zero) or went out (below zero); for a payment, an amount in minor units. */
    delta: units('delta'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [
    index('outbox_by_resource').on(t.resource_id, t.id),
    check('outbox_subject_type_check', sql`${t.subject_type} IN ('purchase', 'booking', 'payment', 'resource')`),
  ],
)

/**
 * The last number given to a change, by resource. A writer holds the row lock until it commits, so numbers become visible in
 * order.
 */
export const outboxSequences = pgTable('outbox_sequences', {
  resource_id: ref('resource_id').primaryKey(),
  last_sequence: units('last_sequence').notNull(),
})

/** A table of one row: workers have deleted the outbox rows up to this id. */
export const outboxRetention = pgTable(
  'outbox_retention',
  {
    one: boolean('one').primaryKey().default(true),
    pruned_through_id: units('pruned_through_id').notNull().default(0),
  },
  (t) => [check('outbox_retention_one_check', sql`${t.one}`)],
)

/**
 * Endpoints that receive events. `outbox_position`: the id of the last outbox row whose events the endpoint's delivery
 * streams include.
 */
export const webhookEndpoints = pgTable(
  'webhook_endpoints',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    url: text('url').notNull(),
    /** Types of events that the endpoint receives; null: all. */
    events: jsonb('events').$type<string[]>(),
    /** The resource whose events the endpoint receives; null: all. */
    resource_id: ref('resource_id'),
    secret: text('secret').notNull(),
    /** Deliveries are also signed with this secret until it expires. */
    previous_secret: text('previous_secret'),
    previous_secret_expires_at: at('previous_secret_expires_at'),
    /** Why deliveries have stopped; null: the endpoint is enabled. */
    disabled_reason: text('disabled_reason'),
    outbox_position: units('outbox_position').notNull(),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [
    check(
      'webhook_endpoints_secret_check',
      sql`(${t.previous_secret} IS NULL) = (${t.previous_secret_expires_at} IS NULL)`,
    ),
  ],
)

/** One delivery stream: the events of one resource to one endpoint, delivered in order. */
export const webhookStreams = pgTable(
  'webhook_streams',
  {
    endpoint_id: uuid('endpoint_id')
      .notNull()
      .references(() => webhookEndpoints.id, { onDelete: 'cascade' }),
    resource_id: ref('resource_id').notNull(),
    /**
     * `delivered_sequence`: the sequence of the last delivered event. `outbox_id`: the outbox row in which a sender begins to
     * look for the next event: the row with that event, or an earlier one.
     */
    delivered_sequence: units('delivered_sequence').notNull(),
    outbox_id: units('outbox_id').notNull(),
    /** The sequence of the last event that the stream must deliver. */
    last_sequence: units('last_sequence').notNull(),
    /** Number of attempts to deliver the next event so far. */
    attempts: integer('attempts').notNull().default(0),
    failing_since: at('failing_since'),
    next_attempt_at: at('next_attempt_at').notNull().default(sql`clock_timestamp()`),
    fencing_token: units('fencing_token').notNull().default(0),
  },
  (t) => [
    primaryKey({ columns: [t.endpoint_id, t.resource_id] }),
    index('webhook_streams_due').on(t.next_attempt_at).where(sql`delivered_sequence < last_sequence`),
    check('webhook_streams_sequence_check', sql`${t.delivered_sequence} <= ${t.last_sequence}`),
  ],
)

/** One row for each delivery attempt. */
export const webhookDeliveries = pgTable(
  'webhook_deliveries',
  {
    id: bigint('id', { mode: 'number' }).generatedAlwaysAsIdentity(),
    endpoint_id: uuid('endpoint_id')
      .notNull()
      .references(() => webhookEndpoints.id, { onDelete: 'cascade' }),
    event: text('event').notNull(),
    type: text('type').notNull(),
    /** the purchase or booking that the event is about, also if its payment changed; null: the stock of a resource changed */
    subject_id: uuid('subject_id'),
    resource_id: ref('resource_id').notNull(),
    sequence: units('sequence').notNull(),
    attempt: integer('attempt').notNull(),
    /** HTTP status of the response; null: no response. */
    status: integer('status'),
    error: text('error'),
    duration_ms: integer('duration_ms').notNull(),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [
    primaryKey({ columns: [t.endpoint_id, t.id] }),
    index('webhook_deliveries_by_time').on(t.created_at),
    index('webhook_deliveries_by_subject').on(t.subject_id, t.created_at).where(sql`subject_id IS NOT NULL`),
  ],
)

/**
 * Forced releases of locks. The API inserts the row before it releases the lock, and sets completed_at in the statement that
 * raises the fencing token of the resource.
 */
export const forcedReleases = pgTable(
  'forced_releases',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    resource_id: ref('resource_id').notNull(),
    /** Digest of the API key in the request; `open` if the API accepts requests without a key. */
    requested_by: text('requested_by').notNull(),
    reason: text('reason'),
    /** The revoked holders, as the response to the caller names them. */
    revoked_holders: jsonb('revoked_holders'),
    fencing_token: units('fencing_token'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    completed_at: at('completed_at'),
  },
  (t) => [
    index('forced_releases_by_resource').on(t.resource_id, t.id),
    check(
      'forced_releases_completed_check',
      sql`${t.completed_at} IS NULL OR (${t.fencing_token} IS NOT NULL AND ${t.revoked_holders} IS NOT NULL)`,
    ),
  ],
)

/**
 * The figures of the fleet every ten seconds, for the dashboard's history: at most a day of them. A figure is null if it could
 * not be read. In Postgres and not in Redis, because a Redis that restarts may be empty, and its outage must be in the history.
 */
export const fleetSamples = pgTable(
  'fleet_samples',
  {
    /** A multiple of ten seconds, so that two processes that sample at once write one row. */
    at: at('at').primaryKey(),
    per_second: real('per_second'),
    wait_p50_ms: integer('wait_p50_ms'),
    wait_p95_ms: integer('wait_p95_ms'),
    queued: integer('queued'),
    oldest_s: real('oldest_s'),
    errors_per_minute: integer('errors_per_minute'),
    level: text('level').$type<'green' | 'amber' | 'red'>().notNull(),
    sentence: text('sentence').notNull(),
  },
  (t) => [check('fleet_samples_level_check', sql`${t.level} IN ('green', 'amber', 'red')`)],
)

/**
 * The tables of the lab. The lab's unsafe routes read and write them without any guard, so these tables must not forbid
 * anything, and nothing that is for sale may depend on them.
 */
export const labCounts = pgTable(
  'lab_counts',
  {
    /** The resource that the safe variant sells; for the unsafe variant, `unsafe_count` of this row takes its place. */
    id: ref('id').primaryKey(),
    /** The number to which both variants were last reset. */
    initial: units('initial').notNull(),
    /** The number that the unsafe variant has left; below zero if it sold more than there was. */
    unsafe_count: units('unsafe_count').notNull(),
    /** The variant that was used last since the reset. */
    last_variant: text('last_variant').$type<'unsafe' | 'safe'>(),
  },
  (t) => [check('lab_counts_last_variant_check', sql`${t.last_variant} IN ('unsafe', 'safe')`)],
)

export const labOrders = pgTable('lab_orders', {
  id: text('id').primaryKey(),
  /**
   * `guarded_by`: the number of the worker that wrote last with `fencing_token <= token` in the WHERE clause. `unguarded_by`:
   * the number of the worker that wrote last without this condition.
   */
  guarded_by: smallint('guarded_by'),
  unguarded_by: smallint('unguarded_by'),
  unguarded_writes: integer('unguarded_writes').notNull().default(0),
  fencing_token: units('fencing_token').notNull().default(0),
})

export const labDrivers = pgTable('lab_drivers', {
  id: text('id').primaryKey(),
  /** The present rider; null when the driver is free. */
  rider: text('rider'),
  /** Number of riders that were promised this driver since the reset. */
  rides: integer('rides').notNull().default(0),
})
