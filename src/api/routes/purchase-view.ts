/** Purchases as clients see them: the body of every answer, and the problems that say how a purchase or a command ended. */
import Type from 'typebox'
import { type LineItem, PURCHASE_STATUSES, type PurchaseCommand } from '../../shared/domain/purchase.ts'
import { Problem } from '../../shared/problem.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { iso, isoOrNull } from '../http/timestamps.ts'
import { declineOf, PaymentState, paymentState, unpaidCode } from '../queue/payment-view.ts'
import type { PurchaseRow } from '../queue/purchase-rows.ts'
import { PAYMENT_FAILURES, PAYMENT_REFUSALS } from '../queue/requests.ts'
import { type CommandFailure, statusNow } from '../queue/submission.ts'

export const PurchaseSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Position in its queue: first come, first served' }),
    status: Type.Enum([...PURCHASE_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why the purchase was rejected, failed or cancelled' })),
    customer: Type.String(),
    lines: Type.Array(Type.Object({ resource: Type.String(), units: Type.Integer() })),
    amount: Nullable(Type.Integer({ description: 'Minor units; null until the purchase is settled' })),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired purchase whose late payment paid for this one' }),
    ),
    replaced_by: Nullable(
      Type.String({ format: 'uuid', description: 'The purchase that the late payment of this one paid for' }),
    ),
    fencing_token: Nullable(
      Type.Integer({ description: 'Fencing token of the lease under which the purchase was settled' }),
    ),
    created_at: Time,
    settled_at: Nullable(Time),
  },
  {
    $id: 'Purchase',
    examples: [
      {
        id: '01935f5e-0000-7000-8000-000000000001',
        seq: 1,
        status: 'confirmed',
        reason: null,
        customer: 'ada',
        lines: [{ resource: 'product:1', units: 1 }],
        amount: 99_900,
        currency: 'USD',
        payment: { method: 'none' },
        hold_seconds: null,
        expires_at: null,
        replaces: null,
        replaced_by: null,
        fencing_token: 1_795_257_640_880_613,
        created_at: '2026-11-21T10:00:00.000Z',
        settled_at: '2026-11-21T10:00:00.012Z',
      },
    ],
  },
)
type Purchase = Type.Static<typeof PurchaseSchema>

export const PurchaseRef = Type.Unsafe<Purchase>(Type.Ref('Purchase'))

export function purchaseView(row: PurchaseRow): Purchase {
  return {
    id: row.id,
    seq: row.seq,
    status: statusNow(row),
    reason: row.reason,
    customer: row.customer,
    lines: row.items,
    amount: row.amount,
    currency: row.currency,
    payment: paymentState(row.payment, row.charge_state),
    hold_seconds: row.hold_seconds,
    expires_at: isoOrNull(row.expires_at),
    replaces: row.replaces_id,
    replaced_by: row.replaced_by,
    fencing_token: row.fencing_token,
    created_at: iso(row.created_at),
    settled_at: isoOrNull(row.settled_at),
  }
}

/** Returns the body of the 201 for a settled purchase. @throws Problem when the purchase was rejected or failed */
export function purchaseOutcome(row: PurchaseRow): Purchase {
  const purchase = purchaseView(row)
  if (purchase.status === 'rejected' || purchase.status === 'failed') throw refusal(row)
  if (purchase.status === 'held' || purchase.status === 'confirmed') return purchase
  throw new Problem(409, purchase.status, `The purchase is ${purchase.status}.`, { purchase })
}

/** Returns the body of the 200 for an executed command. @throws Problem when the charge of the command failed later */
export function commandOutcome(command: PurchaseCommand, row: PurchaseRow): Purchase {
  const purchase = purchaseView(row)
  const { status, payment } = purchase
  if (command !== 'confirm' || status === 'confirmed' || status === 'refunded') return purchase
  if (status === 'failed') throw refusal(row)
  if (status === 'held') throw paymentFailed(unpaidCode(payment), row)
  // The hold expired before the card charge ended, or a cancel was settled first.
  throw wrongStatus(command, status)
}

/** Returns the problem for a command that no worker executed, or whose charge failed. */
export function commandProblem(command: PurchaseCommand, result: CommandFailure<PurchaseRow>): Problem {
  const { reason, row } = result
  if (result.status === 'unpaid' || PAYMENT_FAILURES.has(reason)) return paymentFailed(reason, row)
  const why = PAYMENT_REFUSALS[reason]
  if (why !== undefined) return new Problem(409, reason, why, { purchase: purchaseView(row) })
  return wrongStatus(command, result.observed_status)
}

function refusal(row: PurchaseRow): Problem {
  const purchase = purchaseView(row)
  const code = row.reason ?? row.status
  if (row.status === 'failed')
    return new Problem(402, code, `The purchase failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
  // Only `sold_out` and `limit` have details.
  const { resource, available, max_per_customer } = row.observed ?? {}
  if (code === 'sold_out') {
    return soldOut(row.items.find((item) => item.resource === resource) ?? row.items[0], available, purchase)
  }
  if (max_per_customer !== undefined) {
    const detail = `A customer may have at most ${max_per_customer} units of ${resource}, held ones included.`
    return new Problem(409, code, detail, { resource, max_per_customer, purchase })
  }
  return new Problem(409, code, `The purchase was rejected: ${code}.`, { purchase })
}

export const soldOut = (item: LineItem | undefined, available: number | undefined, purchase?: Purchase) =>
  new Problem(409, 'sold_out', `Fewer than ${item?.units} units of ${item?.resource} were available.`, {
    available,
    resource: item?.resource,
    ...(purchase ? { purchase } : {}),
  })

function paymentFailed(code: string, row: PurchaseRow): Problem {
  const purchase = purchaseView(row)
  return new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
}

export const wrongStatus = (command: PurchaseCommand, status: string) =>
  new Problem(409, 'wrong_status', `A purchase that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
const PARTICIPLES: Record<PurchaseCommand, string> = { confirm: 'confirmed', cancel: 'cancelled', refund: 'refunded' }
