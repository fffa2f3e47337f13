/**
 * Purchases over HTTP. Invariant: the API only inserts queued rows; workers decide their outcome, and every answer about a
 * settled purchase is read from its committed row.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import type { Payment } from '../../shared/domain/charge.ts'
import {
  type PurchaseCommand as ClientCommand,
  type LineItem,
  mayStill,
  type Observed,
  PURCHASE_COMMANDS,
  PURCHASE_STATUSES,
  type PurchaseStatus,
} from '../../shared/domain/purchase.ts'
import { mergeItems, queueFor } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { fieldProblem, Problem } from '../../shared/problem.ts'
import { Key, Prefer } from '../http/headers.ts'
import { cursors, page, pageQuery } from '../http/pagination.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import {
  ACCOUNT_PATTERN,
  Identifier,
  IdentifierText,
  IdParams,
  Nullable,
  Ref,
  Time,
  TOKEN_PATTERN,
  UUID,
} from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'
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

const MAX_ITEMS = 100
const MAX_UNITS = 1_000_000_000
/** Longest hold, in seconds: a week. */
export const MAX_HOLD_S = 604_800

const LineItemSchema = Type.Object(
  { resource: Ref(['product:1']), units: Type.Integer({ minimum: 1, maximum: MAX_UNITS }) },
  { additionalProperties: false },
)
export const PaymentSchema = Type.Unsafe<Payment>({
  type: 'object',
  discriminator: { propertyName: 'method' },
  required: ['method'],
  oneOf: [
    Type.Object({ method: Type.Literal('none') }, { additionalProperties: false }),
    Type.Object(
      {
        method: Type.Literal('card'),
        token: Type.String({ minLength: 1, maxLength: 200, pattern: TOKEN_PATTERN }),
      },
      { additionalProperties: false },
    ),
    Type.Object(
      {
        method: Type.Literal('wallet'),
        account: Type.String({ pattern: ACCOUNT_PATTERN }),
      },
      { additionalProperties: false },
    ),
  ],
})
const NewPurchaseSchema = Type.Object(
  {
    customer: Identifier(),
    lines: Type.Array(LineItemSchema, { minItems: 1, maxItems: MAX_ITEMS }),
    payment: Type.Optional(PaymentSchema),
    hold_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOLD_S })),
  },
  {
    additionalProperties: false,
    examples: [{ customer: 'ada', lines: [{ resource: 'product:1', units: 1 }], payment: { method: 'none' } }],
  },
)

/** The body of a command that pays: optional, and may be empty. */
export const PayingSchema = Type.Unsafe<{ payment?: Payment } | null>({
  type: ['object', 'null'],
  properties: { payment: PaymentSchema },
  additionalProperties: false,
  examples: [{ payment: { method: 'none' } }],
})
/** The payment of a command; null: the purchase's own payment is used, if it has one. */
export function readPaying(body: unknown): Payment | null {
  const { payment } = (body ?? {}) as { payment?: Payment }
  return payment === undefined || payment.method === 'none' ? null : readPayment(payment)
}

