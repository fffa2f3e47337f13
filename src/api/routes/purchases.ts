/**
 * Purchases over HTTP. Invariant: the API queues rows; workers decide their outcome, and every answer about a settled purchase
 * is read from its committed row.
 */
import Type from 'typebox'
import { mayStill, PURCHASE_COMMANDS, PURCHASE_STATUSES, type PurchaseCommand } from '../../shared/domain/purchase.ts'
import { mergeItems, queueFor } from '../../shared/domain/resource.ts'
import { newId } from '../../shared/ids.ts'
import { fieldProblem } from '../../shared/problem.ts'
import { Key, Prefer } from '../http/headers.ts'
import { cursors, page, pageOf, pageQuery } from '../http/pagination.ts'
import { problemResponses, REPLAYED, response } from '../http/responses.ts'
import { PURCHASE_SAMPLES } from '../http/samples.ts'
import { Identifier, IdentifierText, IdParams, Ref, UUID } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { accountOf, HoldSeconds, PaymentSchema, readPaying, readPayment } from '../queue/payment-request.ts'
import { type NewPurchase, type PurchaseRow, purchasePage } from '../queue/purchase-rows.ts'
import { accepted, commandSchema, enqueueRow, idempotencyColumns, submitCommand } from '../queue/requests.ts'
import type { RequestedResource, ResourceKinds } from '../queue/resource-kinds.ts'
import { type RowQueue, statusNow } from '../queue/submission.ts'
import {
  commandOutcome,
  commandProblem,
  PurchaseRef,
  purchaseOutcome,
  purchaseView,
  soldOut,
  wrongStatus,
} from './purchase-view.ts'

const TAGS = ['purchases']
const MAX_ITEMS = 100
const MAX_UNITS = 1_000_000_000

export interface PurchaseOptions {
  queue: RowQueue<PurchaseRow, NewPurchase>
  resourceKinds: ResourceKinds
}

export async function purchaseRoutes(app: TypedApp, options: PurchaseOptions): Promise<void> {
  createRoute(app, options)
  readRoutes(app, options)
  for (const command of PURCHASE_COMMANDS) commandRoute(app, options, command)
}

const Create = {
  operationId: 'createPurchase',
  tags: TAGS,
  summary: 'Create a purchase',
  description:
    'The API queues the purchase and answers 202. With `Prefer: wait=N` it answers once the purchase is settled, or with 202 after ' +
    'N seconds.',
  headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
  body: Type.Object(
    {
      customer: Identifier(),
      lines: Type.Array(
        Type.Object(
          { resource: Ref(['product:1']), units: Type.Integer({ minimum: 1, maximum: MAX_UNITS }) },
          { additionalProperties: false },
        ),
        { minItems: 1, maxItems: MAX_ITEMS },
      ),
      payment: Type.Optional(PaymentSchema),
      hold_seconds: Type.Optional(HoldSeconds()),
    },
    {
      additionalProperties: false,
      examples: [{ customer: 'ada', lines: [{ resource: 'product:1', units: 1 }], payment: { method: 'none' } }],
    },
  ),
  response: {
    201: response(PurchaseRef, 'Settled: confirmed or held', 'location', 'preference-applied', REPLAYED),
    202: response(PurchaseRef, 'Queued', 'location', 'retry-after', 'preference-applied', REPLAYED),
    ...problemResponses(400, 402, soldOut({ resource: 'product:1', units: 2 }, 1), 413, 415, 422),
  },
}

function createRoute(app: TypedApp, { queue, resourceKinds }: PurchaseOptions): void {
  app.post('/api/purchases', { schema: Create }, async (request, reply) => {
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
    await resourceKinds.assertKinds([...requested, ...accountOf(payment)])
    const input = { ...body, ...key, id: newId(), queue: queueFor(items) }
    const { row, settled } = await enqueueRow(queue, input, request, reply)
    return settled ? reply.code(201).send(purchaseOutcome(row)) : accepted(reply, purchaseView(row))
  })
}

const Get = {
  operationId: 'getPurchase',
  tags: TAGS,
  summary: 'Get a purchase',
  params: IdParams(PURCHASE_SAMPLES.confirmed),
  response: { 200: response(PurchaseRef, 'The purchase'), ...problemResponses(400, 404) },
}
const List = {
  operationId: 'listPurchases',
  tags: TAGS,
  summary: 'List purchases, newest first',
  querystring: pageQuery({
    customer: Type.Optional(Type.String(IdentifierText)),
    resource: Type.Optional(Ref([])),
    status: Type.Optional(Type.Enum([...PURCHASE_STATUSES])),
  }),
  response: { 200: response(page(PurchaseRef), 'One page'), ...problemResponses(400) },
}

function readRoutes(app: TypedApp, { queue }: PurchaseOptions): void {
  app.get('/api/purchases/:id', { schema: Get }, async (request) =>
    purchaseView(await queue.readOne(request.params.id)),
  )

  app.get('/api/purchases', { schema: List }, async (request) => {
    const { limit = 20, cursor, ...filters } = request.query
    const pageCursors = cursors('purchases', filters, UUID)
    const before = pageCursors.read(cursor)
    const cart = JSON.stringify([{ resource: filters.resource }])
    const statement = purchasePage({ ...filters, before })
    const rows = await queue.findAll(statement, { ...filters, before, cart, limit: limit + 1 })
    return pageOf(rows, limit, purchaseView, (row) => pageCursors.write(row.id))
  })
}

const SUMMARIES: Record<PurchaseCommand, string> = {
  confirm: 'Confirm a held purchase',
  cancel: 'Cancel a purchase',
  refund: 'Refund a purchase',
}
const DESCRIPTIONS: Record<PurchaseCommand, string> = {
  confirm:
    'With `payment` the hold is paid now: by card it is confirmed once the charge is authorized, from a wallet in the same ' +
    'settlement. A declined card (402) leaves the hold unchanged, so another card can be tried. While a card charge is in ' +
    'progress, or money is reserved in a wallet, a second payment is refused (409 `payment_in_progress`, ' +
    '`payment_conflict`). Without `payment` the payment given at creation is used, which may be none.',
  cancel: 'For a queued or held purchase. Takes no body.',
  refund: 'Refunds a confirmed purchase in full; `payment.refunds` shows when the money has moved. Takes no body.',
}
/** command → the sample purchase on which the command succeeds */
const ALLOWED = { confirm: 'held', cancel: 'cancellable', refund: 'confirmed' } as const

function commandRoute(app: TypedApp, { queue, resourceKinds }: PurchaseOptions, action: PurchaseCommand): void {
  const pays = action === 'confirm'
  const text = {
    action,
    pays,
    summary: SUMMARIES[action],
    description: DESCRIPTIONS[action],
    sample: PURCHASE_SAMPLES[ALLOWED[action]],
  }
  const schema = commandSchema('purchase', PurchaseRef, text, wrongStatus(action, 'refunded'))
  const mayStillBe = (row: PurchaseRow) => mayStill(statusNow(row), action)
  app.post(`/api/purchases/:id/${action}`, { schema }, async (request, reply) => {
    const payment = readPaying(request.body)
    if (payment !== null) await resourceKinds.assertKinds(accountOf(payment))
    const command = { action, pays, payment }
    const result = await submitCommand(queue, command, request.params.id, mayStillBe, request, reply)
    if (result.status === 'pending') return accepted(reply, purchaseView(result.row))
    if (result.status === 'done') return reply.code(200).send(commandOutcome(action, result.row))
    throw commandProblem(action, result)
  })
}
