/**
 * Bookings over HTTP: stays, from a time to another, and rides, from now until they end. Invariant: as with purchases,
 * this side only writes rows that stand in a line, and tells what became of them from the committed row.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import { query } from '../../shared/db/client.ts'
import {
  BOOKING_COMMANDS,
  BOOKING_STATUSES,
  type BookingCommand,
  type BookingStatus,
  type Payment,
  type Pickup,
} from '../../shared/db/schema.ts'
import { mayStill } from '../../shared/domain/booking.ts'
import { ID_PATTERN } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { badField, Problem } from '../../shared/problem.ts'
import { Key, Prefer } from '../http/headers.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import { Identifier, IdentifierText, IdParams, Nullable, Ref, Time, UUID } from '../http/schemas.ts'
import { iso, Moment, readRange } from '../http/timestamps.ts'
import type { Intake, NewRow } from '../queue/intake.ts'
import { declineOf, MONEY, type Money, PaymentState, presentPayment, unpaidCode } from '../queue/payment-view.ts'
import type { Kinds, Wanted } from '../queue/resource-kinds.ts'
import { createLook } from '../queue/row-reader.ts'
import { CHARGING } from '../queue/settlement-waiter.ts'
import { createLine, keyed, type LineDeps, PAYMENT_REFUSALS, UNPAID } from '../queue/submission.ts'
import { accountOf, MAX_HOLD_S, PayingSchema, PaymentSchema, readPaying, readPayment } from './purchases.ts'

/** Longest stay. */
const MAX_STAY_DAYS = 366
/** What clocks of two machines may differ by: what has only just passed here is judged by the database's, at settlement. */
const CLOCKS_MS = 5_000

/** Ids as the callers keep them: 7 and "7" are the same driver. */
const Id = (text: object) =>
  Type.Unsafe<string | number>({ type: ['string', 'integer'], minimum: 0, maximum: Number.MAX_SAFE_INTEGER, ...text })

const Stay = Type.Object(
  {
    resource: Ref(['property:42']),
    customer: Identifier(),
    from: Moment('2030-06-01'),
    to: Moment('2030-06-05'),
    payment: Type.Optional(PaymentSchema),
    hold_seconds: Type.Optional(
      Type.Integer({ minimum: 1, maximum: MAX_HOLD_S, description: 'Only set aside, until it is accepted' }),
    ),
  },
  { title: 'Stay', additionalProperties: false },
)
const Ride = Type.Object(
  {
    driver_id: Id({ pattern: `^${ID_PATTERN}$`, examples: ['1'] }),
    rider_id: Id({ minLength: 1, ...IdentifierText, examples: ['ada'] }),
    pickup_lat: Type.Number({ minimum: -90, maximum: 90 }),
    pickup_lng: Type.Number({ minimum: -180, maximum: 180 }),
  },
  { title: 'Ride', additionalProperties: false },
)
const NewBookingSchema = Type.Unsafe<Type.Static<typeof Stay> | Type.Static<typeof Ride>>({
  type: 'object',
  // One branch is looked at, so that what is wrong is named in its terms; the document says oneOf.
  if: { type: 'object', required: ['driver_id'] },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: Ride,
  else: Stay,
  examples: [{ resource: 'property:42', customer: 'ada', from: '2030-06-01', to: '2030-06-05' }],
})

