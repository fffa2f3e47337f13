/**
 * Purchases over HTTP. Invariant: this side only writes rows that stand in a line; what becomes of them is decided by
 * the workers, and every answer about a settled purchase is read from its committed row.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { sql } from 'drizzle-orm'
import type { FastifyInstance } from 'fastify'
import Type from 'typebox'
import {
  COMMANDS,
  type LineItem,
  type Met,
  type Payment,
  PURCHASE_STATUSES,
  type PurchaseStatus,
} from '../../shared/db/schema.ts'
import { mergeItems, queueFor } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { badField, Problem } from '../../shared/problem.ts'
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
import type { Intake, NewRow } from '../queue/intake.ts'
import { declineOf, MONEY, type Money, PaymentState, presentPayment, unpaidCode } from '../queue/payment-view.ts'
import type { Kinds, Wanted } from '../queue/resource-kinds.ts'
import { createLook } from '../queue/row-reader.ts'
import { CHARGING } from '../queue/settlement-waiter.ts'
import { createLine, keyed, type LineDeps, PAYMENT_REFUSALS, UNPAID } from '../queue/submission.ts'

type ClientCommand = (typeof COMMANDS)[number]

const MAX_LINES = 100
const MAX_UNITS = 1_000_000_000
/** Longest hold, in seconds: a week. */
export const MAX_HOLD_S = 604_800

const LineSchema = Type.Object(
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
    lines: Type.Array(LineSchema, { minItems: 1, maxItems: MAX_LINES }),
    payment: Type.Optional(PaymentSchema),
    hold_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOLD_S })),
  },
  {
    additionalProperties: false,
    examples: [{ customer: 'ada', lines: [{ resource: 'product:1', units: 1 }], payment: { method: 'none' } }],
  },
)

/** Of a command that pays: may be left out, and be empty. */
export const PayingSchema = Type.Unsafe<{ payment?: Payment } | null>({
  type: ['object', 'null'],
  properties: { payment: PaymentSchema },
  additionalProperties: false,
  examples: [{ payment: { method: 'none' } }],
})
/** What a command pays with; null: with what there is already, which may be nothing. */
export function readPaying(body: unknown): Payment | null {
  const { payment } = (body ?? {}) as { payment?: Payment }
  return payment === undefined || payment.method === 'none' ? null : readPayment(payment)
}

