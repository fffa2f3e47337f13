/** Types of the decisions: the fetched rows, which are the input, and the changes to write, which are the output. */
import type { BookingCommand, BookingKind, BookingStatus } from '../../shared/domain/booking.ts'
import type { ChargeCommand, ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import type { LineItem, Observed, PurchaseCommand, PurchaseStatus } from '../../shared/domain/purchase.ts'

/**
 * The columns that a decision needs of a purchase and of a booking alike. `status` and the members of the charge change
 * while the batch is decided.
 */
interface SubjectRow<Status> {
  id: string
  seq: number
  /** the resource whose queue contains the row: of a purchase, its first in lock order; of a booking, the booked one */
  queue: string
  customer: string
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  status: Status
  /** milliseconds since 1970, database clock */
  expires_ms: number | null
  created_ms: number
  /** status of the row's charge; null without a charge; not read for a purchase without a command */
  charge: ChargeStatus | null
  /** original end of the hold that the charge has extended; null if the buyer requested no hold */
  hold_until_ms: number | null
  /** the expired purchase or booking that this row replaces, and to which the charge belongs */
  replaces_id: string | null
}

export interface PurchaseRow extends SubjectRow<PurchaseStatus> {
  items: LineItem[]
}

export interface BookingRow extends SubjectRow<BookingStatus> {
  kind: BookingKind
  /** start of the half-open period, in milliseconds since 1970; a ride has no end until it is completed */
  from_ms: number
  until_ms: number | null
  /** days for which a stay is charged; null: computed from its duration */
  days: number | null
}

interface CommandRow<Command> {
  id: string
  seq: number
  action: Command | ChargeCommand
  /** payment method of a confirm or accept; null: keep the payment method of the purchase or booking */
  payment: Payment | null
}
export interface PurchaseCommandRow extends CommandRow<PurchaseCommand> {
  created_ms: number
}
export type BookingCommandRow = CommandRow<BookingCommand>

/** A pending item of a queue: a queued purchase, a command on a purchase, or an overdue hold. */
export type PurchaseItem = { purchase: PurchaseRow; booking?: never } & (
  | { kind: 'purchase'; command?: never }
  | { kind: 'expired'; command?: never }
  | { kind: 'command'; command: PurchaseCommandRow }
)

/** A pending item of a calendar's queue: a queued booking, a command on a booking, or an overdue request. */
export type BookingItem = { booking: BookingRow; purchase?: never } & (
  | { kind: 'booking'; command?: never }
  | { kind: 'expired'; command?: never }
  | { kind: 'command'; command: BookingCommandRow }
)

/** A resource as read under its row lock. `available` and `held` change while the batch is decided. */
export interface Resource {
  id: string
  kind: 'units' | 'calendar'
  available: number
  held: number
  price: number
  currency: string
  /** most units that one customer may have, held ones included; null: no limit */
  max_per_customer: number | null
  /** customer → units, for the customers in the batch; empty without a limit */
  holdings: Map<string, number>
  /** fencing token of the lease under which the batch writes this resource */
  token: number
}

interface StatusChange<Status> {
  id: string
  was: Status
  status: Status
  reason: string | null
  amount: number | null
  currency: string | null
  expires_ms: number | null
  fencing_token: number
}
export interface PurchaseChange extends StatusChange<PurchaseStatus> {
  observed: Observed | null
}
export interface BookingChange extends StatusChange<BookingStatus> {
  customer: string
  conflicting_ids: string[] | null
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
/**
 * A request for one step of a charge, which a charge job takes after the batch is committed. A second request does not
 * change an existing charge.
 */
export interface ChargeRequest {
  /** whether the charge pays for a purchase or a booking */
  of: 'purchase' | 'booking'
  id: string
  /** charge and refund insert a row; capture changes an authorized charge whose units are sold */
  step: 'charge' | 'capture' | 'refund'
  amount: number
  currency: string
  /** for the step `charge`: the original end of the hold that the charge extends */
  hold_until_ms: number | null
}
/** New payment method of a purchase or booking. */
export interface PaymentChange {
  of: 'purchase' | 'booking'
  id: string
  payment: Payment
}
/** A new purchase or booking that is paid with the late money of an expired one. */
export interface Replacement {
  id: string
  replaces_id: string
  fencing_token: number
}

/** The members that the decisions about purchases and about bookings share. */
interface BatchDecision<Item> {
  commands: CommandChange[]
  ledger: LedgerEntry[]
  resources: Resource[]
  chargeRequests: ChargeRequest[]
  payments: PaymentChange[]
  /**
   * ids of purchases and bookings whose failed charge is over: it becomes a past attempt, so that another charge can
   * follow
   */
  attempts: string[]
  replacements: Replacement[]
  /** items that this batch could not decide yet; they stay in the queue */
  skipped: Item[]
}
export interface PurchaseDecision extends BatchDecision<PurchaseItem> {
  purchases: PurchaseChange[]
}
export interface BookingDecision extends BatchDecision<BookingItem> {
  bookings: BookingChange[]
  /**
   * overdue requests in queues whose lease this batch does not hold: the clock alone expires them, and they have moved
   * no units
   */
  overdue: string[]
}
