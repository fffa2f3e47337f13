/**
 * Lists as parameters. Invariant: a list is one parameter whatever its length, so that one prepared statement serves all
 * lengths. It is sent as the text of a Postgres array, since the client knows no array types (db/client.ts, fetch_types).
 */
import { type SQL, sql } from 'drizzle-orm'

/** Strings are always quoted, so that the string NULL is not null. */
function arrayElement(value: unknown): string {
  if (value === null || value === undefined) return 'NULL'
  if (typeof value === 'number') return String(value)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return `"${/["\\]/.test(text) ? text.replace(/["\\]/g, '\\$&') : text}"`
}

/** The text of a Postgres array. */
export const arrayText = (values: readonly unknown[]) => `{${values.map(arrayElement).join()}}`

/** A list as an array of this type. */
const arrayOf = (values: readonly unknown[], type: string) => sql`${arrayText(values)}::text::${sql.raw(type)}[]`

/** The condition that a column is one of these values: `WHERE id ${anyOf(ids, 'uuid')}`. */
export function anyOf(values: Iterable<string>, type: 'uuid' | 'text'): SQL {
  return sql`= ANY(${arrayOf([...values], type)})`
}

/**
 * Rows for FROM, as `name(column, …)` with these columns and types: one array for each column, which costs Postgres half of
 * what JSON does. A missing member is NULL; objects are for columns of type jsonb.
 */
export function unnestRows(name: string, rows: readonly object[], types: Readonly<Record<string, string>>): SQL {
  const arrays = Object.entries(types).map(([column, type]) =>
    arrayOf(
      rows.map((row) => (row as Record<string, unknown>)[column]),
      type,
    ),
  )
  const columns = Object.keys(types).map((column) => `"${column}"`)
  return sql`unnest(${sql.join(arrays, sql`, `)}) AS ${sql.raw(`${name}(${columns.join(', ')})`)}`
}
