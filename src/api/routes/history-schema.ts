/**
 * The schema of the history of a purchase or booking. Invariant: `what` is one of a closed list of words, which docs/api.md
 * explains.
 */
import Type from 'typebox'
import { BOOKING_STATUSES } from '../../shared/domain/booking.ts'
import { PURCHASE_STATUSES } from '../../shared/domain/purchase.ts'
import { Nullable, Time } from '../http/schemas.ts'
import { COUNT_TO } from '../queue/queue-entries.ts'

/** Everything that can have happened: the statuses of the row, then its commands, its money and its events. */
export const HISTORY_WORDS = [
  ...new Set([...PURCHASE_STATUSES, ...BOOKING_STATUSES]),
  'replaced',
  'command_received',
  'command_done',
  'command_rejected',
  'charge_started',
  'charge_authorized',
  'charge_captured',
  'charge_declined',
  'charge_unavailable',
  'charge_released',
  'authorization_lost',
  'refund_requested',
  'refund_succeeded',
  'refund_failed',
  'refund_canceled',
  'dispute_opened',
  'dispute_won',
  'dispute_lost',
  'event_delivered',
  'event_delivery_failed',
] as const
export type HistoryWord = (typeof HISTORY_WORDS)[number]

const Uuid = Type.String({ format: 'uuid' })
const Ahead = Type.Integer({ description: `Entries before it in its queue, at most ${COUNT_TO}` })
const AheadCapped = Type.Literal(true, { description: `There are more than ${COUNT_TO}` })

const Detail = Type.Object({
  queue: Type.Optional(Type.String({ description: 'The resource in whose queue it waited' })),
  seq: Type.Optional(Type.Integer()),
  ahead: Type.Optional(Ahead),
  ahead_capped: Type.Optional(AheadCapped),
  until: Type.Optional(Type.String({ format: 'date-time', description: 'When the hold ends' })),
  reason: Type.Optional(Type.String({ description: 'Why; for a charge or refund, the provider’s code' })),
  resource: Type.Optional(Type.String()),
  available: Type.Optional(Type.Integer({ description: 'Units that there were when it was rejected' })),
  max_per_customer: Type.Optional(Type.Integer()),
  conflicting_ids: Type.Optional(Type.Array(Type.String())),
  movements: Type.Optional(
    Type.Array(
      Type.Object({
        resource: Type.String(),
        reason: Type.Enum(['hold', 'release', 'sale', 'refund']),
        delta: Type.Integer({ description: 'Change of the available units' }),
        fencing_token: Nullable(Type.Integer()),
      }),
      { description: 'Its entries in the ledger' },
    ),
  ),
  replaces: Type.Optional(Uuid),
  replaced_by: Type.Optional(Uuid),
  command: Type.Optional(Type.String({ description: '`confirm`, `cancel`, `refund`, `accept` …' })),
  command_id: Type.Optional(Uuid),
  status: Type.Optional(Type.String({ description: 'The status in which the command found the row' })),
  amount: Type.Optional(Type.Integer({ description: 'Minor units' })),
  currency: Type.Optional(Type.String()),
  at_provider: Type.Optional(Type.Boolean({ description: 'The refund was made at the provider, not by a command' })),
  event: Type.Optional(Type.String({ description: 'Id of the event' })),
  type: Type.Optional(Type.String({ description: 'Type of the event' })),
  endpoint: Type.Optional(Type.String({ format: 'uuid', description: 'The webhook endpoint' })),
  attempts: Type.Optional(Type.Integer()),
  http_status: Type.Optional(Nullable(Type.Integer({ description: 'Answer of the endpoint; null: none' }))),
})
export type HistoryDetail = Type.Static<typeof Detail>

const EntrySchema = Type.Object({
  at: Time,
  what: Type.Enum([...HISTORY_WORDS]),
  by: Type.Optional(Type.String({ description: 'host:pid of the process that settled it' })),
  fencing_token: Type.Optional(Type.Integer({ description: 'Fencing token of the lease under which it was settled' })),
  detail: Type.Optional(Detail),
})

const Head = Type.Object({
  kind: Type.Enum(['purchase', 'booking']),
  id: Uuid,
  command: Nullable(Type.String({ description: 'A command on that purchase or booking; null: the row itself' })),
  since: Time,
})
const Holder = Type.Object({
  owner: Type.String({ description: 'host:pid and job, or the owner of a lease over HTTP' }),
  fencing_token: Type.Integer(),
})
const WaitingSchema = Type.Object({
  what: Type.Enum(['settlement', 'command', 'charge', 'refund', 'hold'], {
    description:
      '`settlement`: a worker decides the queued row. `command`: a worker executes the command. `charge`, `refund`: the ' +
      'provider answers. `hold`: the hold is confirmed or accepted, or ends.',
  }),
  queue: Type.Optional(
    Type.String({ description: 'With settlement and command: the resource in whose queue it waits' }),
  ),
  ahead: Type.Optional(Ahead),
  ahead_capped: Type.Optional(AheadCapped),
  head: Type.Optional(Nullable(Head)),
  holder: Type.Optional({
    ...Nullable(Holder),
    description: 'Holder of the lease of the queue; null: the lock is free; absent: the lock server did not answer',
  }),
  command: Type.Optional(Type.Object({ id: Uuid, action: Type.String(), since: Time })),
  provider: Type.Optional(Type.Enum(['sandbox', 'stripe'])),
  next_attempt_at: Type.Optional(Time),
  until: Type.Optional(Type.String({ format: 'date-time', description: 'When the hold ends' })),
})

export const HistorySchema = Type.Object(
  {
    history: Type.Array(EntrySchema, {
      description: 'In order; at most the newest 500 commands, charges and deliveries',
    }),
    waiting_for: Nullable(WaitingSchema),
  },
  {
    $id: 'History',
    examples: [
      {
        history: [
          { at: '2026-11-21T10:00:00.000Z', what: 'queued', detail: { queue: 'product:1', seq: 1, ahead: 3 } },
          {
            at: '2026-11-21T10:00:00.012Z',
            what: 'confirmed',
            by: 'worker-1:17',
            fencing_token: 1_795_257_640_880_613,
            detail: {
              movements: [{ resource: 'product:1', reason: 'sale', delta: -1, fencing_token: 1_795_257_640_880_613 }],
            },
          },
        ],
        waiting_for: null,
      },
    ],
  },
)
export type History = Type.Static<typeof HistorySchema>
export const HistoryRef = Type.Unsafe<History>(Type.Ref('History'))
export type Waiting = Type.Static<typeof WaitingSchema>
