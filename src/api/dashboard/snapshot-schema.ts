/** The schema of the dashboard's snapshot. Invariant: a part that could not be read is null, never empty. */
import Type, { type TSchema } from 'typebox'
import { Nullable, Time } from '../http/schemas.ts'
import { COUNT_TO } from '../queue/queue-entries.ts'
import { LockSchema } from '../routes/locks.ts'
import type { ResourceSchema } from '../routes/resource-view.ts'

const Breakers = Type.Record(Type.String(), Type.Enum(['closed', 'half_open', 'open']))
const nullable = <T extends TSchema>(schema: T, type: 'array' | 'object', description: string) =>
  Type.Unsafe<Type.Static<T> | null>({
    ...schema,
    type: [type, 'null'],
    description: `${description}; null when it could not be read`,
  })

const FindingSchema = Type.Object({
  rule: Type.String({ description: 'Name of the rule; docs/dashboard.md lists the rules' }),
  level: Type.Enum(['amber', 'red']),
  sentence: Type.String(),
  since: Nullable(Time),
  subject: Nullable(Type.String({ description: 'The resource, process, endpoint, or server that it is about' })),
})
const ConditionSchema = Type.Object({
  level: Type.Enum(['green', 'amber', 'red']),
  sentence: Type.String({ description: 'The worst finding, or that all systems work' }),
  since: Nullable(Time),
  findings: Type.Array(FindingSchema, { description: 'The worst first; at most 50' }),
})
const ProcessSchema = Type.Object({
  id: Type.String({ description: 'host:pid, as the owner of a lease begins' }),
  role: Type.Enum(['api', 'worker']),
  host: Type.String(),
  version: Type.String(),
  started_at: Time,
  seen_at: Type.String({ format: 'date-time', description: 'Time of its last report; it reports once a second' }),
  event_loop_p99_ms: Type.Number({ description: 'Delay of the event loop in the last second, 99th percentile' }),
  queues: Type.Array(Type.String(), { description: 'Queues that it drains now; at most 20' }),
  breakers: Breakers,
})
const QueueSchema = Type.Object({
  resource: Type.String(),
  length: Type.Integer({ description: `Queued purchases, bookings and commands, counted up to ${COUNT_TO}` }),
  more: Type.Boolean({ description: 'The queue is longer than `length`' }),
  oldest_ms: Type.Integer({ description: 'Age of the oldest row in the queue' }),
  holder: Type.Unsafe<{ owner: string; fencing_token: number } | null>({
    ...Type.Object({ owner: Type.String(), fencing_token: Type.Integer() }),
    type: ['object', 'null'],
    description: 'Holder of the lease of the queue; null when it is free, or held for less than 500 ms',
  }),
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
  errors_per_minute: Nullable(
    Type.Integer({ description: 'Log lines of level error, and responses with a 5xx status, of the whole fleet' }),
  ),
})
const FailedJobsSchema = Type.Object({ queue: Type.String(), count: Type.Integer() })
const VerificationSchema = Type.Object({
  at: Time,
  broken: Type.Array(Type.Object({ invariant: Type.String(), offenders: Type.Array(Type.String()) })),
})

export const SnapshotSchema = Type.Object({
  at: Time,
  lab: Type.Boolean({ description: 'The lab is enabled' }),
  condition: ConditionSchema,
  processes: nullable(Type.Array(ProcessSchema), 'array', 'API and worker processes, with those that are missed'),
  resources: Type.Unsafe<Type.Static<typeof ResourceSchema>[] | null>({
    type: ['array', 'null'],
    items: Type.Ref('Resource'),
    description:
      'The first resources of each type, and those with a queue or a lease; null when they could not be read',
  }),
  queues: nullable(Type.Array(QueueSchema), 'array', 'The queues with the oldest rows'),
  more_queues: Type.Integer({ description: 'Number of further queues; at most 500 are read' }),
  locks: nullable(Type.Array(LockSchema), 'array', 'Locks with their holders and waiters'),
  more_locks: Type.Integer({ description: 'Number of further locks' }),
  throughput: Throughput,
  failed_jobs: nullable(Type.Array(FailedJobsSchema), 'array', 'Failed BullMQ jobs that are kept'),
  verification: Type.Unsafe<Type.Static<typeof VerificationSchema> | null>({
    ...VerificationSchema,
    type: ['object', 'null'],
    description: "The verifier's latest result for the quick invariants; null when it is missing or too old",
  }),
})
export type Snapshot = Type.Static<typeof SnapshotSchema>
export type Sample = Type.Static<typeof Throughput>

export const HistorySchema = Type.Object({
  range: Type.String(),
  step_s: Type.Integer({ description: 'Seconds between two samples; a step without a sample is missing' }),
  samples: Type.Array(
    Type.Object({
      at: Type.String({ format: 'date-time', description: 'Begin of the step' }),
      per_second: Nullable(Type.Number({ description: 'Rows settled per second by the whole fleet' })),
      wait_p50_ms: Nullable(
        Type.Integer({ description: 'Time from insert to settlement; null when no row was settled' }),
      ),
      wait_p95_ms: Nullable(Type.Integer()),
      queued: Nullable(Type.Integer({ description: 'Queued purchases, bookings and commands' })),
      oldest_s: Nullable(Type.Number({ description: 'Age of the oldest queued row in seconds; 0 when there is none' })),
      errors_per_minute: Nullable(Type.Integer()),
      level: Type.Enum(['green', 'amber', 'red']),
      sentence: Type.String({ description: "The condition's sentence" }),
    }),
  ),
})
