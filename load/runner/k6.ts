/** `k6`, as far as the scripts use it. What would block is not here: `sleep` and `http.get` stop a virtual user's own thread in k6. */
import { record, register, type Tags } from './metrics.ts'

const checks = register('checks', 'rate')

/** by name: how often it held and how often it did not */
export const checked = new Map<string, { passes: number; fails: number }>()

export function check<T>(value: T, sets: Record<string, (value: T) => boolean>, tags: Tags = {}): boolean {
  let all = true
  for (const [name, holds] of Object.entries(sets)) {
    const one = checked.get(name) ?? { passes: 0, fails: 0 }
    checked.set(name, one)
    let result: unknown = false
    try {
      result = typeof holds === 'function' ? holds(value) : holds
      if (result instanceof Promise) throw new TypeError(`check "${name}" is asynchronous, which k6 does not allow`)
    } finally {
      if (result) one.passes++
      else one.fails++
      record(checks, result ? 1 : 0, { ...tags, check: name })
    }
    all &&= Boolean(result)
  }
  return all
}

export function fail(reason = ''): never {
  throw new Error(reason)
}

export default { check, fail }