export const PurchaseSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Place in the line: first come, first served' }),
    status: Type.Enum([...PURCHASE_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why, when rejected, failed or cancelled' })),
    customer: Type.String(),
    lines: Type.Array(Type.Object({ resource: Type.String(), units: Type.Integer() })),
    amount: Nullable(Type.Integer({ description: 'Minor units; null until it is settled' })),
    currency: Nullable(Type.String()),
    payment: PaymentState,
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    replaces: Nullable(
      Type.String({ format: 'uuid', description: 'The expired purchase whose late payment bought this one' }),
    ),
    replaced_by: Nullable(Type.String({ format: 'uuid', description: 'The purchase that its late payment bought' })),
    fencing_token: Nullable(Type.Integer({ description: 'Fencing token of the lease it was settled under' })),
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

/** A purchase on its way into the line. */
export interface NewPurchase extends NewRow {
  lines: LineItem[]
}

interface Row {
  id: string
  seq: number
  queue: string
  status: PurchaseStatus
  reason: string | null
  met: Met | null
  customer: string
  lines: LineItem[]
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

const COLUMNS = `id, seq, queue, status, reason, met, customer, lines, amount, currency, payment, hold_seconds,
  expires_at, fencing_token, created_at, settled_at, status = 'held' AND expires_at <= clock_timestamp() AS overdue,
  ${CHARGING.purchases} AS charging, ${MONEY('purchases')}, replaces, CASE WHEN status = 'expired' THEN (
    SELECT later.id FROM purchases later WHERE later.replaces = purchases.id) END AS replaced_by`

const optional = (at: string | null) => (at === null ? null : iso(at))

function present(row: Row): Purchase {
  return {
    id: row.id,
    seq: row.seq,
    status: row.overdue ? 'expired' : row.status,
    reason: row.reason,
    customer: row.customer,
    lines: row.lines,
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

/** What a purchase is before a worker has seen it. */
const IN_LINE = {
  status: 'queued' as const,
  reason: null,
  met: null,
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

/** Members in one order: two bodies that say the same have the same hash. */
export function readPayment(payment: Payment = { method: 'none' }): Payment {
  return Object.fromEntries(Object.entries(payment).sort(([a], [b]) => (a < b ? -1 : 1))) as Payment
}

/** The account that a payment names. */
export const accountOf = (payment: Payment): Wanted[] =>
  payment.method === 'wallet' ? [{ ref: payment.account, field: 'payment.account', kind: 'account' }] : []

export interface PurchaseRoutesDeps extends LineDeps {
  intake: Intake<NewPurchase>
  kinds: Kinds
}

export function purchaseRoutes(instance: FastifyInstance, deps: PurchaseRoutesDeps): void {
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const PurchaseRef = Type.Unsafe<Purchase>(Type.Ref('Purchase'))
  const tags = ['purchases']
  const look = createLook<Row>(deps, 'purchases', COLUMNS)
  const line = createLine<Row, NewPurchase, ClientCommand>(deps, {
    noun: 'purchase',
    look,
    intake: deps.intake,
    fresh: (row, { seq, created_at }) => ({ ...row, ...IN_LINE, seq, created_at }),
    present,
    charging: (row) => row.charging,
    outcome,
    obeyed,
    paying: 'confirm',
    unpaid,
    refuseUnless,
    refused: (command, code, status, row) => {
      if (UNPAID.has(code)) return unpaid(code, row)
      const why = PAYMENT_REFUSALS[code]
      return why === undefined ? wrongStatus(command, status) : new Problem(409, code, why, { purchase: present(row) })
    },
  })

  async function outcome(row: Row): Promise<Purchase> {
    const purchase = present(row)
    if (purchase.status === 'rejected' || purchase.status === 'failed') throw refusal(row)
    if (purchase.status === 'held' || purchase.status === 'confirmed') return purchase
    throw new Problem(409, purchase.status, `The purchase is ${purchase.status}.`, { purchase })
  }

  async function obeyed(command: ClientCommand, row: Row): Promise<Purchase> {
    const purchase = present(row)
    const { status, payment } = purchase
    if (command !== 'confirm' || status === 'confirmed' || status === 'refunded') return purchase
    if (status === 'failed') throw refusal(row)
    if (status === 'held') throw unpaid(unpaidCode(payment), row)
    // Its time was over before the card had answered, or a cancel overtook the card.
    throw wrongStatus(command, status)
  }

  function refusal(row: Row): Problem {
    const purchase = present(row)
    const code = row.reason ?? row.status
    if (row.status === 'failed')
      return new Problem(402, code, `The purchase failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
    // A row that was settled before this was kept has no more to tell.
    const { resource, available, max_per_customer } = row.met ?? {}
    if (code === 'sold_out') {
      return soldOut(row.lines.find((line) => line.resource === resource) ?? row.lines[0], available, purchase)
    }
    if (max_per_customer !== undefined) {
      const detail = `A customer may have ${max_per_customer} units of ${resource}, held ones included: this is more.`
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
        summary: 'Buy: a place in the line',
        description: 'Answers 202 at once; with `Prefer: wait=N` when the purchase is settled, N seconds at most.',
        headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
        body: NewPurchaseSchema,
        response: {
          201: response(PurchaseRef, 'Settled: confirmed or held', 'location', 'preference-applied', REPLAYED),
          202: response(PurchaseRef, 'In the line', 'location', 'retry-after', 'preference-applied', REPLAYED),
          ...problemResponses(400, 402, soldOut({ resource: 'product:1', units: 2 }, 1), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { customer, hold_seconds = null } = request.body
      const payment = readPayment(request.body.payment)
      const lines = mergeItems(request.body.lines)
      const body = { customer, lines, payment, hold_seconds }
      const key = keyed(request, 'POST /api/purchases', body)
      const over = lines.find((line) => line.units > MAX_UNITS)
      if (over) throw badField('lines', `ask for more than ${MAX_UNITS} units of ${over.resource} together`)
      const wanted = request.body.lines.map(
        ({ resource: ref }, i): Wanted => ({ ref, field: `lines[${i}].resource`, kind: 'units' }),
      )
      await deps.kinds.check([...wanted, ...accountOf(payment)])
      return await line.submit(request, reply, { ...body, ...key, id: newId(), queue: queueFor(lines) })
    },
  )

  app.get(
    '/api/purchases/:id',
    {
      schema: {
        operationId: 'getPurchase',
        tags,
        summary: 'A purchase, whatever its status',
        params: IdParams(SAMPLES.confirmed),
        response: { 200: response(PurchaseRef, 'The purchase'), ...problemResponses(400, 404) },
      },
    },
    async (request) => present(await line.readOne(request.params.id)),
  )

  app.get(
    '/api/purchases',
    {
      schema: {
        operationId: 'listPurchases',
        tags,
        summary: 'Purchases, newest first',
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
      const places = cursors('purchases', { customer, resource, status }, UUID)
      const before = places.read(cursor)
      const conditions = [sql`true`]
      if (before !== undefined) conditions.push(sql`id < ${before}`)
      if (customer !== undefined) conditions.push(sql`customer = ${customer}`)
      if (resource !== undefined) {
        const line = JSON.stringify([{ resource }])
        conditions.push(sql`(queue = ${resource} OR (jsonb_array_length(lines) > 1 AND lines @> ${line}::jsonb))`)
      }
      if (status === 'held') conditions.push(sql`(status = 'held' AND expires_at > clock_timestamp())`)
      else if (status === 'expired') {
        conditions.push(sql`(status = 'expired' OR (status = 'held' AND expires_at <= clock_timestamp()))`)
      } else if (status !== undefined) conditions.push(sql`status = ${status}`)
      const where = sql`WHERE ${sql.join(conditions, sql` AND `)} ORDER BY id DESC LIMIT ${limit + 1}`
      const rows = await look.list(where)
      const data = rows.slice(0, limit).map(present)
      return { data, next_cursor: rows.length > limit ? places.write(data.at(-1)?.id ?? '') : null }
    },
  )

  for (const command of COMMANDS) {
    app.post(
      `/api/purchases/:id/${command}`,
      {
        schema: {
          operationId: `${command}Purchase`,
          tags,
          summary: SUMMARIES[command],
          description: `${DESCRIPTIONS[command]} Stands in the line of the purchase. Answers when settled, 10 seconds at most or what \`Prefer: wait=N\` says; 202 when it takes longer.`,
          params: IdParams(SAMPLES[ALLOWED[command]]),
          headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
          ...(command === 'confirm' && { body: PayingSchema }),
          response: {
            200: response(PurchaseRef, 'Done', 'preference-applied', REPLAYED),
            202: response(PurchaseRef, 'In the line', 'retry-after', 'preference-applied', REPLAYED),
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
        if (payment !== null) await deps.kinds.check(accountOf(payment))
        return await line.obey(command, request, request.params.id.toLowerCase(), reply, payment)
      },
    )
  }
}

const SUMMARIES: Record<ClientCommand, string> = {
  confirm: 'Make a held purchase final',
  cancel: 'Give a queued or held purchase up',
  refund: 'Take a confirmed purchase back; payment.refunds tells when its money has moved',
}
const DESCRIPTIONS: Record<ClientCommand, string> = {
  confirm:
    'With `payment` a hold is paid now: by card it is confirmed when the charge is reserved, from a wallet in the same ' +
    'settlement. A card that is declined (402) leaves the hold as it was, for another one; a purchase whose payment is ' +
    'being asked for, or set aside in a wallet, takes no other (409 `payment_in_progress`, `payment_conflict`). Without ' +
    '`payment` it is paid with what it came with, which may be nothing.',
  cancel: 'Takes no body.',
  refund: 'All of it; takes no body.',
}
/** The status that a command needs; a queued purchase may still get there. */
const ALLOWED = { confirm: 'held', cancel: 'cancellable', refund: 'confirmed' } as const

/** Purchases that the sample data holds, so that every example answers when it is pressed. */
export const SAMPLES = {
  confirmed: '01935f5e-0000-7000-8000-000000000001',
  held: '01935f5e-0000-7000-8000-000000000002',
  cancellable: '01935f5e-0000-7000-8000-000000000003',
}

const soldOut = (line: LineItem | undefined, available: number | undefined, purchase?: Purchase) =>
  new Problem(409, 'sold_out', `${line?.resource} had fewer than ${line?.units} units left.`, {
    available,
    resource: line?.resource,
    ...(purchase ? { purchase } : {}),
  })

function unpaid(code: string, row: Row): Problem {
  const purchase = present(row)
  return new Problem(402, code, `The payment failed: ${code}.`, { ...declineOf(purchase.payment), purchase })
}

const wrongStatus = (command: ClientCommand, status: string) =>
  new Problem(409, 'wrong_status', `A purchase that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
const PARTICIPLES: Record<ClientCommand, string> = { confirm: 'confirmed', cancel: 'cancelled', refund: 'refunded' }

function refuseUnless(command: ClientCommand, row: Row): void {
  const status = row.overdue ? 'expired' : row.status
  const needed = command === 'refund' ? 'confirmed' : 'held'
  const later = command === 'refund' && status === 'held'
  if (status !== needed && status !== 'queued' && !later) throw wrongStatus(command, status)
}
