/**
 * Lists as parameters. Invariant: a list is one parameter whatever its length, so that one prepared statement serves all
 * lengths. The list is sent as the text of a Postgres array, because the client does not know array types (db/client.ts,
 * fetch_types).
 */

/** Returns the text of one array element. It always quotes strings, so that the string NULL does not become null. */
function arrayElement(value: unknown): string {
  if (value === null || value === undefined) return 'NULL'
  if (typeof value === 'number') return String(value)
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return `"${/["\\]/.test(text) ? text.replace(/["\\]/g, '\\$&') : text}"`
}

/** Returns the values as the text of a Postgres array. */
export const arrayText = (values: readonly unknown[]) => `{${values.map(arrayElement).join()}}`
