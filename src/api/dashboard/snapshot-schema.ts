/** The schema of the dashboard's snapshot. Invariant: a part that could not be read is null, never empty. */
import Type from 'typebox'
import { Nullable, Time } from '../http/schemas.ts'
import { LockSchema } from '../routes/locks.ts'
import type { ResourceSchema } from '../routes/resource-view.ts'
import { COUNT_TO } from './queries.ts'

const QueueSchema = Type.Object({
  resource: Type.String(),
  length: Type.Integer({ description: `Queued purchases, bookings and commands, counted up to ${COUNT_TO}` }),
  more: Type.Boolean({ description: 'The queue is longer than `length`' }),
  oldest_ms: Type.Integer({ description: 'Age of the oldest row in the queue' }),
})
const Throughput = Type.Object({
  at: Time,
  per_second: Nullable(
    Type.Number({
      description: 'Rows settled per second by the whole fleet since the previous sample; null while no stream is open',
    }),
  ),
  wait_p50_ms: Nullable(Type.Integer({ description: 'Time from request to settlement; null when no row was settled' })),
  wait_p95_ms: Nullable(Type.Integer()),
})
const BreakersSchema = Type.Object({
  process: Type.String({ description: '`api` is the responding process; workers are host:pid' }),
  breakers: Type.Record(Type.String(), Type.Enum(['closed', 'half_open', 'open'])),
})
const VerdictSchema = Type.Object({
  at: Time,
  broken: Type.Array(Type.Object({ invariant: Type.String(), offenders: Type.Array(Type.String()) })),
})
const orMissing = (description: string) => ({ description: `${description}; null when it could not be read` })

export const SnapshotSchema = Type.Object({
  at: Time,
  lab: Type.Boolean({ description: 'The lab is enabled' }),
  resources: Type.Unsafe<Type.Static<typeof ResourceSchema>[] | null>({
    type: ['array', 'null'],
    items: Type.Ref('Resource'),
    ...orMissing('The first resources of each type, and those with a queue or a lease'),
  }),
  lines: Type.Unsafe<Type.Static<typeof QueueSchema>[] | null>({
    type: ['array', 'null'],
    items: QueueSchema,
    ...orMissing('The queues with the oldest rows'),
  }),
  more_lines: Type.Integer({ description: 'Number of further queues; at most 500 are read' }),
  locks: Type.Unsafe<Type.Static<typeof LockSchema>[] | null>({
    type: ['array', 'null'],
    items: LockSchema,
    ...orMissing('Locks with their holders and waiters'),
  }),
  more_locks: Type.Integer({ description: 'Number of further locks' }),
  pace: Throughput,
  breakers: Type.Array(BreakersSchema),
  verdict: Type.Unsafe<Type.Static<typeof VerdictSchema> | null>({
    ...VerdictSchema,
    type: ['object', 'null'],
    description: "The verifier's latest result for the quick invariants; null when it is missing or too old",
  }),
})
export type Snapshot = Type.Static<typeof SnapshotSchema>
export type Sample = Type.Static<typeof Throughput>
