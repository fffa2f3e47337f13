/**
 * Decides the purchases of a batch, in memory and without I/O. Invariant: items are decided in the given order
 * (but a cancel takes effect before its queued purchase), and every change of units has a ledger entry, so that the
 * total, available, held and sold units of a resource can each be computed from its entries.
 * Tests remove the code between the guard markers (test/races, test/chaos).
 */
import type { ChargeCommand, Payment } from '../../shared/domain/charge.ts'
import { sameCurrency } from '../../shared/domain/currency.ts'
import { MOVES, type Observed, type PurchaseMove, type PurchaseStatus } from '../../shared/domain/purchase.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import {
  chargeFailed,
  chargeRequest,
  deltaOf,
  extendHold,
  isCharged,
  isForeign,
  isPast,
  mayBeCharged,
  restoreHold,
  samePayment,
  UnprocessableError,
} from './common.ts'
import type {
  ChargeRequest,
  LedgerEntry,
  PurchaseChange,
  PurchaseCommandRow,
  PurchaseDecision,
  PurchaseItem,
  PurchaseRow,
  Resource,
} from './types.ts'

const isUnits = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0

/**
 * Returns the units that a purchase needs of each resource: its merged items, and its price as units of the wallet that
 * pays.
 */
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

/** Returns every resource that the settlement of this item may write. @throws UnprocessableError */
export function resourcesOfPurchase(item: PurchaseItem): string[] {
  const { purchase } = item
  // Cancelling a queued purchase moves no units, so the resource of its queue is enough. For any other command, return
  // all resources: an earlier item of this batch may settle the purchase first.
  if (item.command?.action === 'cancel' && purchase.status === 'queued') return [purchase.queue]
  const refs = new Set(unitsByResource(purchase, 1).keys())
  if (item.command?.payment?.method === 'wallet') refs.add(item.command.payment.account)
  return [...refs]
}

/**
 * Decides the items in order. `now_ms`: the database clock, read after the row locks were acquired.
 * @throws UnprocessableError
 */
export const decidePurchases = (
  items: readonly PurchaseItem[],
  resources: ReadonlyMap<string, Resource>,
  now_ms: number,
): PurchaseDecision => new PurchaseBatch(resources, now_ms).decide(items)

/**
 * Returns a map from purchase id to the first cancel command, for purchases that are still queued. The cancel takes
 * effect before the purchase is decided, so that no unit is sold to or held for a buyer who has already cancelled.
 */
function cancelsOfQueued(items: readonly PurchaseItem[]): ReadonlyMap<string, PurchaseCommandRow> {
  const cancels = new Map<string, PurchaseCommandRow>()
  for (const { purchase, command } of items) {
    if (command?.action !== 'cancel' || purchase.status !== 'queued' || cancels.has(purchase.id)) continue
    cancels.set(purchase.id, command)
  }
  return cancels
}

/** The comparison is a call, because the transpiler keeps the guard markers only among arguments. */
const isLess = (a: number, b: number) => a < b

/** Decides one batch. The decision about an item is visible to the items after it. */
class PurchaseBatch {
  readonly #resources: ReadonlyMap<string, Resource>
  readonly #now_ms: number
  readonly #changes = new Map<string, PurchaseChange>()
  readonly #touched = new Set<Resource>()
  readonly #decision: PurchaseDecision = {
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

  constructor(resources: ReadonlyMap<string, Resource>, now_ms: number) {
    this.#resources = resources
    this.#now_ms = now_ms
  }

