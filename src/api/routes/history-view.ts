/**
 * The history of a purchase or booking as clients see it: what has happened, in order, and what it waits for. Invariants: every
 * entry and every time is read from a committed row; the token of a card is in none.
 */
import { BOOKING_STATUSES } from '../../shared/domain/booking.ts'
import { CHARGE_COMMANDS } from '../../shared/domain/charge.ts'
import { PURCHASE_STATUSES } from '../../shared/domain/purchase.ts'
import type { LockState } from '../../shared/locks/api.ts'
import type {
  HistoryCharge,
  HistoryCommand,
  HistoryDelivery,
  HistoryMovement,
  HistoryRow,
  QueuePosition,
  Settlement,
} from '../queue/history-rows.ts'
import { COUNT_TO } from '../queue/queue-entries.ts'
import type { History, HistoryDetail, HistoryWord, Waiting } from './history-schema.ts'

/** An entry with its exact time. */
interface Entry {
  at_us: number
  what: HistoryWord
  by?: string | null
  fencing_token?: number | null
  detail?: HistoryDetail
}

const iso = (at_us: number) => new Date(at_us / 1000).toISOString()

/**
 * Returns what has happened, ordered by time. Entries of the same microsecond keep the order in which this function names
 * them, which is the order of cause and effect. `overdue`: the hold is over by the database's clock, and no worker has ended it.
 */
export function historyOf(row: HistoryRow, overdue: boolean): History['history'] {
  const entries: Entry[] = [
    ...(row.replaces_id === null ? [queuedEntry(row)] : []),
    ...row.commands.filter(isOfClient).map(commandReceived),
    ...statusEntries(row),
    ...(overdue && row.expires_us !== null ? [{ at_us: row.expires_us, what: 'expired' as const }] : []),
    ...row.commands.filter(isOfClient).flatMap(commandEnded),
    ...row.charges.flatMap(chargeEntries),
    ...replacedEntry(row),
    ...row.deliveries.map(deliveryEntry),
  ]
  return entries
    .sort((a, b) => a.at_us - b.at_us)
    .map(({ at_us, what, by, fencing_token, detail }) => ({
      at: iso(at_us),
      what,
      ...(by != null && { by }),
      ...(fencing_token != null && { fencing_token }),
      ...(detail && { detail }),
    }))
}

const aheadOf = (ahead: number) => ({
  ahead: Math.min(ahead, COUNT_TO),
  ...(ahead > COUNT_TO && { ahead_capped: true as const }),
})

const queuedEntry = ({ queue, seq, ahead, created_us }: HistoryRow): Entry => ({
  at_us: created_us,
  what: 'queued',
  detail: { queue, seq, ...aheadOf(ahead) },
})

/** Statuses in which units or time are held, and statuses in which they are sold. */
const [HELD, SOLD]: [ReadonlySet<string>, ReadonlySet<string>] = [
  new Set(['held', 'requested']),
  new Set(['confirmed', 'accepted']),
]

/** Returns an entry for each status that the row has had, in order. */
function statusEntries(row: HistoryRow): Entry[] {
  const last = row.settlements.at(-1)
  return statuses(row).map((settlement, i) => {
    const detail = {
      ...(i === 0 && row.replaces_id !== null && { replaces: row.replaces_id }),
      ...(HELD.has(settlement.status) && settlement.expires_us !== null && { until: iso(settlement.expires_us) }),
      ...(settlement === last && outcome(row)),
      ...movementsOf(settlement.status, row.movements),
    }
    const { at_us, status, by, fencing_token } = settlement
    return { at_us, what: status, by, fencing_token, ...(Object.keys(detail).length > 0 && { detail }) }
  })
}

function outcome({ reason, observed, conflicting_ids }: HistoryRow): HistoryDetail {
  return {
    ...(reason !== null && { reason }),
    ...(observed ?? {}),
    ...(conflicting_ids !== null && { conflicting_ids }),
  }
}

/**
 * Returns the settlements without those that only moved the end of a hold, and adds a hold and a sale that only the ledger
 * shows: a batch that makes several moves of a row writes the last one, and rows of older versions have no earlier settlements.
 */
