/**
 * Pages of a list. Invariant: a cursor is valid only for the list and filters that it was made for; with others it is a 400.
 */
import { createHash } from 'node:crypto'
import Type, { type TSchema } from 'typebox'
import { fieldProblem } from '../../shared/problem.ts'
import { Nullable } from './schemas.ts'

/** Maximum number of rows in one page. */
const MAX_LIMIT = 100

export const pageQuery = <T extends Record<string, TSchema>>(filters: T) =>
  Type.Object(
    {
      ...filters,
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_LIMIT, default: 20 })),
      cursor: Type.Optional(Type.String({ maxLength: 400, description: 'next_cursor of the previous page' })),
    },
    { additionalProperties: false },
  )

export const page = (items: TSchema) => Type.Object({ data: Type.Array(items), next_cursor: Nullable(Type.String()) })

/**
 * Reads and writes the cursors of one list with its filters. A cursor contains a digest of the list and the filters, because
 * in another list it would skip rows without an error. `pattern` matches the key by which the rows are ordered.
 */
export function cursors(list: string, filters: Readonly<Record<string, unknown>>, pattern: RegExp) {
  const named = Object.entries(filters).filter(([, value]) => value !== undefined)
  const whole = JSON.stringify([list, named.sort(([a], [b]) => (a < b ? -1 : 1))])
  const digest = createHash('sha256').update(whole).digest('base64url').slice(0, 8)
  const write = (after: string) => Buffer.from(`${digest}${after}`).toString('base64url')
  return {
    write,
    /** Returns the key of the last row of the previous page; undefined without a cursor. @throws Problem 400 */
    read(cursor: string | undefined): string | undefined {
      if (cursor === undefined) return undefined
      const text = Buffer.from(cursor, 'base64url').toString()
      const after = text.slice(digest.length)
      if (!text.startsWith(digest) || !pattern.test(after) || write(after) !== cursor) {
        throw fieldProblem('cursor', 'is not a cursor of this list with these filters')
      }
      return after
    },
  }
}

/** Builds a page of at most `limit` rows. The caller passes `limit` + 1 `rows` if there are more. */
export function pageOf<Row, View>(
  rows: readonly Row[],
  limit: number,
  view: (row: Row) => View,
  cursorOf: (row: Row) => string,
): { data: View[]; next_cursor: string | null } {
  const shown = rows.slice(0, limit)
  const last = shown.at(-1)
  return { data: shown.map(view), next_cursor: rows.length > limit && last ? cursorOf(last) : null }
}