  decide(items: readonly PurchaseItem[]): PurchaseDecision {
    const cancels = cancelsOfQueued(items)
    for (const item of items) {
      const { purchase } = item
      if (item.kind === 'purchase') {
        if (purchase.status === 'queued') {
          if (cancels.has(purchase.id)) this.#applyMove(purchase, 'cancel')
          else this.#decideNew(purchase)
        }
      } else if (item.kind === 'expired') {
        if (this.#isOverdue(purchase)) this.#expire(purchase)
        else this.#decision.skipped.push(item)
      } else if (cancels.get(purchase.id) === item.command) {
        // If the purchase itself was earlier in this batch, it is cancelled already.
        if (purchase.status === 'queued') this.#applyMove(purchase, 'cancel')
        this.#endCommand(item, undefined, 'queued')
      } else if (purchase.status === 'queued') {
        // The purchase has not been settled yet (its lease was not acquired, or it comes in a later batch): the command
        // waits for it.
        this.#decision.skipped.push(item)
      } else {
        const before = purchase.status
        const refusal = this.#executeCommand(purchase, item.command)
        this.#endCommand(item, refusal, refusal === undefined ? before : purchase.status)
      }
    }
    this.#decision.purchases = [...this.#changes.values()]
    this.#decision.resources = [...this.#touched]
    return this.#decision
  }

  /** Adds the outcome of a command to the decision, with the purchase's status that the command observed. */
  #endCommand(
    { purchase, command }: PurchaseItem & { kind: 'command' },
    refusal: string | undefined,
    observed_status: PurchaseStatus,
  ): void {
    this.#decision.commands.push({
      id: command.id,
      status: refusal === undefined ? 'done' : 'rejected',
      reason: refusal ?? null,
      observed_status,
      fencing_token: this.#tokenFor(purchase),
    })
  }

  /**
   * Returns the fencing token of the row's own queue. An overdue hold of several resources can be fetched through the
   * queue of any of them: if the row's own queue is not in this batch, returns the token of one that is.
   */
  #tokenFor(purchase: PurchaseRow): number {
    const own =
      this.#resources.get(purchase.queue) ??
      purchase.items.map((item) => this.#resources.get(item.resource)).find((resource) => resource)
    return own?.token ?? 0
  }

  #applyMove(purchase: PurchaseRow, move: PurchaseMove, reason?: string, observed?: Observed): void {
    const status = MOVES[purchase.status][move]
    if (status === undefined) {
      throw new UnprocessableError(`${move} does not apply to a purchase that is ${purchase.status}`)
    }
    this.#setStatus(purchase, status, reason, observed)
  }

  #setStatus(purchase: PurchaseRow, status: PurchaseStatus, reason?: string, observed?: Observed): void {
    this.#changes.set(purchase.id, {
      id: purchase.id,
      was: this.#changes.get(purchase.id)?.was ?? purchase.status,
      status,
      reason: reason ?? null,
      observed: observed ?? null,
      amount: purchase.amount,
      currency: purchase.currency,
      expires_ms: purchase.expires_ms,
      fencing_token: this.#tokenFor(purchase),
    })
    purchase.status = status
  }

  /**
   * Moves the purchase's units in each of its resources: adds `available` (−1, 0 or 1) times the units to the available
   * units and `held` likewise to the held units; adds one ledger entry per resource and reason.
   */
  #moveUnits(purchase: PurchaseRow, available: number, held: number, ...reasons: LedgerEntry['reason'][]): void {
    for (const [ref, units] of unitsByResource(purchase, purchase.amount ?? 0)) {
      const resource = this.#resources.get(ref)
      if (!resource) throw new UnprocessableError(`${ref} is gone`)
      resource.available += available * units
      resource.held += held * units
      this.#touched.add(resource)
      if (resource.max_per_customer !== null) {
        const had = resource.holdings.get(purchase.customer) ?? 0
        resource.holdings.set(purchase.customer, had - available * units)
      }
      for (const reason of reasons) this.#addEntry(resource, purchase, reason, units)
    }
  }

  #addEntry(resource: Resource, purchase: PurchaseRow, reason: LedgerEntry['reason'], units: number): void {
    this.#decision.ledger.push({
      resource_id: resource.id,
      purchase_id: purchase.id,
      delta: deltaOf(reason, units),
      reason,
      fencing_token: resource.token,
    })
  }

  /** Returns the first of these resources whose limit per customer the purchase would exceed, with that limit. */
  #overLimit(purchase: PurchaseRow, needed: ReadonlyMap<string, number>): Observed | undefined {
    for (const [resource, units] of needed) {
      const { max_per_customer = null, holdings } = this.#resources.get(resource) ?? {}
      if (max_per_customer === null) continue
      if ((holdings?.get(purchase.customer) ?? 0) + units > max_per_customer) return { resource, max_per_customer }
    }
    return undefined
  }

  #requestCharge(step: ChargeRequest['step'], purchase: PurchaseRow): void {
    this.#decision.chargeRequests.push(chargeRequest('purchase', step, purchase))
  }

  /** Requests the charge and extends the hold, so that it does not expire before the charge has had time to end. */
  #startCharge(purchase: PurchaseRow): void {
    extendHold(purchase, this.#now_ms)
    this.#requestCharge('charge', purchase)
  }

  #decideNew(purchase: PurchaseRow): void {
    const needed = unitsByResource(purchase, 0)
    const wrong = this.#price(purchase, needed)
    if (wrong !== undefined) {
      this.#applyMove(purchase, 'refuse', wrong)
      return
    }
    const amount = purchase.amount ?? 0
    const { payment } = purchase
    const limit = this.#overLimit(purchase, payment.method === 'wallet' ? unitsByResource(purchase, amount) : needed)
    const short = limit ? undefined : this.#firstShort(needed)
    if (limit) this.#applyMove(purchase, 'refuse', 'limit', limit)
    else if (short) this.#applyMove(purchase, 'refuse', 'sold_out', short)
    else if (payment.method === 'wallet' && (this.#resources.get(payment.account)?.available ?? 0) < amount) {
      this.#applyMove(purchase, 'fail', 'payment_declined')
    } else this.#sellOrHold(purchase)
  }

  /**
   * Sets the amount and currency of a queued purchase. Returns the reason if it cannot be sold however much is in
   * stock, otherwise undefined.
   */
  #price(purchase: PurchaseRow, needed: ReadonlyMap<string, number>): string | undefined {
    let amount = 0
    const currencies = new Set<string>()
    for (const [ref, units] of needed) {
      const resource = this.#resources.get(ref)
      if (resource?.kind !== 'units') return 'unknown_resource'
      // Accounts are not for sale. The API already rejects them; this check covers rows that were not written by the
      // API.
      if (isAccount(ref)) return 'wrong_kind'
      amount += resource.price * units
      if (resource.price > 0) currencies.add(resource.currency.toUpperCase())
    }
    if (!Number.isSafeInteger(amount)) return 'amount_too_large'
    const { payment } = purchase
    if (payment.method === 'wallet') {
      const wallet = this.#resources.get(payment.account)
      if (wallet?.kind !== 'units') return 'unknown_resource'
      if (amount > 0) currencies.add(wallet.currency.toUpperCase())
    }
    if (currencies.size > 1) return 'currency_mismatch'
    purchase.amount = amount
    purchase.currency = [...currencies][0] ?? this.#resources.get(purchase.queue)?.currency ?? null
    return undefined
  }

  /** Returns the first resource with fewer available units than the purchase needs. */
  #firstShort(needed: ReadonlyMap<string, number>): Observed | undefined {
    for (const [resource, units] of needed) {
      const available = this.#availableOf(resource)
      if (isLess(available, /* guard:stock */ units /* end:stock */)) return { resource, available }
    }
    return undefined
  }

  #availableOf(ref: string): number {
    return this.#resources.get(ref)?.available ?? 0
  }

  #sellOrHold(purchase: PurchaseRow): void {
    const { hold_seconds } = purchase
    if (hold_seconds === null && !isCharged(purchase)) {
      this.#moveUnits(purchase, -1, 0, 'sale')
      this.#applyMove(purchase, 'sell')
    } else {
      if (hold_seconds === null) this.#startCharge(purchase)
      else purchase.expires_ms = this.#now_ms + hold_seconds * 1000
      this.#moveUnits(purchase, -1, 1, 'hold')
      this.#applyMove(purchase, 'hold')
    }
  }

  #isOverdue(purchase: PurchaseRow): boolean {
    return purchase.status === 'held' && isPast(purchase.expires_ms, this.#now_ms)
  }

  #expire(purchase: PurchaseRow): void {
    this.#moveUnits(purchase, 1, -1, 'release')
    this.#applyMove(purchase, 'expire')
  }

  /** Executes the command. Returns undefined if it succeeded, otherwise the reason for its rejection. */
  #executeCommand(purchase: PurchaseRow, { action, payment }: PurchaseCommandRow): string | undefined {
    if (this.#isOverdue(purchase)) this.#expire(purchase)
    if (action === 'paid' || action === 'unpaid') {
      return this.#applyChargeResult(purchase, action) ? undefined : 'wrong_status'
    }
    if (MOVES[purchase.status][action] === undefined) return 'wrong_status'
    if (action === 'confirm') return this.#confirm(purchase, payment)
    if (action === 'refund') {
      if (isForeign(purchase, this.#resources)) return 'currency_mismatch'
      this.#moveUnits(purchase, 1, 0, 'refund')
      if (isCharged(purchase)) this.#requestCharge('refund', purchase)
    } else {
      // Here the action is `cancel` and the purchase is held: decide() has already cancelled queued purchases, without
      // moving units.
      this.#moveUnits(purchase, 1, -1, 'release')
      if (mayBeCharged(purchase)) this.#requestCharge('refund', purchase)
    }
    this.#applyMove(purchase, action)
    return undefined
  }

  #confirm(purchase: PurchaseRow, given: Payment | null): string | undefined {
    // The `unpaid` of a failed charge is queued behind this confirm: apply it now.
    if (chargeFailed(purchase) && purchase.hold_seconds !== null && !this.#resumeHold(purchase)) return 'wrong_status'
    if (given !== null && !samePayment(given, purchase.payment)) {
      // One charge at a time: a second card is charged only after the first charge has failed.
      if (purchase.charge !== null) return 'payment_in_progress'
      // A hold already covers the wallet's money and the units together.
      if (purchase.payment.method === 'wallet') return 'payment_conflict'
      if (given.method === 'wallet') return this.#payFromWallet(purchase, given.account)
      this.#setPayment(purchase, given)
    }
    // A second confirm starts no second charge: its caller waits for the outcome of the first.
    if (purchase.charge !== null) return undefined
    if (isCharged(purchase)) {
      this.#startCharge(purchase)
      this.#setStatus(purchase, 'held')
    } else {
      this.#moveUnits(purchase, 0, -1, 'release', 'sale')
      this.#applyMove(purchase, 'confirm')
    }
    return undefined
  }

  /**
   * Sells the held units and takes their price from the wallet in the same settlement, or does neither. Returns the
   * reason if it does neither.
   */
  #payFromWallet(purchase: PurchaseRow, account: string): string | undefined {
    const wallet = this.#resources.get(account)
    const amount = purchase.amount ?? 0
    if (wallet?.kind !== 'units') return 'unknown_resource'
    if (amount > 0 && !sameCurrency(wallet.currency, purchase.currency ?? '')) return 'currency_mismatch'
    if (purchase.items.some((item) => item.resource === account)) return 'payment_conflict'
    const had = wallet.holdings.get(purchase.customer) ?? 0
    if (wallet.max_per_customer !== null && had + amount > wallet.max_per_customer) return 'limit'
    if (wallet.available < amount) return 'payment_declined'
    // Move units before #setPayment, otherwise #moveUnits would also take held units from the wallet, which has none
    // for this purchase.
    this.#moveUnits(purchase, 0, -1, 'release', 'sale')
    this.#setPayment(purchase, { method: 'wallet', account })
    if (amount > 0) {
      wallet.available -= amount
      if (wallet.max_per_customer !== null) wallet.holdings.set(purchase.customer, had + amount)
      this.#touched.add(wallet)
      this.#addEntry(wallet, purchase, 'sale', amount)
    }
    this.#applyMove(purchase, 'confirm')
    return undefined
  }

  #setPayment(purchase: PurchaseRow, payment: Payment): void {
    purchase.payment = payment
    this.#decision.payments.push({ of: 'purchase', id: purchase.id, payment })
  }

  /** Restores the original end of the hold after a failed charge. Returns false if that end is past. */
  #resumeHold(purchase: PurchaseRow): boolean {
    this.#decision.attempts.push(purchase.id)
    restoreHold(purchase)
    if (isPast(purchase.expires_ms, this.#now_ms)) {
      this.#expire(purchase)
      return false
    }
    this.#setStatus(purchase, 'held')
    return true
  }

  /**
   * Applies the outcome of the charge: `paid` (the provider has reserved the money) or `unpaid` (the provider has not
   * taken money and never will). Returns false if the status does not allow it.
   */
  #applyChargeResult(purchase: PurchaseRow, result: ChargeCommand): boolean {
    const { status, charge } = purchase
    if (result === 'unpaid') {
      // This result belongs to an earlier charge and has already been applied; the current charge may be another one.
      if (!chargeFailed(purchase)) return true
      if (status !== 'held') return status === 'expired' || status === 'cancelled'
      if (purchase.hold_seconds !== null) {
        this.#resumeHold(purchase)
        return true
      }
      this.#moveUnits(purchase, 1, -1, 'release')
      this.#applyMove(purchase, 'unpaid', charge === 'declined' ? 'payment_declined' : 'payment_unavailable')
    } else if (status === 'held') {
      this.#moveUnits(purchase, 0, -1, 'release', 'sale')
      this.#applyMove(purchase, 'paid')
      this.#requestCharge('capture', purchase)
    } else if (status === 'expired' && this.#replaceExpired(purchase)) {
      this.#requestCharge('capture', purchase)
    } else {
      // The units are no longer in stock, or the buyer has cancelled: request the refund. A second request adds no refund.
      this.#requestCharge('refund', purchase)
    }
    return true
  }

  /**
   * Adds a new purchase of the same units at the same price, paid with the late money of an expired purchase, which
   * stays expired. Returns false if the units are not in stock or exceed the customer's limit.
   */
  #replaceExpired(purchase: PurchaseRow): boolean {
    const needed = unitsByResource(purchase, purchase.amount ?? 0)
    const inStock = [...needed].every(([ref, units]) => this.#availableOf(ref) >= units)
    if (!inStock || this.#overLimit(purchase, needed)) return false
    const id = newId()
    this.#moveUnits({ ...purchase, id }, -1, 0, 'sale')
    this.#decision.replacements.push({ id, replaces_id: purchase.id, fencing_token: this.#tokenFor(purchase) })
    return true
  }
}
