/** Decisions about bookings: each move of the state machine, and random queues against a model. */
import fc from 'fast-check'
import t from 'tap'
import {
  BOOKING_COMMANDS,
  BOOKING_STATUSES,
  type BookingCommand,
  type BookingStatus,
  isActive,
  MOVES,
  mayStill,
} from '../../src/shared/domain/booking.ts'
import type { ChargeCommand, ChargeStatus } from '../../src/shared/domain/charge.ts'
import { decideBookings } from '../../src/workers/decide/bookings.ts'
import type { BookingItem, BookingRow, Resource } from '../../src/workers/decide/types.ts'

/** Start of the stays, so that no command is too early or too late. */
const NOW = 0
const ACCEPT_MS = 30_000

let seq = 0
const row = (change: Partial<BookingRow> = {}): BookingRow => {
  seq++
  const id = `b${seq}`
  const fixed = { queue: 'room:1', kind: 'stay' as const, customer: 'ada', from_ms: 0, until_ms: 10, created_ms: 0 }
  const open = {
    days: null,
    amount: null,
    currency: null,
    hold_seconds: null,
    expires_ms: null,
    status: 'queued' as const,
    charge: null,
    hold_until_ms: null,
    replaces_id: null,
  }
  return { id, seq, ...fixed, ...open, payment: { method: 'none' }, ...change }
}
const settle = (booking: BookingRow): BookingItem => ({ kind: 'booking', booking })
const command = (booking: BookingRow, name: BookingCommand | ChargeCommand): BookingItem => {
  seq++
  return { kind: 'command', booking, command: { id: `c${seq}`, seq, action: name, payment: null } }
}
const calendar = (id: string): Resource =>
  ({ id, kind: 'calendar', available: 0, held: 0, price: 3, currency: 'USD', token: 7 }) as Resource
const decide = (items: BookingItem[], active: BookingRow[] = [], refs = ['room:1', 'room:2']) =>
  decideBookings(items, active, new Map(refs.map((ref) => [ref, calendar(ref)])), NOW, ACCEPT_MS)

t.test('every command in every status: does what the table says, or is rejected with the status', async (t) => {
  for (const status of BOOKING_STATUSES) {
    for (const name of BOOKING_COMMANDS) {
      const booking = row({ status, expires_ms: NOW + 1 })
      const { bookings, commands, skipped } = decide([command(booking, name)])
      const next = MOVES[status][name]
      const what = `${name} of what is ${status}`
      if (status === 'queued' && name !== 'cancel') {
        t.equal(skipped.length, 1, `${what} waits behind its booking`)
      } else if (next) {
        t.match(bookings, [{ was: status, status: next, fencing_token: 7 }], what)
        t.match(commands, [{ status: 'done', observed_status: status }])
      } else {
        t.same(bookings, [], `${what} changes nothing`)
        t.match(commands, [{ status: 'rejected', reason: 'wrong_status', observed_status: status }])
      }
      t.equal(mayStill(status, name), reaches(status, name), what)
    }
  }
})

/** Searches the table breadth first, unlike mayStill, so that the two can be compared. */
function reaches(from: BookingStatus, name: BookingCommand): boolean {
  const seen = new Set([from])
  for (const status of seen) for (const next of Object.values(MOVES[status])) seen.add(next)
  return [...seen].some((status) => MOVES[status][name] !== undefined)
}

