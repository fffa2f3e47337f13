/**
 * Bookings over HTTP: stays, which have a beginning and an end, and rides, which last from now until they end. Invariant: as
 * for purchases, the API only inserts queued rows, and every answer about a settled booking is read from its committed row.
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
  mayStill,
  type Pickup,
} from '../../shared/domain/booking.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { ID_PATTERN } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import { Key, Prefer } from '../http/headers.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import { Identifier, IdentifierText, IdParams, Nullable, Ref, Time, UUID } from '../http/schemas.ts'
import { iso, readRange, Timestamp } from '../http/timestamps.ts'
import type { Intake, QueuedRowInput } from '../queue/intake.ts'
import {
  CHARGE_STATE,
  type ChargeState,
  declineOf,
  PaymentState,
  paymentState,
  unpaidCode,
} from '../queue/payment-view.ts'
import type { RequestedResource, ResourceKinds } from '../queue/resource-kinds.ts'
import { createRowReader } from '../queue/row-reader.ts'
import { CHARGING } from '../queue/settlement-waiter.ts'
import {
  createSubmission,
  idempotencyColumns,
  PAYMENT_FAILURES,
  PAYMENT_REFUSALS,
  type SubmissionDeps,
} from '../queue/submission.ts'
import { accountOf, MAX_HOLD_S, PayingSchema, PaymentSchema, readPaying, readPayment } from './purchases.ts'

/** Longest stay. */
const MAX_STAY_DAYS = 366
/** Tolerated clock difference of two machines: within it, the database's clock decides at settlement. */
const CLOCKS_MS = 5_000

/** Ids as callers store them: 7 and "7" are the same driver. */
const Id = (text: object) =>
  Type.Unsafe<string | number>({ type: ['string', 'integer'], minimum: 0, maximum: Number.MAX_SAFE_INTEGER, ...text })

const Stay = Type.Object(
  {
    resource: Ref(['property:42']),
    customer: Identifier(),
    from: Timestamp('2030-06-01'),
    to: Timestamp('2030-06-05'),
    payment: Type.Optional(PaymentSchema),
    hold_seconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: MAX_HOLD_S,
        description: 'Holds the time for so many seconds, until it is accepted',
      }),
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
  // Only one branch is validated, so that an error is reported in its terms; the document shows oneOf.
  if: { type: 'object', required: ['driver_id'] },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: Ride,
  else: Stay,
  examples: [{ resource: 'property:42', customer: 'ada', from: '2030-06-01', to: '2030-06-05' }],
})

export const BookingSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Position in its queue: first come, first served' }),
    kind: Type.Enum(['stay', 'ride']),
    status: Type.Enum([...BOOKING_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why it was rejected or cancelled' })),
    conflicting_ids: Nullable(
      Type.Array(Type.String(), { description: 'Bookings that it conflicts with, when rejected for a conflict' }),
    ),
    resource: Type.String(),
    customer: Type.String(),
    from: Time,
    to: Nullable(Type.String({ format: 'date-time', description: 'Exclusive; null while a ride has no end' })),
    pickup: Nullable(Type.Object({ lat: Type.Number(), lng: Type.Number() })),
    amount: Nullable(
      Type.Integer({
        description: 'Price × days begun by the local clock, in minor units; null until it is settled',
      }),
    ),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired booking whose late payment paid for this one' }),
    ),
    replaced_by: Nullable(Type.String({ format: 'uuid', description: 'The booking that its late payment paid for' })),
    fencing_token: Nullable(Type.Integer({ description: 'Fencing token of the lease under which it was settled' })),
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

/** A booking before it is queued. A ride has neither time; it begins when its row is inserted. */
export interface NewBooking extends QueuedRowInput {
  kind: 'stay' | 'ride'
  from_at: string | null
  until_at: string | null
  /** days charged for a stay: the offsets of the request are not stored */
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
  conflicting_ids: string[] | null
  customer: string
  from_at: string
  until_at: string | null
  pickup: Pickup | null
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  expires_at: string | null
  replaces_id: string | null
  replaced_by: string | null
  fencing_token: number | null
  created_at: string
  settled_at: string | null
  overdue: boolean
  /** its time is held while the card charge is in progress */
  charging: boolean
  charge_state: ChargeState
}

const COLUMNS = `id, seq, resource_id AS queue, kind, status, reason, conflicting_ids, customer, lower(period) AS from_at,
  upper(period) AS until_at, pickup, amount, currency, payment, hold_seconds, expires_at, fencing_token, created_at, settled_at,
  status = 'requested' AND coalesce(expires_at <= clock_timestamp(), false) AS overdue,
  ${CHARGING.bookings} AS charging, ${CHARGE_STATE('bookings')}, replaces_id, CASE WHEN status = 'expired' THEN (
    SELECT later.id FROM bookings later WHERE later.replaces_id = bookings.id) END AS replaced_by`

/** Members of a queued booking: no worker has settled it yet. */
const QUEUED = {
  status: 'queued' as const,
  reason: null,
  conflicting_ids: null,
  amount: null,
  currency: null,
  expires_at: null,
  replaces_id: null,
  replaced_by: null,
  fencing_token: null,
  settled_at: null,
  overdue: false,
  charging: false,
  charge_state: null,
}

const optional = (at: string | null) => (at === null ? null : iso(at))

function toResponse(row: Row): Booking {
  return {
    id: row.id,
    seq: row.seq,
    kind: row.kind,
    status: row.overdue ? 'expired' : row.status,
    reason: row.reason,
    conflicting_ids: row.conflicting_ids,
    resource: row.queue,
    customer: row.customer,
    from: iso(row.from_at),
    to: optional(row.until_at),
    pickup: row.pickup,
    amount: row.amount,
    currency: row.currency,
    payment: paymentState(row.payment, row.charge_state),
    hold_seconds: row.hold_seconds,
    expires_at: optional(row.expires_at),
    replaces: row.replaces_id,
    replaced_by: row.replaced_by,
    fencing_token: row.fencing_token,
    created_at: iso(row.created_at),
    settled_at: optional(row.settled_at),
  }
}

/** The body as a row, and the resources that it names. @throws Problem naming the field that is wrong */
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
    const requested: RequestedResource[] = [{ ref: queue, field: 'driver_id', kind: 'calendar' }]
    return { row, days: null, until_ms: Number.POSITIVE_INFINITY, requested }
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
  const calendar: RequestedResource = { ref: body.resource, field: 'resource', kind: 'calendar' }
  return { row, days, until_ms: to_ms, requested: [calendar, ...accountOf(payment)] }
}

