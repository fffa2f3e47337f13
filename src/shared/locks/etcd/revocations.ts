/**
 * The revocations of this process's locks, as etcd reports them. Invariant: the process watches revocations while one of its
 * waiters may have a lock or a slot, and not longer, because the stream keeps the process alive.
 */
import type { IEvent } from 'etcd3'
import type { Watches } from './watch.ts'

/** Milliseconds for which revocations are still watched after the last lock: the next lock may be requested soon. */
const IDLE_CHECK_MS = 1000

export class Revocations {
  #watches: Watches
  #watch
  #stop: (() => void) | undefined
  /**
   * waiter_id → until when, by performance.now(), the waiter may have a lock or a slot. Entries of lost locks and remote leases
   * end by this time.
   */
  #live_until = new Map<number, number>()
  #check_scheduled = false

  constructor(watches: Watches, prefix: string, onRevoked: (waiter_id: number) => void) {
    this.#watches = watches
    this.#watch = {
      prefix,
      // The watch continues from the last revision that it has seen, so it misses no event in between.
      from: 0,
      onEvents(events: readonly IEvent[]) {
        for (const { type, kv } of events) if (type === 'Put') onRevoked(Number(kv.value.toString()))
      },
      // Until the watch is opened again, holders learn of revocations by their heartbeats.
      onEnd: () => {
        this.#watch.from = 0
        this.#stop = undefined
      },
    }
  }

  /** Records that the waiter may have a lock or a slot for this long from now on. */
  markLive(waiter_id: number, ttl_ms: number): void {
    this.#live_until.set(waiter_id, performance.now() + ttl_ms)
    if (this.#stop) return
    this.#stop = this.#watches.open(this.#watch)
    this.#scheduleIdleCheck()
  }

  unmarkLive(waiter_id: number): void {
    this.#live_until.delete(waiter_id)
  }

  #scheduleIdleCheck(): void {
    if (this.#check_scheduled) return
    this.#check_scheduled = true
    setTimeout(() => {
      this.#check_scheduled = false
      const now = performance.now()
      for (const [waiter_id, until] of this.#live_until) if (until < now) this.#live_until.delete(waiter_id)
      if (this.#live_until.size > 0) return this.#scheduleIdleCheck()
      this.#stop?.()
      this.#stop = undefined
    }, IDLE_CHECK_MS).unref()
  }
}
