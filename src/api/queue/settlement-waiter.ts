/**
 * Waiting for purchases, bookings and commands to be settled (Prefer: wait). Invariant: what a waiter is told comes from
 * Postgres after the commit; the notice on Redis only says when to look, and a slow look of its own covers lost ones.
 */
import { sql } from 'drizzle-orm'
import type { Redis } from 'ioredis'
import { type Client, query } from '../../shared/db/client.ts'
import type { Log } from '../../shared/log.ts'
import { settledChannel } from '../../shared/queues.ts'

/** What it has asked for is set aside, and its card is being asked. It is settled when that is over. */
export const CHARGING = {
  purchases: `(status = 'held' AND expires_at > clock_timestamp() AND EXISTS (
    SELECT 1 FROM charges c WHERE c.purchase = purchases.id AND c.purpose = 'charge'))`,
  bookings: `(status = 'requested' AND expires_at > clock_timestamp() AND EXISTS (
    SELECT 1 FROM charges c WHERE c.booking = bookings.id AND c.purpose = 'charge'))`,
}

/** Milliseconds between looks for lost notices: what a buyer may wait too long while Redis is away. */
const LOOK_MS = 500

interface Watch {
  /** Resolves true once the row has left the line, false when the time is over. */
  settled(wait_ms: number): Promise<boolean>
  /** Ends the watch: to be called in any case. */
  done(): void
}

export interface Waits {
  /** Watch this id; call it before the row is written, so that no notice can come too early. */
  watch(id: string): Watch
  /** Hears the ids of each batch that the fleet tells as settled, until the function it returns is called. */
  hear(listener: (ids: string[]) => void): () => void
  /** Ends every wait, as if its time were over, and those that begin later at once: the process is about to stop. */
  stop(): void
  close(): void
}

export function createWaits(subscriber: Redis, redis_prefix: string, client: Client, log: Log): Waits {
  const watched = new Map<string, Set<() => void>>()
  const listeners = new Set<(ids: string[]) => void>()
  const ends = new Set<() => void>()
  let stopping = false
  const channel = settledChannel(redis_prefix)
  const wake = (id: string) => {
    for (const settle of watched.get(id) ?? []) settle()
  }
  const subscribe = () => {
    subscriber.subscribe(channel).catch((error) => log.warn({ error }, 'no notices: waiting by looking'))
  }
  // Again after every reconnect: a subscription does not outlive its connection.
  subscriber.on('ready', subscribe)
  if (subscriber.status === 'ready') subscribe()
  subscriber.on('message', (from, message) => {
    if (from !== channel || watched.size + listeners.size === 0) return
    const ids = JSON.parse(message) as string[]
    for (const id of ids) wake(id)
    for (const listener of listeners) listener(ids)
  })

  let looking = false
  const timer = setInterval(() => {
    if (looking || watched.size === 0) return
    looking = true
    look()
      .catch((error) => log.debug({ error }, 'the look for settled rows failed; the next one makes up for it'))
      .finally(() => {
        looking = false
      })
  }, LOOK_MS)
  timer.unref()

  async function look(): Promise<void> {
    const ids = JSON.stringify([...watched.keys()])
    const rows = await query<{ id: string }>(
      client,
      sql`WITH w AS (SELECT json_array_elements_text(${ids}::json)::uuid AS id)
          SELECT id FROM purchases JOIN w USING (id) WHERE status <> 'queued' AND NOT ${sql.raw(CHARGING.purchases)}
          UNION ALL
          SELECT id FROM bookings JOIN w USING (id) WHERE status <> 'queued' AND NOT ${sql.raw(CHARGING.bookings)}
          UNION ALL
          SELECT id FROM commands JOIN w USING (id) WHERE status <> 'queued'`,
    )
    for (const row of rows) wake(row.id)
  }

  return {
    watch(id) {
      let settle: () => void = () => {}
      const settled = new Promise<true>((resolve) => {
        settle = () => resolve(true)
      })
      const all = watched.get(id) ?? new Set()
      watched.set(id, all.add(settle))
      let late: NodeJS.Timeout | undefined
      let end = () => {}
      return {
        settled(wait_ms) {
          const over = new Promise<false>((resolve) => {
            end = () => resolve(false)
            ends.add(end)
            late = setTimeout(end, stopping ? 0 : wait_ms)
          })
          return Promise.race([settled, over])
        },
        done() {
          clearTimeout(late)
          ends.delete(end)
          all.delete(settle)
          if (all.size === 0) watched.delete(id)
        },
      }
    },
    hear(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    stop() {
      stopping = true
      for (const end of ends) end()
    },
    close() {
      clearInterval(timer)
      subscriber.disconnect()
    },
  }
}
