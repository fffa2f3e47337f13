/** The shape of what the dashboard shows. Invariant: what could not be asked is null; it is never told as empty. */
import Type from 'typebox'
import { Nullable, Time } from '../http/schemas.ts'
import { LockSchema } from '../routes/locks.ts'
import type { ResourceSchema } from '../routes/resources.ts'
import { COUNT_TO } from './queries.ts'

const LineSchema = Type.Object({
  resource: Type.String(),
  length: Type.Integer({ description: `Purchases, bookings and commands; counted to ${COUNT_TO}` }),
  more: Type.Boolean({ description: 'There are more than that' }),
  oldest_ms: Type.Integer({ description: 'Since its head has come' }),
})
const Pace = Type.Object({
  at: Time,
  per_second: Nullable(
    Type.Number({ description: 'Settled by the whole fleet since the sample before; null while no stream is open' }),
  ),
  wait_p50_ms: Nullable(Type.Integer({ description: 'From request to settlement; null when nothing was settled' })),
  wait_p95_ms: Nullable(Type.Integer()),
})
const BreakersSchema = Type.Object({
  process: Type.String({ description: '`api` is the process that answers; workers are host:pid' }),
  breakers: Type.Record(Type.String(), Type.Enum(['closed', 'half_open', 'open'])),
})
const VerdictSchema = Type.Object({
  at: Time,
  broken: Type.Array(Type.Object({ invariant: Type.String(), offenders: Type.Array(Type.String()) })),
})
const orMissing = (description: string) => ({ description: `${description}; null when it could not be asked` })

export const SnapshotSchema = Type.Object({
  at: Time,
  lab: Type.Boolean({ description: 'The lab is there' }),
  resources: Type.Unsafe<Type.Static<typeof ResourceSchema>[] | null>({
    type: ['array', 'null'],
    items: Type.Ref('Resource'),
    ...orMissing('The first of each type, and those with a line or a lease'),
  }),
  lines: Type.Unsafe<Type.Static<typeof LineSchema>[] | null>({
    type: ['array', 'null'],
    items: LineSchema,
    ...orMissing('The lines whose heads wait longest'),
  }),
  more_lines: Type.Integer({ description: 'Lines beside those; at most 500 are looked at' }),
  locks: Type.Unsafe<Type.Static<typeof LockSchema>[] | null>({
    type: ['array', 'null'],
    items: LockSchema,
    ...orMissing('Who holds what, and who waits'),
  }),
  more_locks: Type.Integer({ description: 'Locks beside those' }),
  pace: Pace,
  breakers: Type.Array(BreakersSchema),
  verdict: Type.Unsafe<Type.Static<typeof VerdictSchema> | null>({
    ...VerdictSchema,
    type: ['object', 'null'],
    description: "The verifier's last word on the quick invariants; null when there is none that still counts",
  }),
})
export type Snapshot = Type.Static<typeof SnapshotSchema>
export type Sample = Type.Static<typeof Pace>
