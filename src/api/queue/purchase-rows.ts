/**
 * Purchases as the API queues and reads them. Invariant: Postgres' clock decides which holds are overdue, so all processes
 * agree.
 */
import { and, desc, eq, gt, lt, lte, or, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { purchases } from '../../shared/db/schema.ts'
import { build, isOneOf, prepare, type Statement, value } from '../../shared/db/statements.ts'
import type { LineItem, PurchaseStatus } from '../../shared/domain/purchase.ts'
import { chargeState, charging } from './charge-columns.ts'
import { type Enqueued, type QueuedRowInput, UNSETTLED } from './intake-rows.ts'

/** A purchase before it is queued. */
export interface NewPurchase extends QueuedRowInput {
  items: LineItem[]
}

const now = sql`clock_timestamp()`
const later = alias(purchases, 'later')

const select = () =>
  build
    .select({
      id: purchases.id,
      seq: purchases.seq,
      queue: purchases.queue,
      status: purchases.status,
      reason: purchases.reason,
      observed: purchases.observed,
      customer: purchases.customer,
      items: purchases.items,
      amount: purchases.amount,
      currency: purchases.currency,
      payment: purchases.payment,
      hold_seconds: purchases.hold_seconds,
      expires_at: purchases.expires_at,
      replaces_id: purchases.replaces_id,
      fencing_token: purchases.fencing_token,
      created_at: purchases.created_at,
      settled_at: purchases.settled_at,
      overdue: sql<boolean>`${purchases.status} = 'held' AND ${purchases.expires_at} <= clock_timestamp()`.as(
        'overdue',
      ),
      charging: charging.purchases.as('charging'),
      charge_state: chargeState.purchases.as('charge_state'),
      replaced_by: sql<string | null>`CASE WHEN ${purchases.status} = 'expired' THEN ${build
        .select({ id: later.id })
        .from(later)
        .where(eq(later.replaces_id, purchases.id))} END`.as('replaced_by'),
    })
    .from(purchases)

export type PurchaseRow = Awaited<ReturnType<typeof select>>[number]

/** Returns a new purchase as it was queued, before any worker has settled it. */
const asQueued = (input: NewPurchase, { seq, created_at }: Enqueued): PurchaseRow => ({
  ...input,
  ...UNSETTLED,
  observed: null,
  seq,
  created_at,
})

const byIds = isOneOf(purchases.id, 'ids')
export const PURCHASE_ROWS = {
  noun: 'purchase' as const,
  asQueued,
  read: prepare(select().where(byIds)),
  lock: prepare(select().where(byIds).orderBy(purchases.id).for('share')),
}

export interface PurchaseFilters {
  customer?: string | undefined
  resource?: string | undefined
  status?: PurchaseStatus | undefined
  before?: string | undefined
}

/**
 * Builds the statement that reads a page of purchases, newest first. Its parameters: the filters, `cart` (JSON items of the
 * resource) and `limit`.
 */
export function purchasePage({ customer, resource, status, before }: PurchaseFilters): Statement<PurchaseRow> {
  const { expires_at, items } = purchases
  const held = eq(purchases.status, 'held')
  const inCart = sql`(jsonb_array_length(${items}) > 1 AND ${items} @> ${value('cart')}::jsonb)`
  const statuses = {
    held: and(held, gt(expires_at, now)),
    expired: or(eq(purchases.status, 'expired'), and(held, lte(expires_at, now))),
  }
  return prepare(
    select()
      .where(
        and(
          before === undefined ? undefined : lt(purchases.id, value('before')),
          customer === undefined ? undefined : eq(purchases.customer, value('customer')),
          resource === undefined ? undefined : or(eq(purchases.queue, value('resource')), inCart),
          status === 'held' || status === 'expired'
            ? statuses[status]
            : status && eq(purchases.status, value('status')),
        ),
      )
      .orderBy(desc(purchases.id))
      .limit(value('limit')),
  )
}
