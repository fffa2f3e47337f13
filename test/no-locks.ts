/** Leases that lock nobody out: what is left of Redis locking when it fails altogether. The database stays right. */
import type { Backend } from '../src/shared/locks/backend.ts'
import type { Locks } from '../src/shared/locks/lease.ts'
import { createLocksOn } from '../src/shared/locks/locks.ts'

let token = 0

/** Everybody gets every lease at once, with a token by the clock, as from a lock server that has lost its memory. */
export function noLocks(): Locks {
  const backend: Backend = {
    newId: ({ seat }) => String(seat),
    async attempt({ above }) {
      const now_us = Math.round((performance.timeOrigin + performance.now()) * 1000)
      token = Math.max(token + 1, above + 1, now_us)
      return { granted: true, token }
    },
    extend: async () => 0,
    release: async () => 'released',
    cancel: async () => {},
    force: async () => ({ token, robbed: [] }),
    inspect: async () => [],
    list: async () => [],
    listen() {},
    close: async () => {},
  }
  return createLocksOn(backend, { ttl_ms: 1_000, instance: 'unlocked' })
}