export const BookingSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Place in the line: first come, first served' }),
    kind: Type.Enum(['stay', 'ride']),
    status: Type.Enum([...BOOKING_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why, when rejected or cancelled' })),
    conflicting_ids: Nullable(Type.Array(Type.String(), { description: 'What was in the way, when rejected for it' })),
    resource: Type.String(),
    customer: Type.String(),
    from: Time,
    to: Nullable(Type.String({ format: 'date-time', description: 'Not included; null while a ride has no end' })),
    pickup: Nullable(Type.Object({ lat: Type.Number(), lng: Type.Number() })),
    amount: Nullable(
      Type.Integer({
        description: 'Price × started days by the local clock, in minor units; null until it is settled',
      }),
    ),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired booking whose late payment bought this one' }),
    ),
    replaced_by: Nullable(Type.String({ format: 'uuid', description: 'The booking that its late payment bought' })),
    fencing_token: Nullable(Type.Integer({ description: 'Fencing token of the lease it was settled under' })),
    created_at: Time,
    settled_at: Nullable(Time),
  },
  {
    $id: 'Booking',
    examples: [
      {
        id: '01935f5e-0000-7000-8000-000000000011',
        seq: 4,
        kind: 'stay',
        status: 'accepted',
        reason: null,
        conflicting_ids: null,
        resource: 'property:42',
        customer: 'ada',
        from: '2030-06-01T00:00:00.000Z',
        to: '2030-06-05T00:00:00.000Z',
        pickup: null,
        amount: 48_000,
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
type Booking = Type.Static<typeof BookingSchema>

/** A booking on its way into the line. A ride has neither end; it begins when it is written. */
export interface NewBooking extends NewRow {
  kind: 'stay' | 'ride'
  from_at: string | null
  until_at: string | null
  /** that a stay is charged for: the offsets it was asked for with are not kept */
  days: number | null
  pickup: Pickup | null
}

interface Row {
  id: string
  seq: number
  /** the resource that is booked */
  queue: string
  kind: 'stay' | 'ride'
  status: BookingStatus
  reason: string | null
  conflicts: string[] | null
  customer: string
  from_at: string
  until_at: string | null
  pickup: Pickup | null
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  expires_at: string | null
  replaces: string | null
  replaced_by: string | null
  fencing_token: number | null
  created_at: string
  settled_at: string | null
  overdue: boolean
  /** set aside while its card is asked */
  charging: boolean
  money: Money
}

const COLUMNS = `id, seq, resource AS queue, kind, status, reason, conflicts, customer, lower(during) AS from_at,
  upper(during) AS until_at, pickup, amount, currency, payment, hold_seconds, expires_at, fencing_token, created_at, settled_at,
  status = 'requested' AND coalesce(expires_at <= clock_timestamp(), false) AS overdue,
  ${CHARGING.bookings} AS charging, ${MONEY('bookings')}, replaces, CASE WHEN status = 'expired' THEN (
    SELECT later.id FROM bookings later WHERE later.replaces = bookings.id) END AS replaced_by`

/** What a booking is before a worker has seen it. */
const IN_LINE = {
  status: 'queued' as const,
  reason: null,
  conflicts: null,
  amount: null,
  currency: null,
  expires_at: null,
  replaces: null,
  replaced_by: null,
  fencing_token: null,
  settled_at: null,
  overdue: false,
  charging: false,
  money: null,
}

const optional = (at: string | null) => (at === null ? null : iso(at))

function present(row: Row): Booking {
  return {
    id: row.id,
    seq: row.seq,
    kind: row.kind,
    status: row.overdue ? 'expired' : row.status,
    reason: row.reason,
    conflicting_ids: row.conflicts,
    resource: row.queue,
    customer: row.customer,
    from: iso(row.from_at),
    to: optional(row.until_at),
    pickup: row.pickup,
    amount: row.amount,
    currency: row.currency,
    payment: presentPayment(row.payment, row.money),
    hold_seconds: row.hold_seconds,
    expires_at: optional(row.expires_at),
    replaces: row.replaces,
    replaced_by: row.replaced_by,
    fencing_token: row.fencing_token,
    created_at: iso(row.created_at),
    settled_at: optional(row.settled_at),
  }
}

/** What was asked for as a row, and the resources that it names. @throws Problem naming the field that is wrong */
function read(body: Type.Static<typeof Stay> | Type.Static<typeof Ride>) {
  if ('driver_id' in body) {
    const queue = `driver:${body.driver_id}`
    const row = {
      kind: 'ride' as const,
      queue,
      customer: String(body.rider_id),
      from_at: null,
      until_at: null,
      pickup: { lat: body.pickup_lat, lng: body.pickup_lng },
      payment: { method: 'none' } satisfies Payment,
      hold_seconds: null,
    }
    const wanted: Wanted[] = [{ ref: queue, field: 'driver_id', kind: 'calendar' }]
    return { row, days: null, until_ms: Number.POSITIVE_INFINITY, wanted }
  }
  const { from_ms, to_ms, days } = readRange(body.from, body.to, MAX_STAY_DAYS)
  const payment = readPayment(body.payment)
  const row = {
    kind: 'stay' as const,
    queue: body.resource,
    customer: body.customer,
    from_at: new Date(from_ms).toISOString(),
    until_at: new Date(to_ms).toISOString(),
    pickup: null,
    payment,
    hold_seconds: body.hold_seconds ?? null,
  }
  const calendar: Wanted = { ref: body.resource, field: 'resource', kind: 'calendar' }
  return { row, days, until_ms: to_ms, wanted: [calendar, ...accountOf(payment)] }
}

export interface BookingRoutesDeps extends LineDeps {
  bookings: Intake<NewBooking>
  kinds: Kinds
}

export function bookingRoutes(instance: FastifyInstance, deps: BookingRoutesDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const BookingRef = Type.Unsafe<Booking>(Type.Ref('Booking'))
  const tags = ['bookings']
  const look = createLook<Row>(deps, 'bookings', COLUMNS)
  const line = createLine<Row, NewBooking, BookingCommand>(deps, {
    noun: 'booking',
    look,
    intake: deps.bookings,
    fresh: (row, { seq, created_at }) => ({ ...row, ...IN_LINE, from_at: row.from_at ?? created_at, seq, created_at }),
    present,
    charging: (row) => row.charging,
    outcome,
    obeyed,
    refuseUnless(command, row) {
      const { status } = present(row)
      if (!mayStill(status, command)) throw wrongStatus(command, status)
    },
    paying: 'accept',
    unpaid: (code, row) => refusal(present(row), code),
    refused: (command, code, status, row) => {
      const booking = present(row)
      if (code === 'too_early' || code === 'too_late') return illTimed(command, code, booking)
      if (UNPAID.has(code)) return refusal(booking, code)
      const why = PAYMENT_REFUSALS[code]
      return why === undefined ? wrongStatus(command, status) : new Problem(409, code, why, { booking })
    },
  })

  async function isKnown({
    idempotency_key,
    idempotency_scope,
  }: Pick<NewBooking, 'idempotency_key' | 'idempotency_scope'>) {
    if (idempotency_key === null) return false
    const earlier = await deps.guarded(() =>
      query(
        deps.client,
        sql`SELECT 1 FROM bookings WHERE idempotency_key = ${idempotency_key} AND idempotency_scope = ${idempotency_scope}`,
      ),
    )
    return earlier.length > 0
  }

  async function outcome(row: Row): Promise<Booking> {
    const booking = present(row)
    const { status, reason, conflicting_ids } = booking
    if (status === 'requested' || status === 'accepted' || status === 'completed') return booking
    if (status !== 'rejected') throw new Problem(409, status, `The booking is ${status}.`, { booking })
    if (conflicting_ids) throw conflict(conflicting_ids, booking)
    throw refusal(booking, reason ?? status)
  }

  async function obeyed(command: BookingCommand, row: Row): Promise<Booking> {
    const booking = present(row)
    const { status, reason } = booking
    if (command !== 'accept' || status === 'accepted' || status === 'completed') return booking
    if (status === 'rejected') throw refusal(booking, reason ?? status)
    if (status === 'requested') throw refusal(booking, unpaidCode(booking.payment))
    // It was accepted, and cancelled later: a replay of the accept answers with the booking as it is.
    const { charge } = booking.payment
    if (status === 'cancelled' && (!charge || charge.status === 'captured')) return booking
    // Its time was over before the card had answered, or a cancel or decline overtook the card.
    throw wrongStatus(command, status)
  }

  app.post(
    '/api/bookings',
    {
      schema: {
        operationId: 'createBooking',
        tags,
        summary: 'Book a stay or request a ride: a place in the line',
        description:
          'A stay is booked from a time to another; with `hold_seconds` it is set aside until it is accepted, by card ' +
          'until the card has answered. A ride takes its driver from now until it ends; a request that nobody accepts ' +
          'expires. Answers 202 at once; with `Prefer: wait=N` when it is settled, N seconds at most.',
        headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
        body: NewBookingSchema,
        response: {
          201: response(BookingRef, 'Settled: accepted or requested', 'location', 'preference-applied', REPLAYED),
          202: response(BookingRef, 'In the line', 'location', 'retry-after', 'preference-applied', REPLAYED),
          ...problemResponses(400, 402, conflict(['01935f5e-0000-7000-8000-000000000011']), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { row, days, until_ms, wanted } = read(request.body)
      const key = keyed(request, 'POST /api/bookings', row)
      // The key of a stay that was booked in time still finds it.
      if (until_ms < Date.now() - CLOCKS_MS && !(await isKnown(key))) throw badField('to', 'has passed')
      await deps.kinds.check(wanted)
      return await line.submit(request, reply, { ...row, ...key, days, id: newId() })
    },
  )

  app.get(
    '/api/bookings/:id',
    {
      schema: {
        operationId: 'getBooking',
        tags,
        summary: 'A booking, whatever its status',
        params: IdParams(BOOKING_SAMPLES.complete),
        response: { 200: response(BookingRef, 'The booking'), ...problemResponses(400, 404) },
      },
    },
    async (request) => present(await line.readOne(request.params.id)),
  )

  app.get(
    '/api/bookings',
    {
      schema: {
        operationId: 'listBookings',
        tags,
        summary: 'Bookings, newest first',
        querystring: pageQuery({
          resource: Type.Optional(Ref([])),
          customer: Type.Optional(Type.String(IdentifierText)),
          status: Type.Optional(Type.Enum([...BOOKING_STATUSES])),
        }),
        response: { 200: response(page(BookingRef), 'One page'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { resource, customer, status, limit = 20, cursor } = request.query
      const places = cursors('bookings', { customer, resource, status }, UUID)
      const before = places.read(cursor)
      const conditions = [sql`true`]
      if (before !== undefined) conditions.push(sql`id < ${before}`)
      if (resource !== undefined) conditions.push(sql`resource = ${resource}`)
      if (customer !== undefined) conditions.push(sql`customer = ${customer}`)
      const over = sql`(status = 'requested' AND coalesce(expires_at <= clock_timestamp(), false))`
      if (status === 'requested') conditions.push(sql`(status = 'requested' AND NOT ${over})`)
      else if (status === 'expired') conditions.push(sql`(status = 'expired' OR ${over})`)
      else if (status !== undefined) conditions.push(sql`status = ${status}`)
      const rows = await look.list(sql`WHERE ${sql.join(conditions, sql` AND `)} ORDER BY id DESC LIMIT ${limit + 1}`)
      const data = rows.slice(0, limit).map(present)
      return { data, next_cursor: rows.length > limit ? places.write(data.at(-1)?.id ?? '') : null }
    },
  )

  for (const command of BOOKING_COMMANDS) {
    app.post(
      `/api/bookings/:id/${command}`,
      {
        schema: {
          operationId: `${command}Booking`,
          tags,
          summary: SUMMARIES[command],
          description: `${DESCRIPTIONS[command]} Stands in the line of the booking. Answers when settled, 10 seconds at most or what \`Prefer: wait=N\` says; 202 when it takes longer.`,
          params: IdParams(BOOKING_SAMPLES[command]),
          headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
          ...(command === 'accept' && { body: PayingSchema }),
          response: {
            200: response(BookingRef, 'Done', 'preference-applied', REPLAYED),
            202: response(BookingRef, 'In the line', 'retry-after', 'preference-applied', REPLAYED),
            ...problemResponses(
              400,
              ...(command === 'accept' ? [402, 422] : []),
              404,
              wrongStatus(command, 'expired'),
              413,
              415,
            ),
          },
        },
      },
      async (request, reply) => {
        const payment = readPaying(request.body)
        if (payment !== null) await deps.kinds.check(accountOf(payment))
        return await line.obey(command, request, request.params.id.toLowerCase(), reply, payment)
      },
    )
  }
}

const SUMMARIES: Record<BookingCommand, string> = {
  accept: 'Accept a requested ride, or confirm a stay that is set aside',
  decline: 'Decline a request',
  cancel: 'Give a booking up that is not over',
  complete: 'End an accepted ride or stay',
}

const DESCRIPTIONS: Record<BookingCommand, string> = {
  accept:
    'With `payment` a stay that is set aside is paid now, as a purchase is at its confirm. A stay that is over is not ' +
    'accepted any more (409 `too_late`).',
  decline: 'Takes no body.',
  cancel: 'An accepted stay that is over cannot be cancelled (409 `too_late`). Takes no body.',
  complete: 'A stay from its beginning on (409 `too_early` before it), a ride at any time. Takes no body.',
}

/** Bookings that the sample data holds, so that every example answers when it is pressed. */
export const BOOKING_SAMPLES: Record<BookingCommand, string> = {
  complete: '01935f5e-0000-7000-8000-000000000011',
  accept: '01935f5e-0000-7000-8000-000000000012',
  decline: '01935f5e-0000-7000-8000-000000000013',
  cancel: '01935f5e-0000-7000-8000-000000000014',
}

const refusal = (booking: Booking, code: string) =>
  UNPAID.has(code)
    ? new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(booking.payment), booking })
    : new Problem(409, code, `The booking was rejected: ${code}.`, { booking })

const illTimed = (command: BookingCommand, code: 'too_early' | 'too_late', booking: Booking) => {
  const when = code === 'too_early' ? `before it begins, ${booking.from}` : `after its end, ${booking.to}`
  return new Problem(409, code, `A stay cannot be ${PARTICIPLES[command]} ${when}.`, { booking })
}

const conflict = (conflicting_ids: string[], booking?: Booking) =>
  new Problem(409, 'conflict', 'Another booking has this time, or this rider.', {
    conflicting_ids,
    ...(booking ? { booking } : {}),
  })

const PARTICIPLES: Record<BookingCommand, string> = {
  accept: 'accepted',
  decline: 'declined',
  cancel: 'cancelled',
  complete: 'completed',
}
const wrongStatus = (command: BookingCommand, status: string) =>
  new Problem(409, 'wrong_status', `A booking that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
