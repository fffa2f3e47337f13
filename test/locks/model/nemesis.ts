/** The faults of a history, and what the model must forget after each. */
import { setTimeout as sleep } from 'node:timers/promises'
import { copyOf, mayForget, statusOf, wentBack } from './model.ts'
import { extend, type History, must, note, settle } from './steps.ts'

export async function force(h: History): Promise<void> {
  const now_ms = h.world.now_ms()
  const alive = [...h.memory.ends.keys()].filter((lease) => statusOf(h.memory, lease, now_ms) === 'alive')
  const { token, revoked_holders } = (await h.world.fleet[1]?.forceRelease(h.resource)) ?? {
    token: 0,
    revoked_holders: [],
  }
  for (const lease of alive) {
    must(
      revoked_holders.some((holder) => holder.token === lease.token),
      'a holder was not revoked',
    )
    const notified = performance.now() + 2000
    while (lease.local && !lease.over && performance.now() < notified) await sleep(1)
    must(!lease.local || lease.over, 'a holder was not notified of the forced release')
  }
  must(token > h.memory.last, 'the token was not raised')
  h.memory.last = token
  h.highest = Math.max(h.highest, token)
  h.memory.ends.clear()
  note(h, 'forced')
  await settle(h)
}

/** After a fault: all waiters recheck, and the leases of the processes are renewed or lost. */
async function afterwards(h: History, connected: () => Promise<void>): Promise<void> {
  for (const one of h.waiting) one.in_order = false
  await connected()
  for (const lease of h.given) if (lease.local && !lease.over) await extend(h, lease)
  await settle(h)
}

export async function stepClock(h: History, by_s: number): Promise<void> {
  h.offset_s += by_s
  h.world.setClock(h.offset_s)
  for (const memory of [h.memory, h.snapshot]) if (memory && by_s < 0) wentBack(memory, h.world.now_ms())
  if (h.snapshot) mayForget(h.snapshot, h.world.now_ms())
  for (const one of h.waiting) one.asked_ms = Math.min(one.asked_ms, h.world.now_ms())
  note(h, by_s < 0 ? 'clock set back' : 'clock set forward')
  if (h.waiting.length > 0) await afterwards(h, h.world.reconnect)
  else await settle(h)
}

export async function flush(h: History): Promise<void> {
  await h.world.flush()
  h.memory = { ends: new Map(), last: 0 }
  note(h, 'flushed')
  if (h.waiting.length > 0) await afterwards(h, h.world.reconnect)
}

export async function snapshot(h: History): Promise<void> {
  await h.world.snapshot()
  h.snapshot = copyOf(h.memory)
  note(h, 'replication stopped')
}

export async function promote(h: History): Promise<void> {
  if (!h.snapshot) return
  h.memory = h.snapshot
  h.snapshot = undefined
  // Slots in the replica's queue have expired after this: their waiters may have left.
  h.offset_s += 4
  h.world.setClock(h.offset_s)
  note(h, 'stale replica promoted')
  await afterwards(h, h.world.promote)
}
