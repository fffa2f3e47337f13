/**
 * Decides the bookings of a batch, in memory and without I/O. Invariants: a booking gets its time only when no other
 * active booking overlaps it, and a ride only when its rider has no other; a request that is overdue by the database
 * clock is expired first and never conflicts; every change of a wallet's units has a ledger entry.
 */

import {
  type BookingCommand,
  type BookingMove,
  type BookingStatus,
  isActive,
  isOver,
  MOVES,
  refusedByTime,
} from '../../shared/domain/booking.ts'
import type { ChargeCommand, ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import { isAccount } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import {
  type ChargeRequest,
  type CommandChange,
  isForeign,
  type LedgerEntry,
  PAYMENT_S,
  type PaymentChange,
  type Replacement,
  type Resource,
  samePayment,
  UNCHARGED,
  UnprocessableError,
} from './purchases.ts'

/** A row of bookings, as far as deciding needs it. `status` changes as the batch is decided. */
export interface BookingRow {
  id: string
  seq: number
  /** the booked resource, whose queue this booking is in */
  queue: string
  kind: 'stay' | 'ride'
  customer: string
  /** half-open, milliseconds since 1970; a ride has no end until it is completed */
  from_ms: number
  until_ms: number | null
  /** days that a stay is charged for; null: computed from its duration */
  days: number | null
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  status: BookingStatus
  expires_ms: number | null
  created_ms: number
  /** status of its charge; null when there is none */
  charge: ChargeStatus | null
  /** original end of the hold that the charge has extended; null without a hold of its own */
  hold_until_ms: number | null
  /** the expired booking that this one replaces: the charge belongs to that one */
  replaces_id: string | null
}

/** A pending item of a calendar's queue: a queued booking, a command on a booking, or an overdue request. */
export type BookingItem = { booking: BookingRow; purchase?: never } & (
  | { kind: 'booking'; command?: never }
  | { kind: 'expired'; command?: never }
  | { kind: 'command'; command: BookingCommandRow }
)

export interface BookingCommandRow {
  id: string
  seq: number
  action: BookingCommand | ChargeCommand
  /** payment method of an accept; null: the one that the booking has already */
  payment: Payment | null
}

export interface BookingChange {
  id: string
  customer: string
  was: BookingStatus
  status: BookingStatus
  reason: string | null
  conflicting_ids: string[] | null
  amount: number | null
  currency: string | null
  expires_ms: number | null
  fencing_token: number
}

export interface BookingDecision {
  bookings: BookingChange[]
  /** overdue requests of queues that this batch does not hold: expired by the clock alone, they have moved no units */
  overdue: string[]
  commands: CommandChange[]
  ledger: LedgerEntry[]
  resources: Resource[]
  chargeRequests: ChargeRequest[]
  payments: PaymentChange[]
  attempts: string[]
  replacements: Replacement[]
  skipped: BookingItem[]
}

const DAY_MS = 86_400_000
/** Ids of conflicting bookings that a rejection names. */
const NAMED = 20

/** Every resource that settling this item may write. */
export function resourcesOfBooking({ booking: { queue, payment }, command }: BookingItem): string[] {
  const wallets = [payment, command?.payment].flatMap((one) => (one?.method === 'wallet' ? [one.account] : []))
  return [...new Set([queue, ...wallets])]
}

const overlap = (a: BookingRow, b: BookingRow) =>
  a.from_ms < (b.until_ms ?? Number.POSITIVE_INFINITY) && b.from_ms < (a.until_ms ?? Number.POSITIVE_INFINITY)

/**
 * Decides the items in order. `active` are the active bookings of these queues or riders, read under the row locks;
 * `now_ms` is the database clock, read after them; a ride waits `accept_ms` to be accepted.
 */
export function decideBookings(
  items: readonly BookingItem[],
  active: readonly BookingRow[],
  resources: ReadonlyMap<string, Resource>,
  now_ms: number,
  accept_ms: number,
): BookingDecision {
  const decision: BookingDecision = {
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
  const changes = new Map<string, BookingChange>()
  const touched = new Set<Resource>()
  const overdue = new Set<string>()
  const own = new Map(items.map(({ booking }) => [booking.id, booking]))
  const calendars = new Map<string, Set<BookingRow>>()
  const riders = new Map<string, Set<BookingRow>>()
  for (const row of active) indexActive(own.get(row.id) ?? row)

  /** Adds an active row to the indexes by calendar and rider, removes any other. */
  function indexActive(row: BookingRow): void {
    const indexes = [
      row.kind === 'ride' ? ([riders, row.customer] as const) : undefined,
      [calendars, row.queue] as const,
    ]
    for (const [map, key] of indexes.filter((index) => index !== undefined)) {
      if (isActive(row.status)) map.set(key, (map.get(key) ?? new Set()).add(row))
      else map.get(key)?.delete(row)
    }
  }

  function applyMove(booking: BookingRow, what: BookingMove, reason?: string, conflicting_ids?: string[]): void {
    const status = MOVES[booking.status][what]
    if (status === undefined)
      throw new UnprocessableError(`${what} does not apply to a booking that is ${booking.status}`)
    setStatus(booking, status, reason, conflicting_ids)
    indexActive(booking)
  }

  function setStatus(booking: BookingRow, status: BookingStatus, reason?: string, conflicting_ids?: string[]): void {
    changes.set(booking.id, {
      id: booking.id,
      customer: booking.customer,
      was: changes.get(booking.id)?.was ?? booking.status,
      status,
      reason: reason ?? null,
      conflicting_ids: conflicting_ids ?? null,
      amount: booking.amount,
      currency: booking.currency,
      expires_ms: booking.expires_ms,
      fencing_token: resources.get(booking.queue)?.token ?? 0,
    })
    booking.status = status
  }

  const isCharged = ({ payment, amount }: BookingRow) => payment.method === 'card' && (amount ?? 0) > 0

  function requestCharge(step: ChargeRequest['step'], booking: BookingRow): void {
    const { id, replaces_id, currency, hold_until_ms } = booking
    const amount = booking.amount ?? 0
    decision.chargeRequests.push({
      step,
      of: 'booking',
      id: replaces_id ?? id,
      amount,
      currency: currency ?? '',
      hold_until_ms,
    })
  }

  /** Extends the request until the charge has ended, and requests the charge. */
  function startCharge(booking: BookingRow): void {
    booking.charge = 'pending'
    booking.hold_until_ms = booking.hold_seconds === null ? null : booking.expires_ms
    booking.expires_ms = Math.max(booking.expires_ms ?? 0, now_ms + PAYMENT_S * 1000)
    requestCharge('charge', booking)
  }

  /** Moves the price within the wallet: changes `available` and `held` per unit, and adds the ledger entries. */
  function moveUnits(booking: BookingRow, available: number, held: number, ...reasons: LedgerEntry['reason'][]): void {
    const { payment, amount } = booking
    if (payment.method !== 'wallet' || !amount) return
    const wallet = resources.get(payment.account)
    if (!wallet) throw new UnprocessableError(`${payment.account} is gone`)
    wallet.available += available * amount
    wallet.held += held * amount
    touched.add(wallet)
    for (const reason of reasons) {
      const delta = reason === 'sale' || reason === 'hold' ? -amount : amount
      decision.ledger.push({
        resource_id: wallet.id,
        booking_id: booking.id,
        delta,
        reason,
        fencing_token: wallet.token,
      })
    }
  }

  const isOverdue = (row: BookingRow) =>
    row.status === 'requested' && row.expires_ms !== null && row.expires_ms <= now_ms

  /** False when this batch cannot expire it: it has no lease on its wallet. */
  function expire(booking: BookingRow): boolean {
    const { payment } = booking
    if (payment.method === 'wallet' && !resources.has(payment.account)) return false
    if (resources.has(booking.queue)) {
      moveUnits(booking, 1, -1, 'release')
      applyMove(booking, 'expire')
    } else {
      overdue.add(booking.id)
      booking.status = 'expired'
      indexActive(booking)
    }
    return true
  }

  /** Active bookings of the same time or the same rider. */
  function conflicting(booking: BookingRow): BookingRow[] {
    const calendar = [...(calendars.get(booking.queue) ?? [])]
    const here = calendar.filter((row) => /* guard:overlap */ overlap(row, booking) /* end:overlap */)
    const rides = booking.kind === 'ride' ? [...(riders.get(booking.customer) ?? [])] : []
    return [...new Set([...here, ...rides])]
  }

  function decideNew(booking: BookingRow): boolean {
    const resource = resources.get(booking.queue)
    const refuse = (reason: string, conflicting_ids?: string[]) => applyMove(booking, 'refuse', reason, conflicting_ids)
    if (resource?.kind !== 'calendar') {
      refuse('unknown_resource')
      return true
    }
    if (isAccount(booking.queue)) {
      refuse('wrong_kind')
      return true
    }
    const { payment } = booking
    const wallet = payment.method === 'wallet' ? resources.get(payment.account) : undefined
    if (booking.kind === 'stay') {
      const days = booking.days ?? Math.ceil(((booking.until_ms ?? booking.from_ms) - booking.from_ms) / DAY_MS)
      const amount = resource.price * days
      booking.amount = Number.isSafeInteger(amount) ? amount : null
      booking.currency = resource.currency
    }
    const rivals = conflicting(booking)
    // Overdue requests are expired first. When one needs a wallet that another worker has, retry in the next round.
    if (!rivals.filter(isOverdue).every(expire)) return false
    const conflicting_ids = rivals.filter((row) => isActive(row.status)).map((row) => row.id)
    // The stay may have ended while it was queued.
    if (isOver(booking, now_ms)) refuse('too_late')
    else if (conflicting_ids.length > 0) refuse('conflict', conflicting_ids.slice(0, NAMED))
    else if (booking.kind === 'stay' && booking.amount === null) refuse('amount_too_large')
    else if (payment.method === 'card' && booking.kind === 'ride') refuse('payment_unavailable')
    else if (payment.method === 'wallet' && wallet?.kind !== 'units') refuse('unknown_resource')
    else if (wallet && booking.amount && wallet.currency.toUpperCase() !== resource.currency.toUpperCase()) {
      refuse('currency_mismatch')
    } else if (wallet && wallet.available < (booking.amount ?? 0)) refuse('payment_declined')
    else grantTime(booking)
    return true
  }

  function grantTime(booking: BookingRow): void {
    const wait_ms =
      booking.kind === 'ride' ? accept_ms : booking.hold_seconds === null ? null : booking.hold_seconds * 1000
    if (wait_ms === null && !isCharged(booking)) {
      moveUnits(booking, -1, 0, 'sale')
      applyMove(booking, 'book')
    } else {
      if (wait_ms === null) startCharge(booking)
      else booking.expires_ms = now_ms + wait_ms
      moveUnits(booking, -1, 1, 'hold')
      applyMove(booking, 'request')
    }
  }

  /** Undefined when the command succeeded, else the reason of its rejection. */
  function executeCommand(booking: BookingRow, { action, payment }: BookingCommandRow): string | undefined {
    if (action === 'paid' || action === 'unpaid') return applyChargeResult(booking, action) ? undefined : 'wrong_status'
    const was = booking.status
    const next = MOVES[was][action]
    if (next === undefined) return 'wrong_status'
    const ill_timed = refusedByTime(booking, action, now_ms)
    if (ill_timed) return ill_timed
    if (next === 'accepted') return accept(booking, payment)
    if (was === 'requested') {
      moveUnits(booking, 1, -1, 'release')
      if (booking.charge !== null && !UNCHARGED.has(booking.charge)) requestCharge('refund', booking)
    } else if (was === 'accepted' && next === 'cancelled') {
      if (isForeign(booking, resources)) return 'currency_mismatch'
      moveUnits(booking, 1, 0, 'refund')
      if (isCharged(booking)) requestCharge('refund', booking)
    }
    applyMove(booking, action)
    return undefined
  }

  function accept(booking: BookingRow, given: Payment | null): string | undefined {
    const { charge, hold_seconds } = booking
    // The `unpaid` of a failed charge is queued behind this accept: apply it now.
    if (charge !== null && UNCHARGED.has(charge) && hold_seconds !== null && !resumeHold(booking)) return 'wrong_status'
    if (given !== null && !samePayment(given, booking.payment)) {
      if (booking.kind === 'ride') return 'payment_unavailable'
      // One charge at a time: a second card is charged only after the first charge has failed.
      if (booking.charge !== null) return 'payment_in_progress'
      // The wallet's money is held together with the time.
      if (booking.payment.method === 'wallet') return 'payment_conflict'
      if (given.method === 'wallet') return payFromWallet(given.account, booking)
      booking.payment = given
      decision.payments.push({ of: 'booking', id: booking.id, payment: given })
    }
    // Accepted once it is paid. A second accept joins the first: the charge is already in progress.
    if (booking.charge !== null) return undefined
    if (isCharged(booking)) {
      startCharge(booking)
      setStatus(booking, booking.status)
    } else {
      moveUnits(booking, 0, -1, 'release', 'sale')
      applyMove(booking, 'accept')
    }
    return undefined
  }

  /** Takes the price from the wallet and accepts the booking in the same settlement, or does neither. */
  function payFromWallet(account: string, booking: BookingRow): string | undefined {
    const wallet = resources.get(account)
    const amount = booking.amount ?? 0
    if (wallet?.kind !== 'units') return 'unknown_resource'
    if (amount > 0 && wallet.currency.toUpperCase() !== booking.currency?.toUpperCase()) return 'currency_mismatch'
    if (wallet.available < amount) return 'payment_declined'
    booking.payment = { method: 'wallet', account }
    decision.payments.push({ of: 'booking', id: booking.id, payment: booking.payment })
    moveUnits(booking, -1, 0, 'sale')
    applyMove(booking, 'accept')
    return undefined
  }

  /** Restores the original end of the request after a failed charge. False when that end is past. */
  function resumeHold(booking: BookingRow): boolean {
    decision.attempts.push(booking.id)
    booking.charge = null
    booking.expires_ms = booking.hold_until_ms ?? booking.expires_ms
    booking.hold_until_ms = null
    if (isOverdue(booking)) {
      expire(booking)
      return false
    }
    setStatus(booking, booking.status)
    return true
  }

  /** Applies the outcome of the charge: `paid` (the money is reserved) or `unpaid` (none was and none will be taken). */
  function applyChargeResult(booking: BookingRow, action: ChargeCommand): boolean {
    const { status } = booking
    if (action === 'unpaid') {
      // The outcome of an earlier charge, which may have been followed by another one: nothing is left to apply.
      if (booking.charge === null || !UNCHARGED.has(booking.charge)) return true
      if (status === 'requested' && booking.hold_seconds !== null) {
        resumeHold(booking)
        return true
      }
      if (status !== 'requested') return status === 'expired' || status === 'cancelled' || status === 'declined'
      applyMove(booking, 'unpaid', booking.charge === 'declined' ? 'payment_declined' : 'payment_unavailable')
    } else if (status === 'requested') {
      applyMove(booking, 'paid')
      requestCharge('capture', booking)
    } else if (status === 'expired' && replaceExpired(booking)) {
      requestCharge('capture', booking)
    } else {
      // Too late for the time, or cancelled: refund the money, once.
      requestCharge('refund', booking)
    }
    return true
  }

  /** The expired booking stays expired; its late money books the same time at the same price as a new booking. */
  function replaceExpired(booking: BookingRow): boolean {
    if (isOver(booking, now_ms)) return false
    const rivals = conflicting(booking)
    if (!rivals.every((row) => isOverdue(row) && expire(row))) return false
    const id = newId()
    indexActive({ ...booking, id, status: 'accepted' })
    decision.replacements.push({ id, replaces_id: booking.id, fencing_token: resources.get(booking.queue)?.token ?? 0 })
    return true
  }

  for (const item of items) {
    const { booking } = item
    if (item.kind === 'booking') {
      if (booking.status === 'queued' && !decideNew(booking)) decision.skipped.push(item)
    } else if (item.kind === 'expired') {
      if (isOverdue(booking)) expire(booking)
      else if (booking.status === 'requested') decision.skipped.push(item)
    } else if (booking.status === 'queued' && item.command.action !== 'cancel') {
      // Its booking has not been settled yet (a missed lease, a later batch): the command waits behind it.
      decision.skipped.push(item)
    } else {
      if (isOverdue(booking)) expire(booking)
      const before = booking.status
      const refusal = executeCommand(booking, item.command)
      decision.commands.push({
        id: item.command.id,
        status: refusal === undefined ? 'done' : 'rejected',
        reason: refusal ?? null,
        observed_status: before,
        fencing_token: resources.get(booking.queue)?.token ?? 0,
      })
    }
  }
  decision.bookings = [...changes.values()]
  decision.overdue = [...overdue]
  decision.resources = [...touched]
  return decision
}