t.test('charge result of a stay in every status: books, frees the time, or refunds the money', async (t) => {
  const stay = (status: BookingStatus, charge: ChargeStatus | null, more: Partial<BookingRow> = {}) =>
    row({ status, charge, amount: 30, payment: { method: 'card', token: 'x' }, expires_ms: NOW + 1, ...more })
  const asked = decide([settle(stay('queued', null))])
  t.match(asked.bookings, [{ status: 'requested', expires_ms: NOW + 60_000 }], 'set aside while the card is asked')
  t.match(asked.chargeRequests, [{ step: 'charge', of: 'booking', amount: 3 }])
  const held = stay('requested', null)
  const twice = decide([command(held, 'accept'), command(held, 'accept')])
  t.match(
    [twice.bookings, twice.chargeRequests],
    [[{ status: 'requested' }], [{ step: 'charge' }]],
    'accepted twice: one charge',
  )
  const cases: [
    was: BookingStatus,
    charge: ChargeStatus,
    name: BookingCommand | ChargeCommand,
    to: string,
    step: string,
  ][] = [
    ['requested', 'authorized', 'paid', 'accepted', 'capture'],
    ['requested', 'declined', 'unpaid', 'rejected payment_declined', ''],
    ['requested', 'unavailable', 'unpaid', 'rejected payment_unavailable', ''],
    ['requested', 'confirming', 'accept', '', ''],
    ['requested', 'confirming', 'cancel', 'cancelled', 'refund'],
    ['requested', 'confirming', 'decline', 'declined', 'refund'],
    ['requested', 'declined', 'cancel', 'cancelled', ''],
    ['accepted', 'captured', 'cancel', 'cancelled', 'refund'],
    ['accepted', 'captured', 'complete', 'completed', ''],
    ['expired', 'authorized', 'paid', '', 'capture'],
    ['cancelled', 'authorized', 'paid', '', 'refund'],
    ['declined', 'authorized', 'paid', '', 'refund'],
    ['expired', 'unavailable', 'unpaid', '', ''],
  ]
  for (const [was, charge, name, to, step] of cases) {
    const { bookings, chargeRequests, commands } = decide([command(stay(was, charge), name)])
    const [moved] = bookings.map(({ status, reason }) => (reason ? `${status} ${reason}` : status))
    t.same(
      [moved ?? '', chargeRequests[0]?.step ?? '', chargeRequests.length < 2],
      [to, step, true],
      `${name} of what is ${was}`,
    )
    t.match(commands, [{ status: 'done' }])
  }
  const [over, other] = [stay('requested', 'authorized', { expires_ms: NOW }), row({ status: 'accepted' })]
  const again = decide([command(over, 'paid'), settle(row({ until_ms: 5 }))])
  t.match(
    again.bookings,
    [{ status: 'expired' }, { status: 'rejected', reason: 'conflict' }],
    'late money has the time',
  )
  t.match([again.replacements, again.chargeRequests], [[{ replaces_id: over.id }], [{ step: 'capture', id: over.id }]])
  const back = decide([command(stay('requested', 'authorized', { expires_ms: NOW }), 'paid')], [other])
  t.match([back.replacements, back.chargeRequests], [[], [{ step: 'refund' }]], 'or goes back')
})

t.test('stay: can be completed from its start on, and neither accepted nor cancelled after its end', async (t) => {
  const cases: [
    name: BookingCommand,
    status: BookingStatus,
    from_ms: number,
    until_ms: number,
    refusal: string | null,
  ][] = [
    ['complete', 'accepted', NOW + 1, NOW + 10, 'too_early'],
    ['complete', 'accepted', NOW, NOW + 10, null],
    ['complete', 'accepted', NOW - 10, NOW, null],
    ['cancel', 'accepted', NOW - 10, NOW + 1, null],
    ['cancel', 'accepted', NOW - 10, NOW, 'too_late'],
    ['cancel', 'requested', NOW - 10, NOW, null],
    ['accept', 'requested', NOW - 10, NOW + 1, null],
    ['accept', 'requested', NOW - 10, NOW, 'too_late'],
    ['decline', 'requested', NOW - 10, NOW, null],
    ['accept', 'accepted', NOW - 10, NOW, 'wrong_status'],
  ]
  for (const [name, status, from_ms, until_ms, refusal] of cases) {
    const booking = row({ status, from_ms, until_ms, expires_ms: NOW + 1 })
    const { bookings, commands } = decide([command(booking, name)])
    const what = `${name} of what is ${status}, ${from_ms} to ${until_ms}`
    t.match(commands, [{ status: refusal ? 'rejected' : 'done', reason: refusal }], what)
    t.equal(bookings.length, refusal ? 0 : 1)
  }
  const ride = row({ kind: 'ride', status: 'accepted', from_ms: NOW + 5, until_ms: null })
  t.match(decide([command(ride, 'complete')]).commands, [{ status: 'done' }], 'a ride has no dates')
  t.match(decide([settle(row({ from_ms: -5, until_ms: NOW }))]).bookings, [{ status: 'rejected', reason: 'too_late' }])
  const late = { charge: 'authorized' as const, amount: 3, payment: { method: 'card' as const, token: 'x' } }
  const over = row({ ...late, status: 'expired', from_ms: -5, until_ms: NOW })
  const { replacements, chargeRequests } = decide([command(over, 'paid')])
  t.match([replacements, chargeRequests], [[], [{ step: 'refund' }]], 'late money buys no time that is over')
})

