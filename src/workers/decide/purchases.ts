/**
 * Decides the purchases of a batch, in memory and without I/O. Invariant: items are decided in the given order, and every
 * change of units has a ledger entry, so that for each resource total = available + held + sold, by the ledger.
 */

import type { BookingStatus } from '../../shared/domain/booking.ts'
import type { ChargeCommand, ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import { sameCurrency } from '../../shared/domain/currency.ts'
import type { LineItem, Observed, PurchaseCommand, PurchaseStatus } from '../../shared/domain/purchase.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'

/** A row of purchases, as far as deciding needs it. `status` changes as the batch is decided. */
export interface PurchaseRow {
  id: string
  seq: number
  queue: string
  customer: string
  items: LineItem[]
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  status: PurchaseStatus
  /** milliseconds since 1970, database clock */
  expires_ms: number | null
  created_ms: number
  /** status of its charge; null when there is none (and not read for a purchase without a command) */
  charge: ChargeStatus | null
  /** original end of the hold that the charge has extended; null without a hold of its own */
  hold_until_ms: number | null
  /** the expired purchase that this one replaces: the charge belongs to that one */
  replaces_id: string | null
}

export interface CommandRow {
  id: string
  seq: number
  action: PurchaseCommand | ChargeCommand
  created_ms: number
  /** payment method of a confirm; null: the one that the purchase has already */
  payment: Payment | null
}

/** A pending item of a queue: a queued purchase, a command on a purchase, or an overdue hold. */
export type PurchaseItem = { purchase: PurchaseRow; booking?: never } & (
  | { kind: 'purchase'; command?: never }
  | { kind: 'expired'; command?: never }
  | { kind: 'command'; command: CommandRow }
)

/** A resource as read under its row lock; `available` and `held` change as the batch is decided. */
export interface Resource {
  id: string
  kind: 'units' | 'calendar'
  available: number
  held: number
  price: number
  currency: string
  /** units that one customer may have, held ones included; null: no limit */
  max_per_customer: number | null
  /** customer → units, of the customers in the batch; only where there is a limit */
  holdings: Map<string, number>
  /** fencing token of the lease it is written under */
  token: number
}

export interface PurchaseChange {
  id: string
  was: PurchaseStatus
  status: PurchaseStatus
  reason: string | null
  observed: Observed | null
  amount: number | null
  currency: string | null
  expires_ms: number | null
  fencing_token: number
}
export interface CommandChange {
  id: string
  status: 'done' | 'rejected'
  reason: string | null
  observed_status: PurchaseStatus | BookingStatus
  fencing_token: number
}
export interface LedgerEntry {
  resource_id: string
  purchase_id?: string
  booking_id?: string
  delta: number
  reason: 'sale' | 'hold' | 'release' | 'refund'
  fencing_token: number
}
/** A step of a charge, to be taken once the batch is committed. An existing charge is not changed by a second request. */
export interface ChargeRequest {
  /** what is paid for */
  of: 'purchase' | 'booking'
  id: string
  /** charge and refund are new rows; capture is the step of an authorized charge whose units are sold */
  step: 'charge' | 'capture' | 'refund'
  amount: number
  currency: string
  /** of a charge: the end of the hold that it extends */
  hold_until_ms: number | null
}
/** New payment method of a purchase or booking. */
export interface PaymentChange {
  of: 'purchase' | 'booking'
  id: string
  payment: Payment
}
/** A new purchase or booking, paid with the late money of an expired one. */
export interface Replacement {
  id: string
  replaces_id: string
  fencing_token: number
}
export interface PurchaseDecision {
  chargeRequests: ChargeRequest[]
  payments: PaymentChange[]
  /** purchases and bookings whose failed charge becomes a past attempt, so that another charge can follow */
  attempts: string[]
  replacements: Replacement[]
  purchases: PurchaseChange[]
  commands: CommandChange[]
  ledger: LedgerEntry[]
  resources: Resource[]
  /** items that this batch could not decide yet: they stay in the queue */
  skipped: PurchaseItem[]
}

/** Thrown for a row that no worker can decide (written past the API): the row is quarantined, the others are settled. */
export class UnprocessableError extends Error {
  readonly code = 'unprocessable'
}

/**
 * Seconds that units or dates stay held for a charge to end: a few slow attempts at the provider. When the outcome comes
 * later, they are on sale again.
 */
export const PAYMENT_S = 60

/** Final statuses of a charge that took no money. */
export const UNCHARGED: ReadonlySet<ChargeStatus> = new Set(['declined', 'unavailable'])

/**
 * Whether the paying wallet has another currency by now. A currency can no longer be changed; where it once was, units of
 * the new currency must not refund a payment in the old one.
 */
export function isForeign(
  { payment, amount, currency }: Pick<PurchaseRow, 'payment' | 'amount' | 'currency'>,
  resources: ReadonlyMap<string, Resource>,
): boolean {
  const wallet = payment.method === 'wallet' && amount ? resources.get(payment.account) : undefined
  return wallet !== undefined && currency !== null && !sameCurrency(wallet.currency, currency)
}

const isUnits = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0

export const samePayment = (one: Payment, other: Payment) =>
  one.method === 'card'
    ? other.method === 'card' && one.token === other.token
    : one.method === 'wallet'
      ? other.method === 'wallet' && one.account === other.account
      : other.method === 'none'

/** Units that a purchase needs of each resource: its items merged, and its price as units of the paying wallet. */
function unitsByResource(purchase: PurchaseRow, amount: number): Map<string, number> {
  const units = new Map<string, number>()
  if (purchase.items.length === 0) throw new UnprocessableError('a purchase has no items')
  for (const item of purchase.items) {
    if (typeof item?.resource !== 'string' || !isUnits(item.units)) {
      throw new UnprocessableError('an item needs a resource and a positive whole number of units')
    }
    units.set(item.resource, /* guard:merge-units */ (units.get(item.resource) ?? 0) + /* end:merge-units */ item.units)
  }
  if (purchase.payment.method === 'wallet' && amount > 0) {
    const { account } = purchase.payment
    units.set(account, (units.get(account) ?? 0) + amount)
  }
  return units
}

/** Every resource that settling this item may write. */
export function resourcesOfPurchase(item: PurchaseItem): string[] {
  const { purchase } = item
  // Cancelling a queued purchase moves no units: the resource of its queue is enough. Any other command may find it settled
  // by this batch.
  if (item.command?.action === 'cancel' && purchase.status === 'queued') return [purchase.queue]
  const refs = new Set(unitsByResource(purchase, 1).keys())
  if (item.command?.payment?.method === 'wallet') refs.add(item.command.payment.account)
  return [...refs]
}

/**
 * Decides the items in order. `now_ms` is the database clock, read after the row locks were acquired.
 */
export function decidePurchases(
  items: readonly PurchaseItem[],
  resources: ReadonlyMap<string, Resource>,
  now_ms: number,
): PurchaseDecision {
  const changes = new Map<string, PurchaseChange>()
  const touched = new Set<Resource>()
  const decision: PurchaseDecision = {
    purchases: [],
    commands: [],
    ledger: [],
    resources: [],
    skipped: [],
    chargeRequests: [],
    payments: [],
    attempts: [],
    replacements: [],
  }
  const cancelled = new Set(items.flatMap((item) => (item.command?.action === 'cancel' ? [item.purchase.id] : [])))

  /** Fencing token for the row: of its own queue, or for an expired cart of another queue, of any of its resources. */
  function tokenFor(purchase: PurchaseRow): number {
    const own =
      resources.get(purchase.queue) ?? purchase.items.map((item) => resources.get(item.resource)).find((r) => r)
    return own?.token ?? 0
  }

  function setStatus(purchase: PurchaseRow, status: PurchaseStatus, reason?: string, observed?: Observed): void {
    const earlier = changes.get(purchase.id)
    changes.set(purchase.id, {
      id: purchase.id,
      was: earlier?.was ?? purchase.status,
      status,
      reason: reason ?? null,
      observed: observed ?? null,
      amount: purchase.amount,
      currency: purchase.currency,
      expires_ms: purchase.expires_ms,
      fencing_token: tokenFor(purchase),
    })
    purchase.status = status
  }

  /** Moves the purchase's units: changes `available` and `held` per unit, and adds the ledger entries. */
  function moveUnits(
    purchase: PurchaseRow,
    available: number,
    held: number,
    ...reasons: LedgerEntry['reason'][]
  ): void {
    for (const [ref, units] of unitsByResource(purchase, purchase.amount ?? 0)) {
      const resource = resources.get(ref)
      if (!resource) throw new UnprocessableError(`${ref} is gone`)
      resource.available += available * units
      resource.held += held * units
      touched.add(resource)
      if (resource.max_per_customer !== null) {
        const had = resource.holdings.get(purchase.customer) ?? 0
        resource.holdings.set(purchase.customer, had - available * units)
      }
      for (const reason of reasons) {
        const delta = reason === 'sale' || reason === 'hold' ? -units : units
        decision.ledger.push({
          resource_id: ref,
          purchase_id: purchase.id,
          delta,
          reason,
          fencing_token: resource.token,
        })
      }
    }
  }

  /** The first resource of this purchase whose limit it would exceed, with that limit. */
  function overLimit(purchase: PurchaseRow, amount: number): Observed | undefined {
    for (const [resource, units] of unitsByResource(purchase, amount)) {
      const { max_per_customer = null, holdings } = resources.get(resource) ?? {}
      if (max_per_customer === null) continue
      if ((holdings?.get(purchase.customer) ?? 0) + units > max_per_customer) return { resource, max_per_customer }
    }
    return undefined
  }

  const isCharged = ({ payment, amount }: PurchaseRow) => payment.method === 'card' && (amount ?? 0) > 0

  function requestCharge(step: ChargeRequest['step'], purchase: PurchaseRow): void {
    const { id, replaces_id, currency, hold_until_ms } = purchase
    const amount = purchase.amount ?? 0
    decision.chargeRequests.push({
      step,
      of: 'purchase',
      id: replaces_id ?? id,
      amount,
      currency: currency ?? '',
      hold_until_ms,
    })
  }

  /** Extends the hold until the charge has ended, and requests the charge. */
  function startCharge(purchase: PurchaseRow): void {
    purchase.charge = 'pending'
    purchase.hold_until_ms = purchase.hold_seconds === null ? null : purchase.expires_ms
    purchase.expires_ms = Math.max(purchase.expires_ms ?? 0, now_ms + PAYMENT_S * 1000)
    requestCharge('charge', purchase)
  }

  /** Status and reason of a queued purchase; moves its units when it is sold or held. */
  function decideNew(purchase: PurchaseRow): [PurchaseStatus, string?, Observed?] {
    if (cancelled.has(purchase.id)) return ['cancelled']
    let amount = 0
    const currencies = new Set<string>()
    const needed = unitsByResource(purchase, 0)
    for (const [ref, units] of needed) {
      const resource = resources.get(ref)
      if (resource?.kind !== 'units') return ['rejected', 'unknown_resource']
      // Accounts are not for sale. The API rejects them already; this is for rows that were written past it.
      if (isAccount(ref)) return ['rejected', 'wrong_kind']
      amount += resource.price * units
      if (resource.price > 0) currencies.add(resource.currency.toUpperCase())
    }
    if (!Number.isSafeInteger(amount)) return ['rejected', 'amount_too_large']
    const { payment } = purchase
    const wallet = payment.method === 'wallet' ? resources.get(payment.account) : undefined
    if (payment.method === 'wallet') {
      if (wallet?.kind !== 'units') return ['rejected', 'unknown_resource']
      if (amount > 0) currencies.add(wallet.currency.toUpperCase())
    }
    if (currencies.size > 1) return ['rejected', 'currency_mismatch']
    purchase.amount = amount
    purchase.currency = [...currencies][0] ?? resources.get(purchase.queue)?.currency ?? null
    const limit = overLimit(purchase, amount)
    if (limit) return ['rejected', 'limit', limit]
    for (const [ref, units] of needed) {
      const resource = resources.get(ref)
      const available = resource?.available ?? 0
      /* guard:stock */
      if (available < units) return ['rejected', 'sold_out', { resource: ref, available }]
      /* end:stock */
    }
    if (wallet && wallet.available < amount) return ['failed', 'payment_declined']
    if (purchase.hold_seconds === null && !isCharged(purchase)) {
      moveUnits(purchase, -1, 0, 'sale')
      return ['confirmed']
    }
    if (purchase.hold_seconds === null) startCharge(purchase)
    else purchase.expires_ms = now_ms + purchase.hold_seconds * 1000
    moveUnits(purchase, -1, 1, 'hold')
    return ['held']
  }

  function expire(purchase: PurchaseRow): void {
    moveUnits(purchase, 1, -1, 'release')
    setStatus(purchase, 'expired')
  }

  /** Undefined when the command succeeded, else the reason of its rejection. */
  function executeCommand(purchase: PurchaseRow, { action, payment }: CommandRow): string | undefined {
    if (purchase.status === 'held' && purchase.expires_ms !== null && purchase.expires_ms <= now_ms) expire(purchase)
    const { status } = purchase
    if (action === 'paid' || action === 'unpaid')
      return applyChargeResult(purchase, action) ? undefined : 'wrong_status'
    if (action === 'confirm' && status === 'held') return confirm(purchase, payment)
    if (action === 'cancel' && status === 'queued') {
      setStatus(purchase, 'cancelled')
    } else if (action === 'cancel' && status === 'held') {
      moveUnits(purchase, 1, -1, 'release')
      setStatus(purchase, 'cancelled')
      if (purchase.charge !== null && !UNCHARGED.has(purchase.charge)) requestCharge('refund', purchase)
    } else if (action === 'refund' && status === 'confirmed') {
      if (isForeign(purchase, resources)) return 'currency_mismatch'
      moveUnits(purchase, 1, 0, 'refund')
      setStatus(purchase, 'refunded')
      if (isCharged(purchase)) requestCharge('refund', purchase)
    } else {
      return 'wrong_status'
    }
    return undefined
  }

  function confirm(purchase: PurchaseRow, given: Payment | null): string | undefined {
    const { charge, hold_seconds } = purchase
    // The `unpaid` of a failed charge is queued behind this confirm: apply it now.
    if (charge !== null && UNCHARGED.has(charge) && hold_seconds !== null && !resumeHold(purchase))
      return 'wrong_status'
    if (given !== null && !samePayment(given, purchase.payment)) {
      // One charge at a time: a second card is charged only after the first charge has failed.
      if (purchase.charge !== null) return 'payment_in_progress'
      // The wallet's money is held together with the units.
      if (purchase.payment.method === 'wallet') return 'payment_conflict'
      if (given.method === 'wallet') return payFromWallet(given.account, purchase)
      purchase.payment = given
      decision.payments.push({ of: 'purchase', id: purchase.id, payment: given })
    }
    // A second confirm joins the first: the charge is already in progress.
    if (purchase.charge !== null) return undefined
    if (isCharged(purchase)) {
      startCharge(purchase)
      setStatus(purchase, 'held')
    } else {
      moveUnits(purchase, 0, -1, 'release', 'sale')
      setStatus(purchase, 'confirmed')
    }
    return undefined
  }

  /** Sells the held units and takes their price from the wallet in the same settlement, or does neither. */
  function payFromWallet(account: string, purchase: PurchaseRow): string | undefined {
    const wallet = resources.get(account)
    const amount = purchase.amount ?? 0
    if (wallet?.kind !== 'units') return 'unknown_resource'
    if (amount > 0 && wallet.currency.toUpperCase() !== purchase.currency?.toUpperCase()) return 'currency_mismatch'
    if (purchase.items.some((item) => item.resource === account)) return 'payment_conflict'
    const had = wallet.holdings.get(purchase.customer) ?? 0
    if (wallet.max_per_customer !== null && had + amount > wallet.max_per_customer) return 'limit'
    if (wallet.available < amount) return 'payment_declined'
    moveUnits(purchase, 0, -1, 'release', 'sale')
    purchase.payment = { method: 'wallet', account }
    decision.payments.push({ of: 'purchase', id: purchase.id, payment: purchase.payment })
    if (amount > 0) {
      wallet.available -= amount
      if (wallet.max_per_customer !== null) wallet.holdings.set(purchase.customer, had + amount)
      touched.add(wallet)
      decision.ledger.push({
        resource_id: account,
        purchase_id: purchase.id,
        delta: -amount,
        reason: 'sale',
        fencing_token: wallet.token,
      })
    }
    setStatus(purchase, 'confirmed')
    return undefined
  }

  /** Restores the original end of the hold after a failed charge. False when that end is past. */
  function resumeHold(purchase: PurchaseRow): boolean {
    decision.attempts.push(purchase.id)
    purchase.charge = null
    purchase.expires_ms = purchase.hold_until_ms ?? purchase.expires_ms
    purchase.hold_until_ms = null
    const open = purchase.expires_ms === null || purchase.expires_ms > now_ms
    if (open) setStatus(purchase, 'held')
    else expire(purchase)
    return open
  }

  /** Applies the outcome of the charge: `paid` (the money is reserved) or `unpaid` (none was and none will be taken). */
  function applyChargeResult(purchase: PurchaseRow, action: 'paid' | 'unpaid'): boolean {
    const { status, charge } = purchase
    if (action === 'unpaid') {
      // The outcome of an earlier charge, which may have been followed by another one: nothing is left to apply.
      if (charge === null || !UNCHARGED.has(charge)) return true
      if (status !== 'held') return status === 'expired' || status === 'cancelled'
      if (purchase.hold_seconds !== null) {
        resumeHold(purchase)
        return true
      }
      moveUnits(purchase, 1, -1, 'release')
      setStatus(purchase, 'failed', charge === 'declined' ? 'payment_declined' : 'payment_unavailable')
    } else if (status === 'held') {
      moveUnits(purchase, 0, -1, 'release', 'sale')
      setStatus(purchase, 'confirmed')
      requestCharge('capture', purchase)
    } else if (status === 'expired' && replaceExpired(purchase)) {
      requestCharge('capture', purchase)
    } else {
      // Too late for the units, or cancelled by the buyer: refund the money, once.
      requestCharge('refund', purchase)
    }
    return true
  }

  /** The expired purchase stays expired; its late money buys the same units at the same price as a new purchase. */
  function replaceExpired(purchase: PurchaseRow): boolean {
    const needed = unitsByResource(purchase, purchase.amount ?? 0)
    const inStock = Array.from(needed).every(([ref, units]) => (resources.get(ref)?.available ?? 0) >= units)
    if (!inStock || overLimit(purchase, purchase.amount ?? 0)) return false
    const id = newId()
    moveUnits({ ...purchase, id }, -1, 0, 'sale')
    decision.replacements.push({ id, replaces_id: purchase.id, fencing_token: tokenFor(purchase) })
    return true
  }

  for (const item of items) {
    const { purchase } = item
    if (item.kind === 'purchase') {
      if (purchase.status === 'queued') setStatus(purchase, ...decideNew(purchase))
    } else if (item.kind === 'expired') {
      if (purchase.status === 'held' && purchase.expires_ms !== null && purchase.expires_ms <= now_ms) expire(purchase)
      else decision.skipped.push(item)
    } else if (purchase.status === 'queued' && item.command.action !== 'cancel') {
      // Its purchase has not been settled yet (a missed lease, a later batch): the command waits behind it.
      decision.skipped.push(item)
    } else {
      // A cancel that came before its purchase was settled in this batch has already taken effect.
      const first = item.command.action === 'cancel' && cancelled.delete(purchase.id)
      const wasQueued = first && changes.get(purchase.id)?.was === 'queued' && purchase.status === 'cancelled'
      const before = wasQueued ? 'queued' : purchase.status
      const refusal = wasQueued ? undefined : executeCommand(purchase, item.command)
      decision.commands.push({
        id: item.command.id,
        status: refusal === undefined ? 'done' : 'rejected',
        reason: refusal ?? null,
        observed_status: refusal === undefined ? before : purchase.status,
        fencing_token: tokenFor(purchase),
      })
    }
  }
  decision.purchases = [...changes.values()]
  decision.resources = [...touched]
  return decision
}
