/** What is decided, and what a decision is made of: the rows as they were fetched, and the changes that are written. */
import type { BookingCommand, BookingKind, BookingStatus } from '../../shared/domain/booking.ts'
import type { ChargeCommand, ChargeStatus, Payment } from '../../shared/domain/charge.ts'
import type { LineItem, Observed, PurchaseCommand, PurchaseStatus } from '../../shared/domain/purchase.ts'

/** What deciding needs of a purchase as of a booking. `status` changes as the batch is decided, and so does its charge. */
interface SubjectRow<Status> {
  id: string
  seq: number
  /** the resource in whose queue it is: of a purchase the first of its resources, of a booking the booked one */
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
  /** status of its charge; null when there is none (and not read for a purchase without a command) */
  charge: ChargeStatus | null
  /** original end of the hold that the charge has extended; null without a hold of its own */
  hold_until_ms: number | null
  /** the expired purchase or booking that this one replaces: the charge belongs to that one */
  replaces_id: string | null
}

export interface PurchaseRow extends SubjectRow<PurchaseStatus> {
  items: LineItem[]
}

export interface BookingRow extends SubjectRow<BookingStatus> {
  kind: BookingKind
  /** half-open, milliseconds since 1970; a ride has no end until it is completed */
  from_ms: number
  until_ms: number | null
  /** days that a stay is charged for; null: computed from its duration */
  days: number | null
}

interface CommandRow<Command> {
  id: string
  seq: number
  action: Command | ChargeCommand
  /** payment method of a confirm or accept; null: the one that the purchase or booking has already */
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

/** What the decisions about purchases and about bookings have in common. */
interface BatchDecision<Item> {
  commands: CommandChange[]
  ledger: LedgerEntry[]
  resources: Resource[]
  chargeRequests: ChargeRequest[]
  payments: PaymentChange[]
  /** purchases and bookings whose failed charge becomes a past attempt, so that another charge can follow */
  attempts: string[]
  replacements: Replacement[]
  /** items that this batch could not decide yet: they stay in the queue */
  skipped: Item[]
}
export interface PurchaseDecision extends BatchDecision<PurchaseItem> {
  purchases: PurchaseChange[]
}
export interface BookingDecision extends BatchDecision<BookingItem> {
  bookings: BookingChange[]
  /** overdue requests of queues that this batch does not hold: expired by the clock alone, they have moved no units */
  overdue: string[]
}
