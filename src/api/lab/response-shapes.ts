/** Schema pieces of the lab. Invariant: what a tutorial's script reads has the tutorial's shape; faults are problems. */
import type { FastifyContextConfig, FastifyRequest } from 'fastify'
import Type, { type TSchema } from 'typebox'
import { ID_PATTERN } from '../../shared/domain/resource.ts'
import { Problem } from '../../shared/problem.ts'
import { problemResponses } from '../http/responses.ts'
import type { Counter, Counters, Taken } from './scarce-counter.ts'

export const TAGS = ['lab']
/** Not under /api, but with the same keys. */
export const KEYED: FastifyContextConfig = { keyed: true }

/** A path's id, as `product_id`. */
export const idParam = <Name extends string>(name: Name) =>
  Type.Object({ [name]: Type.String({ pattern: `^${ID_PATTERN}$`, examples: ['1'] }) } as Record<
    Name,
    ReturnType<typeof Type.String>
  >)

export const MAX_START = 1_000_000_000
export const Left = Type.Integer({ description: 'Below zero when it was oversold' })
export const Success = Type.Boolean({ examples: [true] })
export const Message = Type.String()
export const Duration = Type.String({ description: 'Of the whole request', examples: ['103ms'] })
export const since = (started_ms: number) => `${Math.round(performance.now() - started_ms)}ms`

/** The tutorials send no body where the defaults will do. */
export const bodyMayBeLeftOut = async (request: FastifyRequest) => {
  if (request.body === undefined) request.body = {}
}

/** 400 says two things: the tutorial's own `{error}`, or what is wrong with the request, as a problem. */
export function refusals<T extends TSchema>(refused: T, example: object, ...wanted: (number | Problem)[]) {
  const all = problemResponses(400, ...wanted) as unknown as Record<number, { content: object }>
  const content = { 'application/json': { schema: refused, example }, ...all[400]?.content }
  const both = { description: 'There is not enough left; or the request is malformed', content }
  // What a handler sends with 400 is the tutorial's own; problems are thrown.
  return { ...all, 400: both } as unknown as { 400: T }
}

export const notInTime = new Problem(503, 'not_settled', 'No worker has settled the purchase yet.', { retry_after: 1 })
export const busy = new Problem(409, 'lock_busy', 'lab-product:1 is locked, 3 waiting', { retry_after: 1 })

/** The two routes of a pair. */
export const SIDES = [
  {
    lock: 'without',
    word: 'no',
    told: 'NO LOCK',
    summary: 'UNSAFE: reads, pauses, writes',
    take: (counters: Counters, counter: Counter, units: number) => counters.takeUnsafe(counter, units),
  },
  {
    lock: 'with',
    word: 'with',
    told: 'WITH LOCK',
    summary: 'safe: row, queue, lease, fence',
    take: (counters: Counters, counter: Counter, units: number) => counters.takeSafe(counter, units),
  },
] as const
export const named = (before: string, { lock }: (typeof SIDES)[number]) =>
  `${before}${lock === 'with' ? 'With' : 'Without'}Lock`

/** The tutorials of tickets and of the balance tell a refusal by `success`. */
export const Refused = Type.Object({ success: Type.Boolean(), message: Message, error: Type.String() })
export const refused = (message: string) => ({ success: false, message, error: message })
export const whyNot = (taken: Taken & { taken: false }, sold_out: string) =>
  taken.reason === 'sold_out' ? sold_out : taken.reason
