/** Resolves the k6 modules that scripts import, such as `k6/http`, to this folder's modules. */
import { register } from 'node:module'

const MODULES: Record<string, URL> = {
  k6: new URL('./k6.ts', import.meta.url),
  'k6/http': new URL('./http.ts', import.meta.url),
  'k6/metrics': new URL('./metrics.ts', import.meta.url),
  'k6/execution': new URL('./execution.ts', import.meta.url),
}

export function provideModules(): void {
  const known = JSON.stringify(MODULES)
  const hook = `const known = ${known}
export const resolve = (name, context, next) => {
  if (/^k6($|\\/)/.test(name) && !known[name]) throw new Error('this runner has no module ' + name)
  return next(known[name] ?? name, context)
}`
  register(`data:text/javascript,${encodeURIComponent(hook)}`)
}