export const PurchaseSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Position in its queue: first come, first served' }),
    status: Type.Enum([...PURCHASE_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why it was rejected, failed or cancelled' })),
    customer: Type.String(),
    lines: Type.Array(Type.Object({ resource: Type.String(), units: Type.Integer() })),
    amount: Nullable(Type.Integer({ description: 'Minor units; null until it is settled' })),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired purchase whose late payment paid for this one' }),
    ),
    replaced_by: Nullable(Type.String({ format: 'uuid', description: 'The purchase that its late payment paid for' })),
    fencing_token: Nullable(Type.Integer({ description: 'Fencing token of the lease under which it was settled' })),
    created_at: Time,
    settled_at: Nullable(Time),
  },
  {
    $id: 'Purchase',
    examples: [
      {
        id: '01935f5e-0000-7000-8000-000000000001',
        seq: 1,
        status: 'confirmed',
        reason: null,
        customer: 'ada',
        lines: [{ resource: 'product:1', units: 1 }],
        amount: 99_900,
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
type Purchase = Type.Static<typeof PurchaseSchema>

/** A purchase before it is queued. */
export interface NewPurchase extends QueuedRowInput {
  items: LineItem[]
}

interface Row {
  id: string
  seq: number
  queue: string
  status: PurchaseStatus
  reason: string | null
  observed: Observed | null
  customer: string
  items: LineItem[]
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
  /** its units are held while the card charge is in progress */
  charging: boolean
  charge_state: ChargeState
}

const COLUMNS = `id, seq, queue, status, reason, observed, customer, items, amount, currency, payment, hold_seconds,
  expires_at, fencing_token, created_at, settled_at, status = 'held' AND expires_at <= clock_timestamp() AS overdue,
  ${CHARGING.purchases} AS charging, ${CHARGE_STATE('purchases')}, replaces_id, CASE WHEN status = 'expired' THEN (
    SELECT later.id FROM purchases later WHERE later.replaces_id = purchases.id) END AS replaced_by`

const optional = (at: string | null) => (at === null ? null : iso(at))

function toResponse(row: Row): Purchase {
  return {
    id: row.id,
    seq: row.seq,
    status: row.overdue ? 'expired' : row.status,
    reason: row.reason,
    customer: row.customer,
    lines: row.items,
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

/** Members of a queued purchase: no worker has settled it yet. */
const QUEUED = {
  status: 'queued' as const,
  reason: null,
  observed: null,
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

/** Sorts the members, so that two equal payments have the same hash. */
export function readPayment(payment: Payment = { method: 'none' }): Payment {
  return Object.fromEntries(Object.entries(payment).sort(([a], [b]) => (a < b ? -1 : 1))) as Payment
}

/** The account that a payment names, as a resource to check. */
export const accountOf = (payment: Payment): RequestedResource[] =>
  payment.method === 'wallet' ? [{ ref: payment.account, field: 'payment.account', kind: 'account' }] : []

export interface PurchaseOptions extends SubmissionDeps {
  purchaseIntake: Intake<NewPurchase>
  resourceKinds: ResourceKinds
}

export async function purchaseRoutes(instance: FastifyInstance, deps: PurchaseOptions): Promise<void> {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const PurchaseRef = Type.Unsafe<Purchase>(Type.Ref('Purchase'))
  const tags = ['purchases']
  const reader = createRowReader<Row>(deps, 'purchases', COLUMNS)
  const submission = createSubmission<Row, NewPurchase, ClientCommand>(deps, {
    noun: 'purchase',
    reader,
    intake: deps.purchaseIntake,
    asQueued: (input, { seq, created_at }) => ({ ...input, ...QUEUED, seq, created_at }),
    toResponse,
    isCharging: (row) => row.charging,
    outcome,
    commandOutcome,
    payingCommand: 'confirm',
    paymentFailed,
    assertAllowed,
    commandRejected: (command, code, status, row) => {
      if (PAYMENT_FAILURES.has(code)) return paymentFailed(code, row)
      const why = PAYMENT_REFUSALS[code]
      return why === undefined
        ? wrongStatus(command, status)
        : new Problem(409, code, why, { purchase: toResponse(row) })
    },
  })

  async function outcome(row: Row): Promise<Purchase> {
    const purchase = toResponse(row)
    if (purchase.status === 'rejected' || purchase.status === 'failed') throw refusal(row)
    if (purchase.status === 'held' || purchase.status === 'confirmed') return purchase
    throw new Problem(409, purchase.status, `The purchase is ${purchase.status}.`, { purchase })
  }

  async function commandOutcome(command: ClientCommand, row: Row): Promise<Purchase> {
    const purchase = toResponse(row)
    const { status, payment } = purchase
    if (command !== 'confirm' || status === 'confirmed' || status === 'refunded') return purchase
    if (status === 'failed') throw refusal(row)
    if (status === 'held') throw paymentFailed(unpaidCode(payment), row)
    // The hold expired before the card charge ended, or a cancel was settled first.
    throw wrongStatus(command, status)
  }

  function refusal(row: Row): Problem {
    const purchase = toResponse(row)
    const code = row.reason ?? row.status
    if (row.status === 'failed')
      return new Problem(402, code, `The purchase failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
    // Rows settled before this column existed have no details.
    const { resource, available, max_per_customer } = row.observed ?? {}
    if (code === 'sold_out') {
      return soldOut(row.items.find((item) => item.resource === resource) ?? row.items[0], available, purchase)
    }
    if (max_per_customer !== undefined) {
      const detail = `A customer may have at most ${max_per_customer} units of ${resource}, held ones included.`
      return new Problem(409, code, detail, { resource, max_per_customer, purchase })
    }
    return new Problem(409, code, `The purchase was rejected: ${code}.`, { purchase })
  }

  app.post(
    '/api/purchases',
    {
      schema: {
        operationId: 'createPurchase',
        tags,
        summary: 'Create a purchase',
        description:
          'Queues the purchase and answers 202. With `Prefer: wait=N` it answers once the purchase is settled, or 202 after ' +
          'N seconds.',
        headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
        body: NewPurchaseSchema,
        response: {
          201: response(PurchaseRef, 'Settled: confirmed or held', 'location', 'preference-applied', REPLAYED),
          202: response(PurchaseRef, 'Queued', 'location', 'retry-after', 'preference-applied', REPLAYED),
          ...problemResponses(400, 402, soldOut({ resource: 'product:1', units: 2 }, 1), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { customer, hold_seconds = null } = request.body
      const payment = readPayment(request.body.payment)
      const items = mergeItems(request.body.lines)
      const body = { customer, items, payment, hold_seconds }
      const key = idempotencyColumns(request, 'POST /api/purchases', body)
      const excess = items.find((item) => item.units > MAX_UNITS)
      if (excess) throw fieldProblem('lines', `request more than ${MAX_UNITS} units of ${excess.resource} in total`)
      const requested = request.body.lines.map(
        ({ resource: ref }, i): RequestedResource => ({ ref, field: `lines[${i}].resource`, kind: 'units' }),
      )
      await deps.resourceKinds.assertKinds([...requested, ...accountOf(payment)])
      return await submission.enqueueAndRespond(request, reply, {
        ...body,
        ...key,
        id: newId(),
        queue: queueFor(items),
      })
    },
  )

  app.get(
    '/api/purchases/:id',
    {
      schema: {
        operationId: 'getPurchase',
        tags,
        summary: 'Get a purchase',
        params: IdParams(SAMPLES.confirmed),
        response: { 200: response(PurchaseRef, 'The purchase'), ...problemResponses(400, 404) },
      },
    },
    async (request) => toResponse(await submission.readOne(request.params.id)),
  )

  app.get(
    '/api/purchases',
    {
      schema: {
        operationId: 'listPurchases',
        tags,
        summary: 'List purchases, newest first',
        querystring: pageQuery({
          customer: Type.Optional(Type.String(IdentifierText)),
          resource: Type.Optional(Ref([])),
          status: Type.Optional(Type.Enum([...PURCHASE_STATUSES])),
        }),
        response: { 200: response(page(PurchaseRef), 'One page'), ...problemResponses(400) },
      },
    },
    async (request) => {
      const { customer, resource, status, limit = 20, cursor } = request.query
      const pageCursors = cursors('purchases', { customer, resource, status }, UUID)
      const before = pageCursors.read(cursor)
      const conditions = [sql`true`]
      if (before !== undefined) conditions.push(sql`id < ${before}`)
      if (customer !== undefined) conditions.push(sql`customer = ${customer}`)
      if (resource !== undefined) {
        const item = JSON.stringify([{ resource }])
        conditions.push(sql`(queue = ${resource} OR (jsonb_array_length(items) > 1 AND items @> ${item}::jsonb))`)
      }
      if (status === 'held') conditions.push(sql`(status = 'held' AND expires_at > clock_timestamp())`)
      else if (status === 'expired') {
        conditions.push(sql`(status = 'expired' OR (status = 'held' AND expires_at <= clock_timestamp()))`)
      } else if (status !== undefined) conditions.push(sql`status = ${status}`)
      const where = sql`WHERE ${sql.join(conditions, sql` AND `)} ORDER BY id DESC LIMIT ${limit + 1}`
      const rows = await reader.findAll(where)
      const data = rows.slice(0, limit).map(toResponse)
      return { data, next_cursor: rows.length > limit ? pageCursors.write(data.at(-1)?.id ?? '') : null }
    },
  )

  for (const command of PURCHASE_COMMANDS) {
    app.post(
      `/api/purchases/:id/${command}`,
      {
        schema: {
          operationId: `${command}Purchase`,
          tags,
          summary: SUMMARIES[command],
          description: `${DESCRIPTIONS[command]} Queued behind earlier purchases of the same resource. Answers once it is settled; 202 after 10 seconds, or after N with \`Prefer: wait=N\`.`,
          params: IdParams(SAMPLES[ALLOWED[command]]),
          headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
          ...(command === 'confirm' && { body: PayingSchema }),
          response: {
            200: response(PurchaseRef, 'Done', 'preference-applied', REPLAYED),
            202: response(PurchaseRef, 'Queued', 'retry-after', 'preference-applied', REPLAYED),
            ...problemResponses(
              400,
              ...(command === 'confirm' ? [402, 422] : []),
              404,
              wrongStatus(command, 'refunded'),
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

const SUMMARIES: Record<ClientCommand, string> = {
  confirm: 'Confirm a held purchase',
  cancel: 'Cancel a purchase',
  refund: 'Refund a purchase',
}
const DESCRIPTIONS: Record<ClientCommand, string> = {
  confirm:
    'With `payment` the hold is paid now: by card it is confirmed once the charge is authorized, from a wallet in the same ' +
    'settlement. A declined card (402) leaves the hold unchanged, so another card can be tried. While a card charge is in ' +
    'progress, or money is reserved in a wallet, a second payment is refused (409 `payment_in_progress`, ' +
    '`payment_conflict`). Without `payment` the payment given at creation is used, which may be none.',
  cancel: 'For a queued or held purchase. Takes no body.',
  refund: 'Refunds a confirmed purchase in full; `payment.refunds` says when the money has moved. Takes no body.',
}
/** The sample purchase on which a command succeeds. */
const ALLOWED = { confirm: 'held', cancel: 'cancellable', refund: 'confirmed' } as const

/** Ids of the sample data: every example in the document works with them. */
export const SAMPLES = {
  confirmed: '01935f5e-0000-7000-8000-000000000001',
  held: '01935f5e-0000-7000-8000-000000000002',
  cancellable: '01935f5e-0000-7000-8000-000000000003',
}

const soldOut = (item: LineItem | undefined, available: number | undefined, purchase?: Purchase) =>
  new Problem(409, 'sold_out', `Fewer than ${item?.units} units of ${item?.resource} were available.`, {
    available,
    resource: item?.resource,
    ...(purchase ? { purchase } : {}),
  })

function paymentFailed(code: string, row: Row): Problem {
  const purchase = toResponse(row)
  return new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
}

const wrongStatus = (command: ClientCommand, status: string) =>
  new Problem(409, 'wrong_status', `A purchase that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
const PARTICIPLES: Record<ClientCommand, string> = { confirm: 'confirmed', cancel: 'cancelled', refund: 'refunded' }

function assertAllowed(command: ClientCommand, row: Row): void {
  const status = row.overdue ? 'expired' : row.status
  if (!mayStill(status, command)) throw wrongStatus(command, status)
}
