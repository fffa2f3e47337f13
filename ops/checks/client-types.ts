/** Generates the types of holdfast/client from openapi.json: the requests, and the responses of success. */
import { register } from 'node:module'

// openapi-typescript uses TypeScript's compiler API, which TypeScript 7 does not have. This package is TypeScript 5
// under another name and installs no second `tsc`.
const hook = `export const resolve = (name, context, next) => next(name === 'typescript' ? '@tsd/typescript' : name, context)`
register(`data:text/javascript,${encodeURIComponent(hook)}`)
const { default: openapiTS, astToString } = await import('openapi-typescript')

type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
interface Operation {
  tags: string[]
  parameters?: { in: string; name: string }[]
  responses: Record<string, Json>
}
interface Document {
  paths: Record<string, Record<string, Operation>>
}

/** Returns the value without examples, which a type does not need. */
function plain(value: Json): Json {
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  const kept = Object.entries(value).filter(
    ([key, inner]) => key !== 'example' && !(key === 'examples' && Array.isArray(inner)),
  )
  return Object.fromEntries(kept.map(([key, inner]) => [key, plain(inner)]))
}

/**
 * Returns the source of the types. `document`: openapi.json. Leaves out errors, which the client throws as one type,
 * and the lab.
 */
export async function renderClientTypes(document: string): Promise<string> {
  const openapi = plain(JSON.parse(document)) as unknown as Document
  const keyed: string[] = []
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (operation.tags.includes('lab')) delete methods[method]
      for (const status of Object.keys(operation.responses)) {
        if (Number(status) >= 400) delete operation.responses[status]
      }
      const takesKey = operation.parameters?.some((one) => one.in === 'header' && one.name === 'idempotency-key')
      if (takesKey && methods[method]) keyed.push(`${method.toUpperCase()} ${path}`)
    }
    if (Object.keys(methods).length === 0) delete openapi.paths[path]
  }
  // It writes an empty type for each part that the document does not have.
  const types = astToString(await openapiTS(openapi as never)).replace(
    /^export type \S+ = Record<string, never>;\n/gm,
    '',
  )
  return `/** Written by \`npm run openapi\` from openapi.json; not by hand. */

${types}
/** Operations that accept an Idempotency-Key. */
export const KEYED: ReadonlySet<string> = new Set([
${keyed.map((one) => `  '${one}',`).join('\n')}
])
`
}
