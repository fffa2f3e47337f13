/**
 * The tables. Invariant: what must never happen is forbidden here (CHECK, UNIQUE, EXCLUDE, triggers in drizzle/), so
 * that the database is right even when every lock is wrong. What drizzle-kit cannot say (EXCLUDE, triggers, fill
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

/** Byte order, so that Postgres sorts references as JavaScript does: both sides lock in one order. */
const ref = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' })
const tstzrange = customType<{ data: string }>({ dataType: () => 'tstzrange' })
const units = (name: string) => bigint(name, { mode: 'number' })
/** A list for IN, so that a status is written once. */
const oneOf = (values: readonly string[]) => sql.raw(`(${values.map((value) => `'${value}'`).join(', ')})`)
const at = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

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
    /** Units of holds. Sold is total - available - held, so the three can never disagree. */
    held: units('held').notNull().default(0),
    /** In the currency's minor unit (cents). */
    price: units('price').notNull().default(0),
    currency: text('currency').notNull().default('USD'),
    /** Units that one customer may have of it, held ones included; null: no limit, and nothing is counted. */
    max_per_customer: units('max_per_customer'),
    /** Since when that limit holds: what was sold before may exceed it. */
    limit_set_at: at('limit_set_at'),
    /** The ETag: rises with every change of the definition, not with sales. */
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
    /** Minor units; null until it is priced under the lease. */
    amount: units('amount'),
    currency: text('currency'),
    payment: jsonb('payment').$type<Payment>().notNull().default({ method: 'none' }),
    hold_seconds: integer('hold_seconds'),
    status: text('status').$type<PurchaseStatus>().notNull().default('queued'),
    reason: text('reason'),
    /** What the decision saw when it rejected the purchase: a replay answers with that state, not with today's. */
    observed: jsonb('observed').$type<Observed>(),
    fencing_token: units('fencing_token'),
    expires_at: at('expires_at'),
    /** The expired purchase whose late money bought this one: once. */
    replaces_id: uuid('replaces_id'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    request_hash: text('request_hash'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
  },
  (t) => [
    uniqueIndex('purchases_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
    uniqueIndex('purchases_replaces_id').on(t.replaces_id).where(sql`replaces_id IS NOT NULL`),
    index('purchases_queued').on(t.queue, t.seq).where(sql`status = 'queued'`),
    // Lists go by id (UUIDv7, so by time): an index on (queue, seq) would tempt the planner away from the partial one.
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
 * Units of a customer, held and confirmed, of resources that have a limit. Written under the resource's row lock, in the
 * transaction of the sale; a trigger refuses a rise above the limit.
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

/** Both purchases and bookings can be cancelled. */
const OF_BOOKINGS_ALONE = BOOKING_COMMANDS.filter((command) => command !== 'cancel')

/** Commands on purchases and bookings are in the same queue as the row that they are about. */
export const commands = pgTable(
  'commands',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    seq: units('seq').notNull().default(sql`nextval('queue_seq')`),
    queue: ref('queue').notNull(),
    /** What it is about: a purchase or a booking, one of them. */
    purchase_id: uuid('purchase_id').references(() => purchases.id),
    booking_id: uuid('booking_id').references(() => bookings.id),
    action: text('action').$type<PurchaseCommand | BookingCommand | ChargeCommand>().notNull(),
    /** What a confirm or an accept pays with; null: the payment of the purchase or booking. */
    payment: jsonb('payment').$type<Payment>(),
    status: text('status').$type<'queued' | 'done' | 'rejected'>().notNull().default('queued'),
    reason: text('reason'),
    /** The status that the command found. */
    observed_status: text('observed_status').$type<PurchaseStatus | BookingStatus>(),
    fencing_token: units('fencing_token'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
  },
  (t) => [
    uniqueIndex('commands_idempotency_key')
      .on(t.idempotency_key, t.idempotency_scope)
      .where(sql`idempotency_key IS NOT NULL`),
    index('commands_queued').on(t.queue, t.seq).where(sql`status = 'queued'`),
    index('commands_by_purchase').on(t.purchase_id),
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
    /** What is booked; the booking is settled in the queue of this resource. */
    resource_id: ref('resource_id').notNull(),
    customer: text('customer').notNull().default(''),
    /** Half-open; a ride has no end until it is over. */
    period: tstzrange('period').notNull(),
    /** That a stay is charged for, by the local clock; null: the time that it lasts counts. */
    days: integer('days'),
    pickup: jsonb('pickup').$type<Pickup>(),
    amount: units('amount'),
    currency: text('currency'),
    payment: jsonb('payment').$type<Payment>().notNull().default({ method: 'none' }),
    hold_seconds: integer('hold_seconds'),
    status: text('status').$type<BookingStatus>().notNull().default('queued'),
    reason: text('reason'),
    /** Ids of the bookings that were in the way, when it was rejected for them. */
    conflicting_ids: jsonb('conflicting_ids').$type<string[]>(),
    fencing_token: units('fencing_token'),
    /** When a request that is not accepted expires. */
    expires_at: at('expires_at'),
    /** The expired booking whose late money bought this one: once. */
    replaces_id: uuid('replaces_id'),
    idempotency_key: text('idempotency_key'),
    idempotency_scope: text('idempotency_scope').notNull().default(''),
    request_hash: text('request_hash'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
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
    // Lists go by id, as those of purchases.
    index('bookings_by_resource').on(t.resource_id, t.id),
    index('bookings_by_customer').on(t.customer, t.id),
    // The first for a line, the second for the sweeper, which asks for all of them.
    index('bookings_requested').on(t.resource_id, t.expires_at).where(sql`status = 'requested'`),
    index('bookings_requested_until').on(t.expires_at).where(sql`status = 'requested'`),
    check('bookings_kind_check', sql`${t.kind} IN ${oneOf(BOOKING_KINDS)}`),
    check('bookings_days_check', sql`${t.days} > 0`),
    check('bookings_period_check', sql`NOT isempty(${t.period})`),
    check('bookings_status_check', sql`${t.status} IN ${oneOf(BOOKING_STATUSES)}`),
  ],
)

/**
 * The ledger, append-only. Stock in and out has neither purchase nor booking; a purchase writes hold and release, sale
 * and refund, each at most once a resource. So by resource: total = sum without purchase, held = -(hold + release),
 * sold = -(sale + refund), available = sum of all.
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
 * Money on its way: at most one charge and one refund of ours a purchase or booking, and a row for each refund that was
 * made at the provider and for each dispute. A charge that took nothing, of a hold that goes on, becomes an `attempt` and
 * makes way for the next card's. The lease writes `pending`, `capturing` and our refunds; the payment jobs
 * write what the provider said, without a lease and always on condition of the status before. What they need to know of
 * a purchase and of a booking is the same, and is in the view `payable`.
 */
export const charges = pgTable(
  'charges',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    /** What is paid for: a purchase or a booking, one of them. */
    purchase_id: uuid('purchase_id').references(() => purchases.id),
    booking_id: uuid('booking_id').references(() => bookings.id),
    kind: text('kind').$type<ChargeKind>().notNull(),
    /** 1 for what is ours, attempts apart; what was made at the provider counts on from 2. */
    n: smallint('n').notNull().default(1),
    /** A refund that was made at the provider, or a dispute: not asked for by us, and never asked for again. */
    at_provider: boolean('at_provider').notNull().default(false),
    provider_id: text('provider_id'),
    /** Minor units. */
    amount: units('amount').notNull().default(0),
    currency: text('currency').notNull().default('USD'),
    /** Of a refund: the attempt that is under way or was made last. It is part of the provider's idempotency key. */
    attempts: smallint('attempts').notNull().default(0),
    status: text('status').$type<ChargeStatus>().notNull().default('pending'),
    /** Why it was declined or ended, in the provider's word. */
    reason: text('reason'),
    /** When the sweeper may consider it abandoned. */
    next_attempt_at: at('next_attempt_at').notNull().default(sql`clock_timestamp() + interval '2 seconds'`),
    /**
     * When the provider is to be asked: about a captured charge, what was done there since; about a refund of ours, to
     * give it back again or what has become of it. Null: about a charge never again, about a refund at once.
     */
    recheck_at: at('recheck_at'),
    /** The end of the hold that this charge has extended: what a declined card leaves of it. Null without `hold_seconds`. */
    hold_until: at('hold_until'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
    settled_at: at('settled_at'),
  },
  (t) => [
    uniqueIndex('charges_effect').on(t.purchase_id, t.kind, t.n),
    uniqueIndex('charges_booking_effect').on(t.booking_id, t.kind, t.n),
    // By the provider's id: two refunds of the same amount are two.
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

/** What a charge job needs to know of a purchase or booking: a view of drizzle/0001_guards.sql. */
export const payable = pgView('payable', {
  id: uuid('id').notNull(),
  purchase_id: uuid('purchase_id'),
  booking_id: uuid('booking_id'),
  queue: ref('queue').notNull(),
  /** of the card */
  token: text('token'),
  /** units or time are held, and the hold has not expired */
  open: boolean('open').notNull(),
}).existing()

/**
 * What became visible to buyers, in order: every change of status that was committed, and stock in and out. Triggers
 * write it (drizzle/0001_guards.sql), so that no writer can forget it: one row for all that a statement changed of one
 * resource, its changes in arrays, and a cart in a row of each of its resources. Each change has the resource's next
 * number; the numbers of a resource have no gap.
 */
export const outbox = pgTable(
  'outbox',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    /** Whose event it is: a resource of the purchase, or what is booked. */
    resource_id: ref('resource_id').notNull(),
    subject_type: text('subject_type').$type<'purchase' | 'booking' | 'payment' | 'resource'>().notNull(),
    /** The number of the last change here: the first is this, less how many there are, plus one. */
    last_sequence: units('last_sequence').notNull(),
    subject_ids: uuid('subject_ids').array().notNull(),
    statuses: text('statuses').array().notNull(),
    reasons: text('reasons').array().notNull(),
    /** Units that came in or, below zero, went out; of a payment, minor units. */
    delta: units('delta'),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [
    index('outbox_by_resource').on(t.resource_id, t.id),
    check('outbox_subject_type_check', sql`${t.subject_type} IN ('purchase', 'booking', 'payment', 'resource')`),
  ],
)

/** The last number given, by resource. Its row lock is held to the commit, so numbers are visible in their order. */
export const outboxSequences = pgTable('outbox_sequences', {
  resource_id: ref('resource_id').primaryKey(),
  last_sequence: units('last_sequence').notNull(),
})

/** One row: outbox rows up to this id are no longer kept. */
export const outboxRetention = pgTable(
  'outbox_retention',
  {
    one: boolean('one').primaryKey().default(true),
    pruned_through_id: units('pruned_through_id').notNull().default(0),
  },
  (t) => [check('outbox_retention_one_check', sql`${t.one}`)],
)

/** Where events are sent. `outbox_position`: the outbox row up to which its delivery streams have been extended. */
export const webhookEndpoints = pgTable(
  'webhook_endpoints',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    url: text('url').notNull(),
    /** Types; null: all. */
    events: jsonb('events').$type<string[]>(),
    /** One resource; null: all. */
    resource_id: ref('resource_id'),
    secret: text('secret').notNull(),
    /** Also signs, until it expires. */
    previous_secret: text('previous_secret'),
    previous_secret_expires_at: at('previous_secret_expires_at'),
    /** Why deliveries have stopped; null: they have not. */
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
    /** The sequence delivered last, and the outbox row that contains or precedes the next one. */
    delivered_sequence: units('delivered_sequence').notNull(),
    outbox_id: units('outbox_id').notNull(),
    /** The last sequence of the resource. */
    last_sequence: units('last_sequence').notNull(),
    /** Of the next event, so far. */
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
    resource_id: ref('resource_id').notNull(),
    sequence: units('sequence').notNull(),
    attempt: integer('attempt').notNull(),
    /** What was answered; null: nothing. */
    status: integer('status'),
    error: text('error'),
    duration_ms: integer('duration_ms').notNull(),
    created_at: at('created_at').notNull().default(sql`clock_timestamp()`),
  },
  (t) => [primaryKey({ columns: [t.endpoint_id, t.id] }), index('webhook_deliveries_by_time').on(t.created_at)],
)

/** Forced releases of locks. Written before the lock is released; completed_at is set once the fencing token is raised too. */
export const forcedReleases = pgTable(
  'forced_releases',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    resource_id: ref('resource_id').notNull(),
    /** The caller's digest of its API key, or `open`. */
    requested_by: text('requested_by').notNull(),
    reason: text('reason'),
    /** The holders as the caller's response names them. */
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
 * The lab's own tables. Its unsafe routes read and write here without any guard, so nothing here may be forbidden, and
 * nothing that is for sale may depend on it.
 */
export const labCounts = pgTable(
  'lab_counts',
  {
    /** The resource that the safe side sells, and this row's own number stands for on the unsafe side. */
    id: ref('id').primaryKey(),
    /** What both sides were last reset to. */
    initial: units('initial').notNull(),
    /** What the unsafe side has left; below zero when it sold more than there was. */
    unsafe_count: units('unsafe_count').notNull(),
    /** The side that was used last since the reset. */
    last_variant: text('last_variant').$type<'unsafe' | 'safe'>(),
  },
  (t) => [check('lab_counts_last_variant_check', sql`${t.last_variant} IN ('unsafe', 'safe')`)],
)

export const labOrders = pgTable('lab_orders', {
  id: text('id').primaryKey(),
  /** The worker that wrote it last, by its number: with `fencing_token <= token` in the WHERE clause, and without. */
  guarded_by: smallint('guarded_by'),
  unguarded_by: smallint('unguarded_by'),
  unguarded_writes: integer('unguarded_writes').notNull().default(0),
  fencing_token: units('fencing_token').notNull().default(0),
})

export const labDrivers = pgTable('lab_drivers', {
  id: text('id').primaryKey(),
  /** Who rides; null when the driver is free. */
  rider: text('rider'),
  /** Riders who were promised this driver since the reset. */
  rides: integer('rides').notNull().default(0),
})
