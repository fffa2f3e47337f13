/**
 * The parts of `k6` that the scripts use. Blocking functions are missing: `sleep` and `http.get` block the thread of a
 * virtual user in k6.
 */
import { record, register, type Tags } from './metrics.ts'

const checks = register('checks', 'rate')

/** name of a check → how often it passed and failed */
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
