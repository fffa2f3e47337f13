/**
 * Schemas of the lab. Each race comes from a tutorial with a script. Invariant: the fields that this script reads have the
 * names and types that it expects, also in the 400 of a refusal; every other error is a problem.
 */
import type { FastifyContextConfig, FastifyRequest } from 'fastify'
import Type, { type TSchema } from 'typebox'
import { ID_PATTERN } from '../../shared/domain/resource.ts'
import { Problem } from '../../shared/problem.ts'
import { problemResponses } from '../http/responses.ts'
import type { BuyResult, DemoCounter, DemoCounters } from './scarce-counter.ts'

export const TAGS = ['lab']
/** Routes outside /api that require the same keys. */
export const KEYED: FastifyContextConfig = { keyed: true }

/** Returns the schema of path parameters with one id, for example `product_id`. */
export const idParam = <Name extends string>(name: Name) =>
  Type.Object({ [name]: Type.String({ pattern: `^${ID_PATTERN}$`, examples: ['1'] }) } as Record<
    Name,
    ReturnType<typeof Type.String>
  >)

export const MAX_START = 1_000_000_000
export const Left = Type.Integer({ description: 'Below zero when oversold' })
export const Success = Type.Boolean({ examples: [true] })
export const Message = Type.String()
export const Duration = Type.String({ description: 'Duration of the whole request', examples: ['103ms'] })
export const since = (started_ms: number) => `${Math.round(performance.now() - started_ms)}ms`

/** Replaces an absent body by `{}`: the tutorials send no body where the defaults suffice. */
export const bodyMayBeLeftOut = async (request: FastifyRequest) => {
  if (request.body === undefined) request.body = {}
}

/**
 * Returns the error responses of a route. 400 has two meanings: the tutorial's `{error}`, or a problem for a malformed
 * request.
 */
export function refusals<T extends TSchema>(refused: T, example: object, ...wanted: (number | Problem)[]) {
  const all = problemResponses(400, ...wanted) as unknown as Record<number, { content: object }>
  const content = { 'application/json': { schema: refused, example }, ...all[400]?.content }
  const both = { description: 'Not enough left, or the request is malformed', content }
  // The type has only the tutorial's 400, because a handler sends this answer itself, but throws problems.
  return { ...all, 400: both } as unknown as { 400: T }
}

/** Example for the OpenAPI document; scarce-counter.ts throws the real one. */
export const notInTime = new Problem(
  503,
  'not_settled',
  'No worker has settled purchase 01935f5e-0000-7000-8000-000000000001 yet; it stays queued.',
  { retry_after: 1 },
)
/** Example for the OpenAPI document. */
export const busy = new Problem(409, 'lock_busy', 'lab-product:1 is locked, 3 waiting', { retry_after: 1 })

/** The two variants of each route that buys, books or pays. */
export const VARIANTS = [
  {
    lock: 'without',
    word: 'no',
    label: 'NO LOCK',
    summary: 'UNSAFE: reads, pauses, writes',
    buy: (counters: DemoCounters, counter: DemoCounter, units: number) => counters.buyUnsafe(counter, units),
  },
  {
    lock: 'with',
    word: 'with',
    label: 'WITH LOCK',
    summary: 'safe: row, queue, lease, fencing token',
    buy: (counters: DemoCounters, counter: DemoCounter, units: number) => counters.buySafe(counter, units),
  },
] as const
export const operationId = (prefix: string, { lock }: (typeof VARIANTS)[number]) =>
  `${prefix}${lock === 'with' ? 'With' : 'Without'}Lock`

/** A refusal in the tutorials of tickets, the balance and the drivers, which mark it by `success`. */
export const Refused = Type.Object({ success: Type.Boolean(), message: Message, error: Type.String() })
export const refused = (message: string) => ({ success: false, message, error: message })
export const refusalText = (result: BuyResult & { bought: false }, sold_out: string) =>
  result.reason === 'sold_out' ? sold_out : result.reason
