/**
 * The writes of holders in a history: to a store with the fencing token of the database. A holder raises the token to
 * its own and reads; later it writes if its token is still not below the stored one. Only the newest holder's write is
 * accepted.
 */
import { type Given, statusOf } from './model.ts'
import { acquire, type History, must, note, release } from './steps.ts'

/** The holder raises the token and reads, whether or not its lease is still valid. */
export async function begin(h: History, lease: Given): Promise<void> {
  const value = await h.sql.raise(h.resource, lease.token)
  const newest = !h.owner || lease.token >= h.owner.token
  must((value !== undefined) === newest, `the stored token is wrong: ${value}`)
  if (value !== undefined) {
    must(value === h.value, 'what was read is not what was written last')
    h.owner = lease
    lease.read = value
    note(h, 'fence raised')
    return
  }
  note(h, 'fence refused')
  // It holds the lock with a low token, because the clock was set back: it acquires again, above the stored token.
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
  // A slot that only a promoted replica has blocks the lock until it expires: no write in the meantime.
  if (again === undefined) {
    note(h, 'kept out by a forgotten slot')
    return
  }
  h.owner = again
  again.read = await h.sql.raise(h.resource, again.token)
  must(again.read === h.value, 'the repaired lease may begin')
  note(h, 'repaired above the fence')
}

/** Writes the value it read plus one. A superseded holder is refused. */
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