function statuses({ settlements, movements }: HistoryRow): Settlement[] {
  const moves = settlements.filter((one, i) => one.status !== settlements[i - 1]?.status)
  const booked = settlements.some(({ status }) => BOOKED.has(status))
  const missing = (reason: 'hold' | 'sale', of: ReadonlySet<string>, status: Settlement['status']): Settlement[] => {
    const entry = movements.find((one) => one.reason === reason)
    const next = moves.find((one) => !HELD.has(one.status))
    if (!entry || !next || moves.some((one) => of.has(one.status))) return []
    const same = next.fencing_token === entry.fencing_token
    // The ledger is written after the row: within one transaction, its time is the later one.
    const at_us = Math.min(entry.at_us, next.at_us)
    // A token belongs to one lease, and so to one process.
    return [{ status, at_us, by: same ? next.by : null, fencing_token: entry.fencing_token, expires_us: null }]
  }
  const held = missing('hold', HELD, booked ? 'requested' : 'held')
  const sold = missing('sale', SOLD, booked ? 'accepted' : 'confirmed')
  return [
    ...held,
    ...moves.filter((one) => HELD.has(one.status)),
    ...sold,
    ...moves.filter((one) => !HELD.has(one.status)),
  ]
}
/** Statuses that only bookings have: the ledger of a booking is that of the wallet that pays for it. */
const BOOKED: ReadonlySet<string> = new Set(
  BOOKING_STATUSES.filter((one) => !(PURCHASE_STATUSES as readonly string[]).includes(one)),
)

/** Returns the ledger entries that the settlement of this status wrote: each reason occurs once for each resource of a row. */
function movementsOf(status: string, all: readonly HistoryMovement[]): Pick<HistoryDetail, 'movements'> {
  const sold = all.some((one) => one.reason === 'sale')
  const reasons = HELD.has(status) ? ['hold'] : SOLD.has(status) ? ['release', 'sale'] : sold ? ['refund'] : ['release']
  const movements = all
    .filter((one) => reasons.includes(one.reason))
    .map(({ resource, reason, delta, fencing_token }) => ({ resource, reason, delta, fencing_token }))
  return movements.length > 0 ? { movements } : {}
}

/** Commands of charge jobs are shown as what they tell: the charge was authorized, declined or unavailable. */
const isOfClient = ({ action }: HistoryCommand) => !(CHARGE_COMMANDS as readonly string[]).includes(action)

const commandReceived = ({ id, action, created_us }: HistoryCommand): Entry => ({
  at_us: created_us,
  what: 'command_received',
  detail: { command: action, command_id: id },
})

function commandEnded(command: HistoryCommand): Entry[] {
  const { id, action, status, reason, observed_status, settled_us, by, fencing_token } = command
  if (settled_us === null) return []
  const named = { command: action, command_id: id }
  if (status === 'done') return [{ at_us: settled_us, what: 'command_done', by, fencing_token, detail: named }]
  const detail = {
    ...named,
    ...(reason !== null && { reason }),
    ...(observed_status !== null && { status: observed_status }),
  }
  return [{ at_us: settled_us, what: 'command_rejected', by, fencing_token, detail }]
}

function chargeEntries(charge: HistoryCharge): Entry[] {
  const { kind, status, amount, currency, reason, at_provider, created_us, settled_us, answered_us } = charge
  const detail = { amount, currency }
  const why = { ...detail, ...(reason !== null && { reason }) }
  const ended = (what: HistoryWord | undefined, at_us = settled_us, more: HistoryDetail = why): Entry[] =>
    what === undefined || at_us === null ? [] : [{ at_us, what, detail: more }]
  if (kind === 'dispute') {
    return [
      { at_us: created_us, what: 'dispute_opened', detail: why },
      ...ended(status === 'won' ? 'dispute_won' : status === 'lost' ? 'dispute_lost' : undefined),
    ]
  }
  if (kind === 'refund') {
    const made = { ...why, ...(at_provider && { at_provider }) }
    return [
      ...(at_provider ? [] : [{ at_us: created_us, what: 'refund_requested' as const, detail }]),
      ...ended(REFUNDS[status], settled_us, made),
    ]
  }
  const refused = status === 'declined' || status === 'unavailable'
  return [
    { at_us: created_us, what: 'charge_started', detail },
    ...(refused ? ended(CHARGES[status], answered_us ?? settled_us) : ended('charge_authorized', answered_us, detail)),
    ...(refused ? [] : ended(CHARGES[status])),
  ]
}
const REFUNDS: Readonly<Record<string, HistoryWord>> = {
  refunded: 'refund_succeeded',
  failed: 'refund_failed',
  released: 'refund_canceled',
}
const CHARGES: Readonly<Record<string, HistoryWord>> = {
  captured: 'charge_captured',
  declined: 'charge_declined',
  unavailable: 'charge_unavailable',
  released: 'charge_released',
  authorization_lost: 'authorization_lost',
}

