/**
 * Decides the bookings of a batch, in memory and without I/O. Invariants: a booking gets its time only when no other
 * active booking overlaps it, and a ride only when its rider has no other active ride; a requested booking that is
 * overdue by the database clock is expired first and never conflicts; every change of a wallet's units has a ledger
 * entry.
 * Tests remove the code between the guard markers (test/races, test/chaos).
 */
import {
  type BookingMove,
  type BookingStatus,
  isActive,
  isOver,
  MOVES,
  refusedByTime,
} from '../../shared/domain/booking.ts'
import type { ChargeCommand, Payment } from '../../shared/domain/charge.ts'
import { sameCurrency } from '../../shared/domain/currency.ts'
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
  BookingChange,
  BookingCommandRow,
  BookingDecision,
  BookingItem,
  BookingRow,
  ChargeRequest,
  LedgerEntry,
  Resource,
} from './types.ts'

const DAY_MS = 86_400_000
/** Most ids of conflicting bookings that one rejection names. */
const NAMED = 20

/** Returns every resource that the settlement of this pending row may write. */
export function resourcesOfBooking({ booking: { queue, payment }, command }: BookingItem): string[] {
  const wallets = [payment, command?.payment].flatMap((one) => (one?.method === 'wallet' ? [one.account] : []))
  return [...new Set([queue, ...wallets])]
}

/**
 * Decides the pending rows in order. `active`: the active bookings of these queues and riders, read under the row locks.
 * `now_ms`: the database clock, read after the locks were acquired. `accept_ms`: how long a driver has to accept a
 * ride.
 * @throws UnprocessableError
 */
export function decideBookings(
  items: readonly BookingItem[],
  active: readonly BookingRow[],
  resources: ReadonlyMap<string, Resource>,
  now_ms: number,
  accept_ms: number,
): BookingDecision {
  const own = new Map(items.map(({ booking }) => [booking.id, booking]))
  const bookings = new ActiveBookings()
  // A booking may be both pending and active. Use one object for both, so that the decision about its row is visible when
  // later rows are decided.
  for (const row of active) bookings.update(own.get(row.id) ?? row)
  return new BookingBatch(bookings, resources, now_ms, accept_ms).decide(items)
}

const overlap = (a: BookingRow, b: BookingRow) =>
  a.from_ms < (b.until_ms ?? Number.POSITIVE_INFINITY) && b.from_ms < (a.until_ms ?? Number.POSITIVE_INFINITY)

/** Sets the amount and currency of a stay. The amount is null if it exceeds the largest safe integer. */
function price(stay: BookingRow, resource: Resource): void {
  const days = stay.days ?? Math.ceil(((stay.until_ms ?? stay.from_ms) - stay.from_ms) / DAY_MS)
  const amount = resource.price * days
  stay.amount = Number.isSafeInteger(amount) ? amount : null
  stay.currency = resource.currency
}

/** Index of the active bookings by calendar and by rider. */
class ActiveBookings {
  readonly #calendars = new Map<string, Set<BookingRow>>()
  readonly #riders = new Map<string, Set<BookingRow>>()