export interface BookingOptions extends SubmissionDeps {
  bookingIntake: Intake<NewBooking>
  resourceKinds: ResourceKinds
}

export async function bookingRoutes(instance: FastifyInstance, deps: BookingOptions): Promise<void> {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const BookingRef = Type.Unsafe<Booking>(Type.Ref('Booking'))
  const tags = ['bookings']
  const reader = createRowReader<Row>(deps, 'bookings', COLUMNS)
  const submission = createSubmission<Row, NewBooking, BookingCommand>(deps, {
    noun: 'booking',
    reader,
    intake: deps.bookingIntake,
    asQueued: (input, { seq, created_at }) => ({
      ...input,
      ...QUEUED,
      from_at: input.from_at ?? created_at,
      seq,
      created_at,
    }),
    toResponse,
    isCharging: (row) => row.charging,
    outcome,
    commandOutcome,
    assertAllowed(command, row) {
      const { status } = toResponse(row)
      if (!mayStill(status, command)) throw wrongStatus(command, status)
    },
    payingCommand: 'accept',
    paymentFailed: (code, row) => refusal(toResponse(row), code),
    commandRejected: (command, code, status, row) => {
      const booking = toResponse(row)
      if (code === 'too_early' || code === 'too_late') return illTimed(command, code, booking)
      if (PAYMENT_FAILURES.has(code)) return refusal(booking, code)
      const why = PAYMENT_REFUSALS[code]
      return why === undefined ? wrongStatus(command, status) : new Problem(409, code, why, { booking })
    },
  })

  async function isKnown({
    idempotency_key,
    idempotency_scope,
  }: Pick<NewBooking, 'idempotency_key' | 'idempotency_scope'>) {
    if (idempotency_key === null) return false
    const earlier = await deps.viaBreaker(() =>
      query(
        deps.client,
        sql`SELECT 1 FROM bookings WHERE idempotency_key = ${idempotency_key} AND idempotency_scope = ${idempotency_scope}`,
      ),
    )
    return earlier.length > 0
  }

  async function outcome(row: Row): Promise<Booking> {
    const booking = toResponse(row)
    const { status, reason, conflicting_ids } = booking
    if (status === 'requested' || status === 'accepted' || status === 'completed') return booking
    if (status !== 'rejected') throw new Problem(409, status, `The booking is ${status}.`, { booking })
    if (conflicting_ids) throw conflict(conflicting_ids, booking)
    throw refusal(booking, reason ?? status)
  }

  async function commandOutcome(command: BookingCommand, row: Row): Promise<Booking> {
    const booking = toResponse(row)
    const { status, reason } = booking
    if (command !== 'accept' || status === 'accepted' || status === 'completed') return booking
    if (status === 'rejected') throw refusal(booking, reason ?? status)
    if (status === 'requested') throw refusal(booking, unpaidCode(booking.payment))
    // It was accepted and cancelled later: a replay of the accept answers with the present booking.
    const { charge } = booking.payment
    if (status === 'cancelled' && (!charge || charge.status === 'captured')) return booking
    // The hold expired before the card charge ended, or a cancel or decline was settled first.
    throw wrongStatus(command, status)
  }

  app.post(
    '/api/bookings',
    {
      schema: {
        operationId: 'createBooking',
        tags,
        summary: 'Book a stay or request a ride',
        description:
          'A stay is booked from `from` to `to`. With `hold_seconds` it is only held until it is accepted; paid by card, ' +
          'it is held until the charge ends. A ride occupies its driver from now until it ends; a ride that is not ' +
          'accepted in time expires. Queues the booking and answers 202. With `Prefer: wait=N` it answers once the booking ' +
          'is settled, or 202 after N seconds.',
        headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
        body: NewBookingSchema,
        response: {
          201: response(BookingRef, 'Settled: accepted or requested', 'location', 'preference-applied', REPLAYED),
          202: response(BookingRef, 'Queued', 'location', 'retry-after', 'preference-applied', REPLAYED),
          ...problemResponses(400, 402, conflict(['01935f5e-0000-7000-8000-000000000011']), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { row, days, until_ms, requested } = read(request.body)
      const key = idempotencyColumns(request, 'POST /api/bookings', row)
      // A replay of a stay that was booked in time must still find it.
      if (until_ms < Date.now() - CLOCKS_MS && !(await isKnown(key))) throw fieldProblem('to', 'has passed')
      await deps.resourceKinds.assertKinds(requested)
      return await submission.enqueueAndRespond(request, reply, { ...row, ...key, days, id: newId() })
    },
  )

  app.get(
    '/api/bookings/:id',
    {
      schema: {
        operationId: 'getBooking',
        tags,
        summary: 'Get a booking',
        params: IdParams(BOOKING_SAMPLES.complete),
        response: { 200: response(BookingRef, 'The booking'), ...problemResponses(400, 404) },
      },
    },
    async (request) => toResponse(await submission.readOne(request.params.id)),
  )

  app.get(
    '/api/bookings',
    {
      schema: {
        operationId: 'listBookings',
        tags,
        summary: 'List bookings, newest first',
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
      const pageCursors = cursors('bookings', { customer, resource, status }, UUID)
      const before = pageCursors.read(cursor)
      const conditions = [sql`true`]
      if (before !== undefined) conditions.push(sql`id < ${before}`)
      if (resource !== undefined) conditions.push(sql`resource_id = ${resource}`)
      if (customer !== undefined) conditions.push(sql`customer = ${customer}`)
      const overdue = sql`(status = 'requested' AND coalesce(expires_at <= clock_timestamp(), false))`
      if (status === 'requested') conditions.push(sql`(status = 'requested' AND NOT ${overdue})`)
      else if (status === 'expired') conditions.push(sql`(status = 'expired' OR ${overdue})`)
      else if (status !== undefined) conditions.push(sql`status = ${status}`)
      const rows = await reader.findAll(
        sql`WHERE ${sql.join(conditions, sql` AND `)} ORDER BY id DESC LIMIT ${limit + 1}`,
      )
      const data = rows.slice(0, limit).map(toResponse)
      return { data, next_cursor: rows.length > limit ? pageCursors.write(data.at(-1)?.id ?? '') : null }
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
          description: `${DESCRIPTIONS[command]} Queued behind earlier bookings of the same resource. Answers once it is settled; 202 after 10 seconds, or after N with \`Prefer: wait=N\`.`,
          params: IdParams(BOOKING_SAMPLES[command]),
          headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
          ...(command === 'accept' && { body: PayingSchema }),
          response: {
            200: response(BookingRef, 'Done', 'preference-applied', REPLAYED),
            202: response(BookingRef, 'Queued', 'retry-after', 'preference-applied', REPLAYED),
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
        if (payment !== null) await deps.resourceKinds.assertKinds(accountOf(payment))
        return await submission.submitCommand(command, request, request.params.id.toLowerCase(), reply, payment)
      },
    )
  }
}

const SUMMARIES: Record<BookingCommand, string> = {
  accept: 'Accept a requested ride or a held stay',
  decline: 'Decline a requested booking',
  cancel: 'Cancel a booking',
  complete: 'Complete an accepted ride or stay',
}

const DESCRIPTIONS: Record<BookingCommand, string> = {
  accept:
    'With `payment` a held stay is paid now, as a held purchase is by its confirm. A stay whose end has passed cannot be ' +
    'accepted (409 `too_late`).',
  decline: 'Takes no body.',
  cancel: 'An accepted stay whose end has passed cannot be cancelled (409 `too_late`). Takes no body.',
  complete: 'A stay can be completed once it has begun (409 `too_early` before), a ride at any time. Takes no body.',
}

/** Ids of the sample data: every example in the document works with them. */
export const BOOKING_SAMPLES: Record<BookingCommand, string> = {
  complete: '01935f5e-0000-7000-8000-000000000011',
  accept: '01935f5e-0000-7000-8000-000000000012',
  decline: '01935f5e-0000-7000-8000-000000000013',
  cancel: '01935f5e-0000-7000-8000-000000000014',
}

const refusal = (booking: Booking, code: string) =>
  PAYMENT_FAILURES.has(code)
    ? new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(booking.payment), booking })
    : new Problem(409, code, `The booking was rejected: ${code}.`, { booking })

const illTimed = (command: BookingCommand, code: 'too_early' | 'too_late', booking: Booking) => {
  const when = code === 'too_early' ? `before it begins, ${booking.from}` : `after its end, ${booking.to}`
  return new Problem(409, code, `A stay cannot be ${PARTICIPLES[command]} ${when}.`, { booking })
}

const conflict = (conflicting_ids: string[], booking?: Booking) =>
  new Problem(409, 'conflict', 'Another booking overlaps this time, or has this rider.', {
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