const replacedEntry = ({ replacement }: HistoryRow): Entry[] =>
  replacement === null
    ? []
    : [
        {
          at_us: replacement.at_us,
          what: 'replaced',
          by: replacement.by,
          fencing_token: replacement.fencing_token,
          detail: { replaced_by: replacement.id },
        },
      ]

function deliveryEntry({ endpoint, event, type, resource, attempt, status, accepted, at_us }: HistoryDelivery): Entry {
  const detail = { endpoint, event, type, resource, attempts: attempt }
  return accepted
    ? { at_us, what: 'event_delivered', detail }
    : { at_us, what: 'event_delivery_failed', detail: { ...detail, http_status: status } }
}

/** What a row waits for, before the queue and the lock are read: the entry of the queue whose position matters. */
export type Awaited =
  | { what: 'settlement' | 'command'; seq: number; command?: HistoryCommand }
  | { what: 'charge' | 'refund'; next_attempt_us: number }
  | { what: 'hold'; until_us: number }
  | undefined

/** Statuses of a charge, or of our refund, that the provider has to answer. */
const CHARGING: ReadonlySet<string> = new Set(['pending', 'confirming', 'cancelling', 'capturing'])
const REFUNDING: ReadonlySet<string> = new Set(['pending', 'failed'])

/** Returns the first thing that must happen before the row changes, or before its money moves; undefined if nothing must. */
export function awaitedBy({ status, seq, commands, charges, expires_us }: HistoryRow, overdue: boolean): Awaited {
  if (status === 'queued') return { what: 'settlement', seq }
  const command = commands.find((one) => one.status === 'queued')
  if (command) return { what: 'command', seq: command.seq, command }
  const charge = charges.find((one) => one.kind === 'charge' && CHARGING.has(one.status))
  if (charge) return { what: 'charge', next_attempt_us: charge.next_attempt_us }
  const refund = charges.find((one) => one.kind === 'refund' && !one.at_provider && REFUNDING.has(one.status))
  if (refund) return { what: 'refund', next_attempt_us: refund.next_attempt_us }
  return HELD.has(status) && expires_us !== null && !overdue ? { what: 'hold', until_us: expires_us } : undefined
}

/** Returns the queue as the entry in it sees it. `holder`: undefined if the lock server did not answer. */
export function waitingInQueue(
  { what, command }: { what: 'settlement' | 'command'; command?: HistoryCommand },
  queue: string,
  position: QueuePosition,
  lock: Pick<LockState, 'holders'> | undefined,
): Waiting {
  const [holder] = lock?.holders ?? []
  const { head } = position
  return {
    what,
    queue,
    ...aheadOf(position.ahead),
    head: head && { kind: head.kind, id: head.id, command: head.command, since: iso(head.since_us) },
    ...(lock && { holder: holder ? { owner: holder.owner, fencing_token: holder.token } : null }),
    ...(command && { command: { id: command.id, action: command.action, since: iso(command.created_us) } }),
  }
}

export const waitingForProvider = (
  what: 'charge' | 'refund',
  provider: 'sandbox' | 'stripe',
  next_attempt_us: number,
): Waiting => ({
  what,
  provider,
  next_attempt_at: iso(next_attempt_us),
})

export const waitingForHold = (until_us: number): Waiting => ({ what: 'hold', until: iso(until_us) })
