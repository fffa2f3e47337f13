/**
 * Re-entry by passing the lease. Invariant: a nested lease is never valid when its parent is not, and its release
 * leaves the lock to the parent; the server is not involved.
 */
import { type Lease, LeaseLostError, type Mode } from '../api.ts'

/**
 * Returns a lease nested in the parent.
 * @throws LeaseLostError when the parent is lost, RangeError when the parent's mode does not cover the requested mode
 */
export function nestedLease(parent: Lease, resource: string, mode: Mode = 'exclusive'): Lease {
  if (parent.resource !== resource) throw new RangeError(`a lease on ${parent.resource} is not a lease on ${resource}`)
  if (parent.mode !== mode && !(parent.mode === 'exclusive' && mode === 'shared')) {
    throw new RangeError(`a lease that is ${parent.mode} is not ${mode}: release it and acquire again`)
  }
  parent.assertValid()
  let released = false
  const assertValid = () => {
    if (released) throw new LeaseLostError(resource, parent.token, 'released')
    parent.assertValid()
  }
  const release = async () => {
    released = true
    return { released } as const
  }
  return {
    resource,
    mode,
    token: parent.token,
    get signal() {
      return parent.signal
    },
    get remaining_ms() {
      return released ? 0 : parent.remaining_ms
    },
    assertValid,
    progress() {
      if (!released) parent.progress()
    },
    async extend() {
      assertValid()
      return await parent.extend()
    },
    release,
    async [Symbol.asyncDispose]() {
      await release()
    },
  }
}
