/** Pages of a list. Invariant: a cursor continues its own list with its own filters; in any other list it is a 400. */
import { createHash } from 'node:crypto'
import Type, { type TSchema } from 'typebox'
import { badField } from '../../shared/problem.ts'
import { Nullable } from './schemas.ts'

/** Rows of one page. */
const MAX_LIMIT = 100

export const pageQuery = <T extends Record<string, TSchema>>(filters: T) =>
  Type.Object(
    {
      ...filters,
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_LIMIT, default: 20 })),
      cursor: Type.Optional(Type.String({ maxLength: 400, description: 'next_cursor of the page before' })),
    },
    { additionalProperties: false },
  )

export const page = (items: TSchema) => Type.Object({ data: Type.Array(items), next_cursor: Nullable(Type.String()) })

/**
 * The cursors of one list with its filters. A cursor carries a digest of both, so that it goes on in that list alone: in
 * another it would skip rows in silence. `pattern`: of what an item is found by.
 */
export function cursors(list: string, filters: Readonly<Record<string, unknown>>, pattern: RegExp) {
  const named = Object.entries(filters).filter(([, value]) => value !== undefined)
  const whole = JSON.stringify([list, named.sort(([a], [b]) => (a < b ? -1 : 1))])
  const digest = createHash('sha256').update(whole).digest('base64url').slice(0, 8)
  const write = (after: string) => Buffer.from(`${digest}${after}`).toString('base64url')
  return {
    write,
    /** What the item before was found by; undefined without a cursor. @throws Problem 400 */
    read(cursor: string | undefined): string | undefined {
      if (cursor === undefined) return undefined
      const text = Buffer.from(cursor, 'base64url').toString()
      const after = text.slice(digest.length)
      if (!text.startsWith(digest) || !pattern.test(after) || write(after) !== cursor) {
        throw badField('cursor', 'is not a cursor of this list with these filters')
      }
      return after
    },
  }
}
