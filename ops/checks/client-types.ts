/** The types of holdfast/client, from the document: what may be sent, and what comes when it goes well. */
import { register } from 'node:module'

// openapi-typescript writes with TypeScript's compiler API. TypeScript 7 has none; this package is TypeScript 5 by another
// name, and brings no second `tsc` along.
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

/** Without examples, which a schema may have and a type has no use for. */
function plain(value: Json): Json {
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  const kept = Object.entries(value).filter(
    ([key, inner]) => key !== 'example' && !(key === 'examples' && Array.isArray(inner)),
  )
  return Object.fromEntries(kept.map(([key, inner]) => [key, plain(inner)]))
}

/** `document`: openapi.json. Errors are left out: the client throws them, all of one type. So is the lab. */
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
  // Of what the document does not have it writes an empty type.
  const types = astToString(await openapiTS(openapi as never)).replace(
    /^export type \S+ = Record<string, never>;\n/gm,
    '',
  )
  return `/** Written by \`npm run openapi\` from openapi.json; not by hand. */

${types}
/** Operations that take an Idempotency-Key. */
export const KEYED: ReadonlySet<string> = new Set([
${keyed.map((one) => `  '${one}',`).join('\n')}
])
`
}
