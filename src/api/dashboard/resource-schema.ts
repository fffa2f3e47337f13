/** The schema of the dashboard's view of a resource. Invariant: a part that could not be read is null, never empty. */
import Type, { type TSchema } from 'typebox'
import { PURCHASE_STATUSES } from '../../shared/domain/purchase.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { COUNT_TO } from '../queue/queue-entries.ts'
import { LockSchema } from '../routes/locks.ts'
import { ResourceRef } from '../routes/resource-view.ts'
import { MovementSchema } from '../routes/restock.ts'
import { BOOKINGS, DAYS_AFTER, DAYS_BEFORE, POINTS, PURCHASES } from './resource-queries.ts'

/** Number of movements shown; GET …/movements lists all. */
export const MOVEMENTS = 20

const orNull = <T extends TSchema>(schema: T, description: string) =>
  Type.Unsafe<Type.Static<T> | null>({
    ...Nullable(schema),
    description: `${description}; null when it could not be read`,
  })

const Queue = Type.Object({
  length: Type.Integer({ description: `Queued purchases, bookings and commands, counted up to ${COUNT_TO}` }),
  more: Type.Boolean({ description: 'The queue is longer than `length`' }),
  oldest_ms: Type.Integer({ description: 'Age of the oldest row in the queue; 0 when the queue is empty' }),
  head: Nullable(
    Type.Object(
      {
        id: Type.String({ format: 'uuid', description: 'The purchase or booking that is settled next' }),
        kind: Type.Enum(['purchase', 'booking']),
        command: Nullable(Type.String({ description: 'The command on it that waits; null when the row itself waits' })),
        since: Time,
      },
      { description: 'The row at the head of the queue; null when the queue is empty' },
    ),
  ),
})
const Point = Type.Object({
  at: Time,
  available: Type.Integer(),
  held: Type.Integer({ description: 'Overdue holds count as held until a worker has ended them' }),
  sold: Type.Integer(),
})
const Purchase = Type.Object({
  id: Type.String({ format: 'uuid' }),
  customer: Type.String(),
  units: Type.Integer({ description: 'Units of this resource; of an account, the amount that it pays' }),
  status: Type.Enum([...PURCHASE_STATUSES]),
  at: Type.String({ format: 'date-time', description: 'When it was created' }),
})
const Booking = Type.Object({
  id: Type.String({ format: 'uuid' }),
  customer: Type.String(),
  from: Time,
  to: Type.Unsafe<string | null>({
    type: ['string', 'null'],
    format: 'date-time',
    description: 'Exclusive; null while a ride has no end',
  }),
  status: Type.Enum(['requested', 'accepted', 'completed']),
})
export const ResourceDetailSchema = Type.Object(
  {
    resource: ResourceRef,
    queue: orNull(Queue, 'The queue of the resource'),
    lock: orNull(LockSchema, 'The lock of the resource with its holders and waiters'),
    stock: orNull(
      Type.Array(Point),
      `Stock over time, oldest first: at most ${POINTS} points over the newest entries of the ledger, the last one as it is now`,
    ),
    movements: orNull(Type.Array(MovementSchema), `The newest ${MOVEMENTS} entries of the ledger, newest first`),
    purchases: orNull(
      Type.Array(Purchase),
      `The newest ${PURCHASES} purchases in its queue, or that have moved its units, newest first`,
    ),
    bookings: orNull(
      Type.Array(Booking),
      `Of a calendar: requested, accepted and completed bookings from ${DAYS_BEFORE} days ago to ${DAYS_AFTER} days ` +
        `ahead, at most ${BOOKINGS}, in the order of their beginning`,
    ),
  },
  {
    examples: [
      {
        resource: {
          resource: 'product:1',
          type: 'product',
          id: '1',
          name: 'iPhone 15',
          kind: 'units',
          total: 10,
          available: 8,
          held: 0,
          sold: 2,
          price: { amount: 99_900, currency: 'USD' },
          max_per_customer: null,
          version: 1,
          created_at: '2026-11-21T09:00:00.000Z',
          updated_at: '2026-11-21T09:00:00.000Z',
        },
        queue: {
          length: 1,
          more: false,
          oldest_ms: 800,
          head: {
            id: '01935f5e-0000-7000-8000-000000000002',
            kind: 'purchase',
            command: null,
            since: '2026-11-21T10:00:01.000Z',
          },
        },
        lock: { resource: 'product:1', fencing_token: 1_795_257_640_880_613, holders: [], waiters: [] },
        stock: [
          { at: '2026-11-21T09:00:00.000Z', available: 10, held: 0, sold: 0 },
          { at: '2026-11-21T10:00:00.000Z', available: 8, held: 0, sold: 2 },
        ],
        movements: [
          {
            id: 2,
            resource: 'product:1',
            purchase: '01935f5e-0000-7000-8000-000000000001',
            booking: null,
            delta: -2,
            reason: 'sale',
            fencing_token: 1_795_257_640_880_613,
            created_at: '2026-11-21T10:00:00.000Z',
          },
        ],
        purchases: [
          {
            id: '01935f5e-0000-7000-8000-000000000001',
            customer: 'ada',
            units: 2,
            status: 'confirmed',
            at: '2026-11-21T10:00:00.000Z',
          },
        ],
        bookings: [],
      },
    ],
  },
)
