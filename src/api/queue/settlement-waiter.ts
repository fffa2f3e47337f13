/**
 * Waits until purchases, bookings and commands are settled (Prefer: wait); a purchase or booking only counts as settled here
 * once its card charge has ended. Invariant: the API reads the outcome from Postgres after the commit; a notice on Redis only
 * says when to read, and a slow poll covers lost notices.
 */
import { and, ne, not } from 'drizzle-orm'
import type { Redis } from 'ioredis'
import type { Client } from '../../shared/db/client.ts'
import { bookings, commands, purchases } from '../../shared/db/schema.ts'
import { build, isOneOf, prepare } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import type { Log } from '../../shared/log.ts'
import { settledChannel, subscribe } from '../../shared/redis.ts'
import { createSignal, every, type Signal } from '../../shared/timeout.ts'
import { charging } from './charge-columns.ts'

/** Returns those of the `ids` whose purchase, booking or command is settled. */
const settledSql = prepare(
  build
    .select({ id: purchases.id })
    .from(purchases)
    .where(and(isOneOf(purchases.id, 'ids'), ne(purchases.status, 'queued'), not(charging.purchases)))
    .unionAll(
      build
        .select({ id: bookings.id })
        .from(bookings)
        .where(and(isOneOf(bookings.id, 'ids'), ne(bookings.status, 'queued'), not(charging.bookings))),
    )
    .unionAll(
      build
        .select({ id: commands.id })
        .from(commands)
        .where(and(isOneOf(commands.id, 'ids'), ne(commands.status, 'queued'))),
    ),
)

/** Milliseconds between polls for lost notices: the longest delay that a lost notice adds to a caller's wait. */
const POLL_MS = 500

export interface Watch {
  /** Resolves once the row is settled, or after wait_ms. */
  wait(wait_ms: number): Promise<void>
  /** Ends the watch; the caller must call it in every case. */
  stop(): void
}

export interface SettlementWaiter {
  /** Watches this id. The caller must do so before it inserts the row, so that no notice arrives too early. */
  watch(id: string): Watch
  /** Calls the listener with the ids of each batch that the fleet settles; the returned function unsubscribes. */
  subscribe(listener: (ids: string[]) => void): () => void
  /** Ends all waits now, as if they had timed out, and later waits at once, because the process is shutting down. */
  stop(): void
  close(): void
}

export function createSettlementWaiter(
  subscriber: Redis,
  redis_prefix: string,
  client: Client,
  log: Log,
): SettlementWaiter {
  /** id → signals that fire once the row is settled, or when a wait must end before that */
  const watched = new Map<string, Set<Signal>>()
  const listeners = new Set<(ids: string[]) => void>()
  let stopping = false
  const wake = (id: string) => {
    for (const end of watched.get(id) ?? []) end.fire()
  }
  const onNotice = (message: string) => {
    if (watched.size + listeners.size === 0) return
    const ids = JSON.parse(message) as string[]
    for (const id of ids) wake(id)
    for (const listener of listeners) listener(ids)
  }
  subscribe(subscriber, settledChannel(redis_prefix), onNotice, (error) =>
    log.warn({ error }, 'subscription to settlement notices failed; waiting by polls'),
  )

  const stopPolling = every(POLL_MS, poll, (error) => log.debug({ error }, 'poll for settled rows failed; will retry'))

  async function poll(): Promise<void> {
    if (watched.size === 0) return
    const rows = await settledSql(client, { ids: arrayText([...watched.keys()]) })
    for (const row of rows) wake(row.id)
  }

  return {
    watch(id) {
      const end = createSignal()
      const watchers = watched.get(id) ?? new Set()
      watched.set(id, watchers.add(end))
      return {
        wait: (wait_ms) => end.wait({ within_ms: stopping ? 0 : wait_ms }),
        stop() {
          end.fire()
          watchers.delete(end)
          if (watchers.size === 0) watched.delete(id)
        },
      }
    },
    subscribe(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    stop() {
      stopping = true
      for (const watchers of watched.values()) for (const end of watchers) end.fire()
    },
    close() {
      void stopPolling()
      subscriber.disconnect()
    },
  }
}
