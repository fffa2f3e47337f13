/**
 * What holders write under the lock in a history goes to a store with the fence of the database: a holder raises it to
 * its token and reads, later it writes if its token is still not below the fence. The newest of them gets it through,
 * whoever it superseded does not.
 */
import { type Given, statusOf } from './model.ts'
import { acquire, type History, must, note, release } from './steps.ts'

/** The holder begins: raises the fence to its token and reads, whether or not its lease is still good. */
export async function begin(h: History, lease: Given): Promise<void> {
  const value = await h.sql.raise(h.resource, lease.token)
  const newest = !h.owner || lease.token >= h.owner.token
  must((value !== undefined) === newest, `the fence is wrong: ${value}`)
  if (value !== undefined) {
    must(value === h.value, 'what was read is not what was written last')
    h.owner = lease
    lease.read = value
    note(h, 'fence raised')
    return
  }
  note(h, 'fence refused')
  // It has the lock, and a clock that was set back gave it a low token: it asks again, above the fence.
  if (lease.mode !== 'exclusive' || statusOf(h.memory, lease, h.world.now_ms()) !== 'alive' || h.waiting.length > 0)
    return
  await release(h, lease)
  const again = await acquire(
    h,
    0,
    { mode: 'exclusive', limit: 0 },
    false,
    lease.ttl_ms,
    await h.sql.fenceOf(h.resource),
  )
  // A place in line that only a promoted replica remembers is in the way until it dies: nothing is written meanwhile.
  if (again === undefined) {
    note(h, 'kept out by a forgotten place')
    return
  }
  h.owner = again
  again.read = await h.sql.raise(h.resource, again.token)
  must(again.read === h.value, 'the repaired lease may begin')
  note(h, 'repaired above the fence')
}

/** It writes what it read, and one more. No holder that another one has superseded gets it through. */
export async function write(h: History, lease: Given): Promise<void> {
  if (lease.read === undefined) return
  const accepted = await h.sql.write(h.resource, lease.token, lease.read + 1)
  must(accepted === (h.owner === lease), accepted ? 'a superseded holder wrote' : 'the newest holder was refused')
  if (accepted) {
    must(lease.read === h.value, 'an update was lost')
    h.value = lease.read + 1
    lease.read = h.value
  }
  note(h, accepted ? 'writes accepted' : 'writes of superseded holders refused')
}
