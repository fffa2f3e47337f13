/**
 * Bookings over HTTP: stays, which have a beginning and an end, and rides, which last from now until they end. Invariant: as
 * for purchases, workers decide the outcome of the rows that the API queues, and every answer about a settled booking is read
 * from its committed row.
 */
import Type from 'typebox'
import { BOOKING_COMMANDS, BOOKING_STATUSES, type BookingCommand, mayStill } from '../../shared/domain/booking.ts'
import type { Payment } from '../../shared/domain/charge.ts'
import { ID_PATTERN } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { fieldProblem } from '../../shared/problem.ts'
import type { Database } from '../database.ts'
import { Key, Prefer } from '../http/headers.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import { BOOKING_SAMPLES } from '../http/samples.ts'
import { Identifier, IdentifierText, IdParams, Ref, UUID } from '../http/schemas.ts'
import { readRange, Timestamp } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { type BookingRow, bookingByKey, bookingPage, type NewBooking } from '../queue/booking-rows.ts'
import { accountOf, HoldSeconds, PaymentSchema, readPaying, readPayment } from '../queue/payment-request.ts'
import { accepted, commandSchema, enqueueRow, idempotencyColumns, submitCommand } from '../queue/requests.ts'
import type { RequestedResource, ResourceKinds } from '../queue/resource-kinds.ts'
import { type RowQueue, statusNow } from '../queue/submission.ts'
import {
  BookingRef,
  bookingOutcome,
  bookingView,
  commandOutcome,
  commandProblem,
  conflict,
  wrongStatus,
} from './booking-view.ts'

const TAGS = ['bookings']
/** Longest stay, in days. */
const MAX_STAY_DAYS = 366
/**
 * Tolerated difference between the clocks of two machines, in milliseconds. A stay whose end lies within it is queued, and
 * the database's clock decides at settlement.
 */
const CLOCKS_MS = 5_000

/** Returns the schema of an id as callers store it, a number or a text: 7 and "7" are the same driver. */
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
      HoldSeconds({ description: 'Holds the time for at most this many seconds, until the booking is accepted' }),
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
  // With if/then/else, only one branch is validated, so that an error names the fields of that branch; the OpenAPI document
  // shows oneOf.
  if: { type: 'object', required: ['driver_id'] },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: Ride,
  else: Stay,
  examples: [{ resource: 'property:42', customer: 'ada', from: '2030-06-01', to: '2030-06-05' }],
})

/** Converts the body to a row, and lists the resources that it names. @throws Problem naming the field that is wrong */
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

export interface BookingOptions {
  queue: RowQueue<BookingRow, NewBooking>
  resourceKinds: ResourceKinds
  db: Pick<Database, 'query'>
}

export async function bookingRoutes(app: TypedApp, options: BookingOptions): Promise<void> {
  createRoute(app, options)
  readRoutes(app, options)
  for (const command of BOOKING_COMMANDS) commandRoute(app, options, command)
}

const Create = {
  operationId: 'createBooking',
  tags: TAGS,
  summary: 'Book a stay or request a ride',
  description:
    'A stay is booked from `from` to `to`. With `hold_seconds` the stay is only held until it is accepted; if it is paid ' +
    'by card, it is held until the charge ends. A ride occupies its driver from now until the ride ends; a ride that is ' +
    'not accepted in time expires. The API queues the booking and answers 202. With `Prefer: wait=N` the API answers once ' +
    'the booking is settled, or with 202 after N seconds.',
  headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
  body: NewBookingSchema,
  response: {
    201: response(BookingRef, 'Settled: accepted or requested', 'location', 'preference-applied', REPLAYED),
    202: response(BookingRef, 'Queued', 'location', 'retry-after', 'preference-applied', REPLAYED),
    ...problemResponses(400, 402, conflict(['01935f5e-0000-7000-8000-000000000011']), 413, 415, 422),
  },
}

function createRoute(app: TypedApp, { queue, resourceKinds, db }: BookingOptions): void {
  async function isKnown({ idempotency_key: key, idempotency_scope: scope }: ReturnType<typeof idempotencyColumns>) {
    return key !== null && (await db.query(bookingByKey, { key, scope })).length > 0
  }

  app.post('/api/bookings', { schema: Create }, async (request, reply) => {
    const { row: asked, days, until_ms, requested } = read(request.body)
    const key = idempotencyColumns(request, 'POST /api/bookings', asked)
    // If the stay was booked in time, a repeated request must still find it after the end of the stay.
    if (until_ms < Date.now() - CLOCKS_MS && !(await isKnown(key))) throw fieldProblem('to', 'has passed')
    await resourceKinds.assertKinds(requested)
    const { row, settled } = await enqueueRow(queue, { ...asked, ...key, days, id: newId() }, request, reply)
    return settled ? reply.code(201).send(bookingOutcome(row)) : accepted(reply, bookingView(row))
  })
}

const Get = {
  operationId: 'getBooking',
  tags: TAGS,
  summary: 'Get a booking',
  params: IdParams(BOOKING_SAMPLES.complete),
  response: { 200: response(BookingRef, 'The booking'), ...problemResponses(400, 404) },
}
const List = {
  operationId: 'listBookings',
  tags: TAGS,
  summary: 'List bookings, newest first',
  querystring: pageQuery({
    resource: Type.Optional(Ref([])),
    customer: Type.Optional(Type.String(IdentifierText)),
    status: Type.Optional(Type.Enum([...BOOKING_STATUSES])),
  }),
  response: { 200: response(page(BookingRef), 'One page'), ...problemResponses(400) },
}

function readRoutes(app: TypedApp, { queue }: BookingOptions): void {
  app.get('/api/bookings/:id', { schema: Get }, async (request) => bookingView(await queue.readOne(request.params.id)))

  app.get('/api/bookings', { schema: List }, async (request) => {
    const { limit = 20, cursor, ...filters } = request.query
    const pageCursors = cursors('bookings', filters, UUID)
    const before = pageCursors.read(cursor)
    const rows = await queue.findAll(bookingPage({ ...filters, before }), { ...filters, before, limit: limit + 1 })
    return pageOf(rows, limit, bookingView, (row) => pageCursors.write(row.id))
  })
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

function commandRoute(app: TypedApp, { queue, resourceKinds }: BookingOptions, action: BookingCommand): void {
  const pays = action === 'accept'
  const text = {
    action,
    pays,
    summary: SUMMARIES[action],
    description: DESCRIPTIONS[action],
    sample: BOOKING_SAMPLES[action],
  }
  const schema = commandSchema('booking', BookingRef, text, wrongStatus(action, 'expired'))
  const mayStillBe = (row: BookingRow) => mayStill(statusNow(row), action)
  app.post(`/api/bookings/:id/${action}`, { schema }, async (request, reply) => {
    const payment = readPaying(request.body)
    if (payment !== null) await resourceKinds.assertKinds(accountOf(payment))
    const command = { action, pays, payment }
    const result = await submitCommand(queue, command, request.params.id, mayStillBe, request, reply)
    if (result.status === 'pending') return accepted(reply, bookingView(result.row))
    if (result.status === 'done') return reply.code(200).send(commandOutcome(action, result.row))
    throw commandProblem(action, result)
  })
}