t.test('wallet whose currency was changed: gets no refund in the new currency', async (t) => {
  const payment = { method: 'wallet' as const, account: 'account:w' }
  const booking = row({ status: 'accepted', amount: 30, currency: 'USD', payment })
  const yen = {
    id: 'account:w',
    kind: 'units',
    available: 0,
    held: 0,
    price: 1,
    currency: 'JPY',
    token: 8,
  } as Resource
  const resources = new Map([calendar('room:1'), yen].map((one) => [one.id, one]))
  const { commands, ledger } = decideBookings([command(booking, 'cancel')], [], resources, NOW, ACCEPT_MS)
  t.match(commands, [{ status: 'rejected', reason: 'currency_mismatch', observed_status: 'accepted' }])
  t.same(ledger, [])
})

t.test('overdue request: every command finds it expired, and it is never accepted later', async (t) => {
  const late = row({ status: 'requested', expires_ms: NOW })
  const { bookings, commands } = decide([command(late, 'accept')])
  t.match(bookings, [{ was: 'requested', status: 'expired' }])
  t.match(commands, [{ status: 'rejected', observed_status: 'expired' }])
})

t.test('conflicting request: expired first if overdue, otherwise named in the rejection', async (t) => {
  const [over, held] = [
    row({ status: 'requested', expires_ms: NOW, until_ms: 5 }),
    row({ status: 'requested', expires_ms: NOW + 1, from_ms: 5 }),
  ]
  const { bookings } = decide([settle(row({ until_ms: 5 })), settle(row())], [over, held])
  t.match(bookings, [
    { id: over.id, status: 'expired' },
    { status: 'accepted' },
    { status: 'rejected', reason: 'conflict', conflicting_ids: { length: 2 } },
  ])
})

t.test('overdue request of the rider in another queue: expired by the clock alone', async (t) => {
  const ride = { kind: 'ride' as const, until_ms: null, customer: 'rider' }
  const over = row({ ...ride, queue: 'driver:9', status: 'requested', expires_ms: NOW })
  const { bookings, overdue } = decide([settle(row(ride))], [over])
  t.same(overdue, [over.id])
  t.match(bookings, [{ status: 'requested', expires_ms: NOW + ACCEPT_MS }])
})

t.test('overdue request whose wallet is not leased: stays, and so does the booking that wants its time', async (t) => {
  const payment = { method: 'wallet' as const, account: 'account:1' }
  const over = row({ status: 'requested', expires_ms: NOW, payment, amount: 30 })
  const { bookings, skipped } = decide([settle(row())], [over])
  t.same([bookings, skipped.length], [[], 1])
})

t.test('random queues: no active bookings overlap, and no booking is rejected without a conflict', async (t) => {
  const wish = fc.record({
    ride: fc.boolean(),
    queue: fc.constantFrom('room:1', 'room:2'),
    customer: fc.constantFrom('a', 'b', 'c'),
    from_ms: fc.nat(50),
    length: fc.integer({ min: 1, max: 20 }),
    next: fc.option(fc.constantFrom(...BOOKING_COMMANDS)),
  })
  const meet = (a: BookingRow, b: BookingRow) =>
    (a.queue === b.queue && a.from_ms < (b.until_ms ?? 1e9) && b.from_ms < (a.until_ms ?? 1e9)) ||
    (a.kind === 'ride' && b.kind === 'ride' && a.customer === b.customer)
  const property = fc.property(fc.array(wish, { maxLength: 40 }), (wishes) => {
    const items: BookingItem[] = []
    for (const { ride, length, next, ...rest } of wishes) {
      const booking = row(
        ride ? { ...rest, kind: 'ride', until_ms: null } : { ...rest, until_ms: rest.from_ms + length },
      )
      items.push(settle(booking))
      if (next) items.push(command(booking, next))
    }
    const { bookings } = decide(items)
    const rows = new Map(items.map((item) => [item.booking.id, item.booking]))
    const active = bookings.flatMap(({ id, status }) => (isActive(status) ? [rows.get(id) as BookingRow] : []))
    for (const one of active) {
      for (const other of active) if (one !== other && meet(one, other)) throw new Error(`${one.id} meets ${other.id}`)
    }
    for (const { id, status, conflicting_ids } of bookings) {
      if (status !== 'rejected') continue
      const own = rows.get(id) as BookingRow
      const named = (conflicting_ids ?? []).map((other) => rows.get(other) as BookingRow)
      if (named.length === 0 || !named.every((other) => meet(own, other) && other.seq < own.seq)) throw new Error(id)
    }
  })
  fc.assert(property, { numRuns: 500 })
  t.pass('500 lines')
})