  /** Adds the booking if its status is active, and removes it otherwise. */
  update(booking: BookingRow): void {
    updateIndex(this.#calendars, booking.queue, booking)
    if (booking.kind === 'ride') updateIndex(this.#riders, booking.customer, booking)
  }

  /**
   * Returns the active bookings that overlap this booking in its calendar, and for a ride also those of the same rider.
   */
  conflicting(booking: BookingRow): BookingRow[] {
    const calendar = [...(this.#calendars.get(booking.queue) ?? [])]
    const here = calendar.filter((row) => /* guard:overlap */ overlap(row, booking) /* end:overlap */)
    const rides = booking.kind === 'ride' ? [...(this.#riders.get(booking.customer) ?? [])] : []
    return [...new Set([...here, ...rides])]
  }
}

function updateIndex(index: Map<string, Set<BookingRow>>, key: string, booking: BookingRow): void {
  if (isActive(booking.status)) index.set(key, (index.get(key) ?? new Set()).add(booking))
  else index.get(key)?.delete(booking)
}

/** Decides one batch. The decision about a row is visible when later rows are decided. */
class BookingBatch {
  readonly #active: ActiveBookings
  readonly #resources: ReadonlyMap<string, Resource>
  readonly #now_ms: number
  readonly #accept_ms: number
  readonly #changes = new Map<string, BookingChange>()
  readonly #touched = new Set<Resource>()
  readonly #overdue = new Set<string>()
  readonly #decision: BookingDecision = {
    bookings: [],
    overdue: [],
    commands: [],
    ledger: [],
    resources: [],
    chargeRequests: [],
    payments: [],
    attempts: [],
    replacements: [],
    skipped: [],
  }

  constructor(active: ActiveBookings, resources: ReadonlyMap<string, Resource>, now_ms: number, accept_ms: number) {
    this.#active = active
    this.#resources = resources
    this.#now_ms = now_ms
    this.#accept_ms = accept_ms
  }

  decide(items: readonly BookingItem[]): BookingDecision {
    for (const item of items) {
      const { booking } = item
      if (item.kind === 'booking') {
        if (booking.status === 'queued' && !this.#decideNew(booking)) this.#decision.skipped.push(item)
      } else if (item.kind === 'expired') {
        if (this.#isOverdue(booking)) this.#expire(booking)
        else if (booking.status === 'requested') this.#decision.skipped.push(item)
      } else if (booking.status === 'queued' && item.command.action !== 'cancel') {
        // The booking has not been settled yet (its lease was not acquired, or it comes in a later batch): the command
        // waits for it.
        this.#decision.skipped.push(item)
      } else {
        if (this.#isOverdue(booking)) this.#expire(booking)
        const before = booking.status
        const refusal = this.#executeCommand(booking, item.command)
        this.#decision.commands.push({
          id: item.command.id,
          status: refusal === undefined ? 'done' : 'rejected',
          reason: refusal ?? null,
          observed_status: before,
          fencing_token: this.#tokenFor(booking),
        })
      }
    }
    this.#decision.bookings = [...this.#changes.values()]
    this.#decision.overdue = [...this.#overdue]
    this.#decision.resources = [...this.#touched]
    return this.#decision
  }

  #tokenFor(booking: BookingRow): number {
    return this.#resources.get(booking.queue)?.token ?? 0
  }

  #applyMove(booking: BookingRow, move: BookingMove, reason?: string, conflicting_ids?: string[]): void {
    const status = MOVES[booking.status][move]
    if (status === undefined) {
      throw new UnprocessableError(`${move} does not apply to a booking that is ${booking.status}`)
    }
    this.#setStatus(booking, status, reason, conflicting_ids)
    this.#active.update(booking)
  }

  #setStatus(booking: BookingRow, status: BookingStatus, reason?: string, conflicting_ids?: string[]): void {
    this.#changes.set(booking.id, {
      id: booking.id,
      customer: booking.customer,
      was: this.#changes.get(booking.id)?.was ?? booking.status,
      status,
      reason: reason ?? null,
      conflicting_ids: conflicting_ids ?? null,
      amount: booking.amount,
      currency: booking.currency,
      expires_ms: booking.expires_ms,
      fencing_token: this.#tokenFor(booking),
    })
    booking.status = status
  }

  /**
   * Moves the booking's price in the wallet that pays, if there is one: adds `available` (−1, 0 or 1) times the price to
   * the wallet's available units and `held` likewise to its held units; adds one ledger entry per reason.
   */
  #moveUnits(booking: BookingRow, available: number, held: number, ...reasons: LedgerEntry['reason'][]): void {
    const { payment, amount } = booking
    if (payment.method !== 'wallet' || !amount) return
    const wallet = this.#resources.get(payment.account)
    if (!wallet) throw new UnprocessableError(`${payment.account} is gone`)
    wallet.available += available * amount
    wallet.held += held * amount
    this.#touched.add(wallet)
    for (const reason of reasons) {
      this.#decision.ledger.push({
        resource_id: wallet.id,
        booking_id: booking.id,
        delta: deltaOf(reason, amount),
        reason,
        fencing_token: wallet.token,
      })
    }
  }

  #requestCharge(step: ChargeRequest['step'], booking: BookingRow): void {
    this.#decision.chargeRequests.push(chargeRequest('booking', step, booking))
  }

  /** Requests the charge and extends the hold, so that the booking does not expire before the charge has had time to end. */
  #startCharge(booking: BookingRow): void {
    extendHold(booking, this.#now_ms)
    this.#requestCharge('charge', booking)
  }

  #isOverdue(booking: BookingRow): boolean {
    return booking.status === 'requested' && isPast(booking.expires_ms, this.#now_ms)
  }

  /**
   * Expires an overdue booking. Returns false if this batch cannot expire it, because the batch has no lease on the
   * booking's wallet.
   */
  #expire(booking: BookingRow): boolean {
    const { payment } = booking
    if (payment.method === 'wallet' && !this.#resources.has(payment.account)) return false
    if (this.#resources.has(booking.queue)) {
      this.#moveUnits(booking, 1, -1, 'release')
      this.#applyMove(booking, 'expire')
    } else {
      this.#overdue.add(booking.id)
      booking.status = 'expired'
      this.#active.update(booking)
    }
    return true
  }

  /**
   * Decides a queued booking. Returns false if this batch cannot expire an overdue booking that conflicts with it: the
   * next round decides the queued booking.
   */
  #decideNew(booking: BookingRow): boolean {
    const resource = this.#resources.get(booking.queue)
    if (resource?.kind !== 'calendar' || isAccount(booking.queue)) {
      this.#applyMove(booking, 'refuse', resource?.kind === 'calendar' ? 'wrong_kind' : 'unknown_resource')
      return true
    }
    if (booking.kind === 'stay') price(booking, resource)
    const rivals = this.#active.conflicting(booking)
    // Expire overdue bookings first. If one of them needs a wallet whose lease another worker holds, retry in the next
    // round.
    if (!rivals.filter((row) => this.#isOverdue(row)).every((row) => this.#expire(row))) return false
    const conflicting_ids = rivals.filter((row) => isActive(row.status)).map((row) => row.id)
    // The stay may have ended while it was queued.
    if (isOver(booking, this.#now_ms)) this.#applyMove(booking, 'refuse', 'too_late')
    else if (conflicting_ids.length > 0) {
      this.#applyMove(booking, 'refuse', 'conflict', conflicting_ids.slice(0, NAMED))
    } else {
      const refusal = this.#refusePayment(booking, resource)
      if (refusal !== undefined) this.#applyMove(booking, 'refuse', refusal)
      else this.#grantTime(booking)
    }
    return true
  }

  /**
   * Returns the reason why a queued booking cannot be paid, or undefined if it can. A ride has no price yet, so its
   * amount is not checked.
   */
  #refusePayment(booking: BookingRow, resource: Resource): string | undefined {
    const { payment, amount, kind } = booking
    if (kind === 'stay' && amount === null) return 'amount_too_large'
    if (payment.method === 'card' && kind === 'ride') return 'payment_unavailable'
    if (payment.method !== 'wallet') return undefined
    const wallet = this.#resources.get(payment.account)
    if (wallet?.kind !== 'units') return 'unknown_resource'
    if (amount && !sameCurrency(wallet.currency, resource.currency)) return 'currency_mismatch'
    return wallet.available < (amount ?? 0) ? 'payment_declined' : undefined
  }

  #grantTime(booking: BookingRow): void {
    const { kind, hold_seconds } = booking
    const wait_ms = kind === 'ride' ? this.#accept_ms : hold_seconds === null ? null : hold_seconds * 1000
    if (wait_ms === null && !isCharged(booking)) {
      this.#moveUnits(booking, -1, 0, 'sale')
      this.#applyMove(booking, 'book')
    } else {
      if (wait_ms === null) this.#startCharge(booking)
      else booking.expires_ms = this.#now_ms + wait_ms
      this.#moveUnits(booking, -1, 1, 'hold')
      this.#applyMove(booking, 'request')
    }
  }

  /** Executes the command. Returns undefined if it succeeded, otherwise the reason for its rejection. */
  #executeCommand(booking: BookingRow, { action, payment }: BookingCommandRow): string | undefined {
    if (action === 'paid' || action === 'unpaid') {
      return this.#applyChargeResult(booking, action) ? undefined : 'wrong_status'
    }
    const was = booking.status
    const next = MOVES[was][action]
    if (next === undefined) return 'wrong_status'
    const ill_timed = refusedByTime(booking, action, this.#now_ms)
    if (ill_timed) return ill_timed
    if (action === 'accept') return this.#accept(booking, payment)
    if (was === 'requested') {
      this.#moveUnits(booking, 1, -1, 'release')
      if (mayBeCharged(booking)) this.#requestCharge('refund', booking)
    } else if (was === 'accepted' && next === 'cancelled') {
      if (isForeign(booking, this.#resources)) return 'currency_mismatch'
      this.#moveUnits(booking, 1, 0, 'refund')
      if (isCharged(booking)) this.#requestCharge('refund', booking)
    }
    this.#applyMove(booking, action)
    return undefined
  }

  #accept(booking: BookingRow, given: Payment | null): string | undefined {
    // The `unpaid` of a failed charge is queued behind this accept: apply it now.
    if (chargeFailed(booking) && booking.hold_seconds !== null && !this.#resumeHold(booking)) return 'wrong_status'
    if (given !== null && !samePayment(given, booking.payment)) {
      if (booking.kind === 'ride') return 'payment_unavailable'
      // One charge at a time: a second card is charged only after the first charge has failed.
      if (booking.charge !== null) return 'payment_in_progress'
      // The wallet's money is already held for this booking, so no other payment can replace it.
      if (booking.payment.method === 'wallet') return 'payment_conflict'
      if (given.method === 'wallet') return this.#payFromWallet(booking, given.account)
      this.#setPayment(booking, given)
    }
    // The booking becomes accepted when its charge is paid. A second accept starts no second charge: its caller waits for
    // the outcome of the first.
    if (booking.charge !== null) return undefined
    if (isCharged(booking)) {
      this.#startCharge(booking)
      this.#setStatus(booking, booking.status)
    } else {
      this.#moveUnits(booking, 0, -1, 'release', 'sale')
      this.#applyMove(booking, 'accept')
    }
    return undefined
  }

  /**
   * Takes the price from the wallet and accepts the booking in the same settlement, or does neither. Returns the reason
   * if it does neither.
   */
  #payFromWallet(booking: BookingRow, account: string): string | undefined {
    const wallet = this.#resources.get(account)
    const amount = booking.amount ?? 0
    if (wallet?.kind !== 'units') return 'unknown_resource'
    if (amount > 0 && !sameCurrency(wallet.currency, booking.currency ?? '')) return 'currency_mismatch'
    if (wallet.available < amount) return 'payment_declined'
    // Set the payment before #moveUnits, which takes the units from the wallet of the current payment.
    this.#setPayment(booking, { method: 'wallet', account })
    this.#moveUnits(booking, -1, 0, 'sale')
    this.#applyMove(booking, 'accept')
    return undefined
  }

  #setPayment(booking: BookingRow, payment: Payment): void {
    booking.payment = payment
    this.#decision.payments.push({ of: 'booking', id: booking.id, payment })
  }

  /** Restores the original end of the hold after a failed charge. Returns false if that end is past. */
  #resumeHold(booking: BookingRow): boolean {
    this.#decision.attempts.push(booking.id)
    restoreHold(booking)
    if (this.#isOverdue(booking)) {
      this.#expire(booking)
      return false
    }
    this.#setStatus(booking, booking.status)
    return true
  }

  /**
   * Applies the outcome of the charge: `paid` (the provider has reserved the money) or `unpaid` (the provider has not
   * taken money and never will). Returns false if the status does not allow it.
   */
  #applyChargeResult(booking: BookingRow, result: ChargeCommand): boolean {
    const { status, charge } = booking
    if (result === 'unpaid') {
      // The current charge has not failed, so this result is about an earlier charge; an accept has already applied it.
      if (!chargeFailed(booking)) return true
      if (status !== 'requested') return status === 'expired' || status === 'cancelled' || status === 'declined'
      if (booking.hold_seconds !== null) {
        this.#resumeHold(booking)
        return true
      }
      this.#applyMove(booking, 'unpaid', charge === 'declined' ? 'payment_declined' : 'payment_unavailable')
    } else if (status === 'requested') {
      this.#applyMove(booking, 'paid')
      this.#requestCharge('capture', booking)
    } else if (status === 'expired' && this.#replaceExpired(booking)) {
      this.#requestCharge('capture', booking)
    } else {
      // The time is no longer free, or the booking was cancelled: request the refund. A second request adds no refund.
      this.#requestCharge('refund', booking)
    }
    return true
  }

  /**
   * Adds a new booking of the same time and price, paid with the late money of an expired booking, which stays expired.
   * Returns false if the time is over or not free.
   */
  #replaceExpired(booking: BookingRow): boolean {
    if (isOver(booking, this.#now_ms)) return false
    const rivals = this.#active.conflicting(booking)
    if (!rivals.every((row) => this.#isOverdue(row) && this.#expire(row))) return false
    const id = newId()
    this.#active.update({ ...booking, id, status: 'accepted' })
    this.#decision.replacements.push({ id, replaces_id: booking.id, fencing_token: this.#tokenFor(booking) })
    return true
  }
}
