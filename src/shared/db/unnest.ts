/**
 * Lists as parameters. Invariant: a list is one parameter whatever its length, so that one prepared statement serves all
 * lengths. It is sent as the text of a Postgres array, since the client knows no array types (db/client.ts, fetch_types).
 */

/** Strings are always quoted, so that the string NULL is not null. */
function arrayElement(value: unknown): string {
  if (value === null || value === undefined) return 'NULL'
  if (typeof value === 'number') return String(value)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return `"${/["\\]/.test(text) ? text.replace(/["\\]/g, '\\$&') : text}"`
}

/** The text of a Postgres array. */
export const arrayText = (values: readonly unknown[]) => `{${values.map(arrayElement).join()}}`
