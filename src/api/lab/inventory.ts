/**
 * Lab routes that sell units of a product. Their paths and JSON bodies are those of the tutorial that this race comes from
 * (docs/lab.md). Invariant: the purchase route without a lock and the one with a lock take the same request and answer in
 * the same form.
 */
import Type from 'typebox'
import { problemResponses, response } from '../http/responses.ts'
import type { TypedApp } from '../http/typed-app.ts'
import {
  bodyMayBeLeftOut,
  busy,
  Duration,
  idParam,
  KEYED,
  Left,
  MAX_START,
  Message,
  notInTime,
  operationId,
  refusals,
  refusalText,
  Success,
  since,
  TAGS,
  VARIANTS,
} from './response-shapes.ts'
import type { DemoCounter, DemoCounters } from './scarce-counter.ts'

const MAX_QUANTITY = 1_000_000
const START = 10

const product = (id: string): DemoCounter => {
  return { ref: `lab-product:${id}`, name: `Lab product ${id}`, start: START, write: 'relative' }
}
const Id = idParam('product_id')
const Refused = Type.Object({ error: Type.String() })

export function inventoryRoutes(app: TypedApp, counters: DemoCounters): void {
  for (const variant of VARIANTS) purchaseRoute(app, counters, variant)
  readRoute(app, counters)
  resetRoute(app, counters)
}

function purchaseRoute(app: TypedApp, counters: DemoCounters, variant: (typeof VARIANTS)[number]): void {
  const schema = {
    operationId: operationId('labPurchase', variant),
    tags: TAGS,
    summary: `Inventory, ${variant.summary}`,
    params: Id,
    body: Type.Object(
      { quantity: Type.Integer({ minimum: 1, maximum: MAX_QUANTITY, default: 1 }) },
      { additionalProperties: false, examples: [{ quantity: 1 }] },
    ),
    response: {
      200: response(
        Type.Object({ success: Success, message: Message, duration: Duration, remaining_stock: Left }),
        'Bought',
      ),
      ...refusals(Refused, { error: 'Out of stock' }, 413, 415, notInTime),
    },
  }
  const route = { config: KEYED, preValidation: bodyMayBeLeftOut, schema }
  app.post(`/purchase/${variant.lock}-lock/:product_id`, route, async (request, reply) => {
    const started_ms = performance.now()
    const result = await variant.buy(counters, product(request.params.product_id), request.body.quantity)
    if (!result.bought) return reply.code(400).send({ error: refusalText(result, 'Out of stock') })
    const message = `Purchase successful (${variant.label})`
    return { success: true, message, duration: since(started_ms), remaining_stock: result.left }
  })
}

function readRoute(app: TypedApp, counters: DemoCounters): void {
  const schema = {
    operationId: 'labGetStock',
    tags: TAGS,
    summary: 'Get what is left in the variant that was used last',
    description: `Before its first reset or purchase a product has ${START}.`,
    params: Id,
    response: {
      200: response(Type.Object({ productId: Type.String(), stock: Left }), 'The stock'),
      ...problemResponses(400),
    },
  }
  app.get('/stock/:product_id', { config: KEYED, schema }, async ({ params: { product_id } }) => {
    return { productId: product_id, stock: (await counters.read(product(product_id))).left }
  })
}

function resetRoute(app: TypedApp, counters: DemoCounters): void {
  const schema = {
    operationId: 'labResetStock',
    tags: TAGS,
    summary: 'Reset both variants to this stock',
    params: Id,
    body: Type.Object(
      { stock: Type.Integer({ minimum: 0, maximum: MAX_START, default: START }) },
      { additionalProperties: false, examples: [{ stock: START }] },
    ),
    response: {
      200: response(Type.Object({ message: Message, productId: Type.String(), stock: Type.Integer() }), 'Reset'),
      ...problemResponses(400, busy, 413, 415),
    },
  }
  const route = { config: KEYED, preValidation: bodyMayBeLeftOut, schema }
  app.post('/stock/:product_id/reset', route, async ({ params: { product_id }, body: { stock } }) => {
    await counters.reset(product(product_id), stock)
    return { message: 'Stock reset', productId: product_id, stock }
  })
}
