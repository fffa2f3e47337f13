/**
 * The seam between the lease core and a lock server. The invariant: every verb is one atomic step on the server that
 * checks the id, and may be repeated with the same id without changing the outcome. Clocks stay on their own side: the
 * server answers with durations, the core counts validity on its own monotonic clock from before it asked. A lock that is
 * handed to a waiter lives exactly as long as the waiter's place would have, so that what the core knows of the place
 * holds for the lock.
 */

export interface Attempt {
  resource: string
  /** Random and unguessable, one per acquisition: who knows it is the owner. */
  id: string
  ttl_ms: number
  above: number
  /** Stand in line when the lock is busy, in a place that lives this long without another attempt; 0 = do not. */
  place_ttl_ms: number
  /** 0 on the first attempt, then what the server gave. */
  ticket: number
}

export type Answer =
  | { granted: true; token: number }
  | {
      granted: false
      ticket: number
      /** Names the place in line until the next attempt renews it. */
      place: number
      /** How many stand before this one. */
      ahead: number
      waiting: number
      /** When the lock ends by itself; negative when it does not. */
      free_in_ms: number
      holder: string | undefined
    }

/** The lock has been given to who had this place. */
export interface Handed {
  place: number
  token: number
}

export interface Backend {
  /** Random and unguessable. `seat` is what the process hears of when it is handed the lock; others see `owner`. */
  newId(seat: number, owner: string): string
  attempt(attempt: Attempt): Promise<Answer>
  /** How many wait behind the renewed lock, or why there is nothing to renew. */
  extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'>
  release(resource: string, id: string): Promise<'released' | 'expired' | 'taken'>
  /** Takes away the lock or the place in line that the id has, if any, and hands on its turn. */
  cancel(resource: string, id: string): Promise<void>
  /**
   * Begins to deliver what the line hears; idempotent. 'all' means that something may have been missed. Until it works,
   * waiters live by their rechecks alone.
   */
  listen(heard: (seat: number | 'all', handed?: Handed) => void): void
  close(): Promise<void>
}
