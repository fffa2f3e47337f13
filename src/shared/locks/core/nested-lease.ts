/**
 * Re-entry by passing the lease. The invariant: a part of a lease is never valid when the whole is not, and its release
 * leaves the lock to the whole; nothing is asked of the server.
 */
import { type Lease, LeaseLostError, type Mode } from '../api.ts'

/** @throws LeaseLostError when the whole is lost, RangeError when it does not cover what is asked */
export function partOf(whole: Lease, resource: string, mode: Mode = 'exclusive'): Lease {
  if (whole.resource !== resource) throw new RangeError(`a lease on ${whole.resource} is none on ${resource}`)
  if (whole.mode !== mode && !(whole.mode === 'exclusive' && mode === 'shared')) {
    throw new RangeError(`a lease that is ${whole.mode} is not ${mode}: let it go and ask again`)
  }
  whole.assertValid()
  let released = false
  const assertValid = () => {
    if (released) throw new LeaseLostError(resource, whole.token, 'released')
    whole.assertValid()
  }
  const release = async () => {
    released = true
    return { released } as const
  }
  return {
    resource,
    mode,
    token: whole.token,
    get signal() {
      return whole.signal
    },
    get remaining_ms() {
      return released ? 0 : whole.remaining_ms
    },
    assertValid,
    progress() {
      if (!released) whole.progress()
    },
    async extend() {
      assertValid()
      return await whole.extend()
    },
    release,
    async [Symbol.asyncDispose]() {
      await release()
    },
  }
}
