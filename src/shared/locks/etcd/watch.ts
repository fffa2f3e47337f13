/**
 * The watches on etcd: one stream for all watches of a Locks instance. Invariant: a watch continues from the revision where the
 * stream was cut, so it misses no event while etcd is away. If etcd has compacted the events since that revision, the watch
 * ends and calls onEnd.
 */
import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { type EtcdClient, startingWith } from './client.ts'
import { type Entry, readEntry, turns } from './wait-queue.ts'

interface Watch {
  prefix: string
  /** The first revision that was not delivered yet; 0: from now on. */
  from: number
  onEvents(events: IEvent[]): void
  /** Called when no more events will follow. */
  onEnd(): void
}

/** Pauses before reconnecting. They are short, because until then all waiters of this process depend on their rechecks. */
const RECONNECT_MS = [50, 100, 200, 500, 1000]

export class Watches {
  #client: EtcdClient
  #watches = new Map<string, Watch>()
  #stream: IDuplexStream<IWatchRequest, IWatchResponse> | undefined
  #connecting = false
  #closed = false
  #failures = 0
  #last_id = 0

  constructor(client: EtcdClient) {
    this.#client = client
  }

  /** Starts a watch. @returns a function that ends the watch */
  open(watch: Watch): () => void {
    const id = String(++this.#last_id)
    this.#watches.set(id, watch)
    if (this.#stream) this.#send(id, watch)
    else void this.#connect()
    if (this.#closed) this.#watches.clear()
    return () => {
      if (!this.#watches.delete(id)) return
      if (this.#watches.size === 0) this.#closeStream()
      else this.#stream?.write({ cancel_request: { watch_id: id } })
    }
  }

  connected(): boolean {
    return this.#stream !== undefined
  }

  close(): void {
    this.#closed = true
    this.#watches.clear()
    this.#closeStream()
  }

  #send(id: string, { prefix, from }: Watch): void {
    // The protocol has watch_id, but the types of etcd3 1.1.2 lack it.
    const request = { ...startingWith(prefix), start_revision: from, watch_id: id }
    this.#stream?.write({ create_request: request })
  }

  async #connect(): Promise<void> {
    if (this.#connecting || this.#stream || this.#closed || this.#watches.size === 0) return
    this.#connecting = true
    try {
      const opened = await this.#client.watches()
      // If an error is followed by an end, both are one failure of the stream.
      const onStreamEnd = () => {
        if (this.#stream !== opened) return
        this.#stream = undefined
        this.#reconnectLater()
      }
      opened.on('data', (answer) => {
        this.#failures = 0
        this.#onResponse(answer)
      })
      opened.on('error', onStreamEnd)
      opened.on('end', onStreamEnd)
      this.#stream = opened
      if (this.#closed || this.#watches.size === 0) this.#closeStream()
      else for (const [id, watch] of this.#watches) this.#send(id, watch)
    } catch {
      this.#reconnectLater()
    } finally {
      this.#connecting = false
    }
  }

  /** Closes the stream when no watch is left, because a stream keeps the process alive. */
  #closeStream(): void {
    const idle = this.#stream
    this.#stream = undefined
    idle?.cancel()
  }

  #reconnectLater(): void {
    if (this.#closed) return
    setTimeout(() => void this.#connect(), RECONNECT_MS[Math.min(this.#failures, RECONNECT_MS.length - 1)]).unref()
    this.#failures += 1
  }

  #onResponse({ header, watch_id, created, canceled, events }: IWatchResponse): void {
    const watch = this.#watches.get(watch_id)
    if (!watch) return
    if (canceled) {
      this.#watches.delete(watch_id)
      watch.onEnd()
      return
    }
    const revision = Number(header.revision)
    // A watch "from now on" gets a revision here, so that it can continue from that revision when the stream is cut.
    if (created && watch.from === 0) watch.from = revision + 1
    if (events.length === 0) return
    watch.from = Number(events.at(-1)?.kv.mod_revision) + 1
    watch.onEvents(events)
  }
}

/** The state of a wait queue at one revision. */
export interface QueueView {
  queue: readonly Entry[]
  revision: number
}

/** The wait queues with waiters of this process, kept up to date by watch events. */
export interface FollowedQueues {
  /** Follows the queue from `view` on, and wakes the waiter with this key when its turn has come. */
  follow(prefix: string, view: QueueView, key: string, wake: () => void): void
  unfollow(prefix: string, key: string): void
  /** Returns the queue; undefined if the queue is due to be read again or the stream is cut. */
  current(prefix: string): QueueView | undefined
}

interface Followed {
  /** Entries by key, in order of creation: new keys come last, changed keys keep their position. */
  queue: Map<string, Entry>
  revision: number
  waiters: Map<string, () => void>
  /** performance.now() when the queue was last read */
  read_at: number
  end(): void
}

/** Milliseconds after which a queue is read again, once for all its waiters, in case an event was lost. */
const READ_MS = 1000

export function createFollowedQueues(watches: Watches): FollowedQueues {
  const queues = new Map<string, Followed>()

  function startFollowing(prefix: string, { queue, revision }: QueueView): Followed {
    const followed: Followed = {
      queue: byKey(queue),
      revision,
      waiters: new Map(),
      read_at: performance.now(),
      end: watches.open({
        prefix,
        from: revision + 1,
        onEvents(events) {
          apply(followed, events)
          wakeEligible(followed, followed.waiters)
        },
        onEnd() {
          queues.delete(prefix)
          for (const wake of followed.waiters.values()) wake()
        },
      }),
    }
    queues.set(prefix, followed)
    return followed
  }

  return {
    follow(prefix, view, key, wake) {
      const followed = queues.get(prefix) ?? startFollowing(prefix, view)
      if (view.revision > followed.revision) {
        Object.assign(followed, { queue: byKey(view.queue), revision: view.revision })
      }
      followed.waiters.set(key, wake)
      // Events that arrived between the read of `view` and now may have given this waiter its turn: check at once.
      wakeEligible(followed, new Map([[key, wake]]))
    },

    unfollow(prefix, key) {
      const followed = queues.get(prefix)
      if (!followed?.waiters.delete(key) || followed.waiters.size > 0) return
      queues.delete(prefix)
      followed.end()
    },

    current(prefix) {
      const followed = queues.get(prefix)
      const now = performance.now()
      if (!followed || !watches.connected()) return undefined
      if (now - followed.read_at > READ_MS) {
        followed.read_at = now
        return undefined
      }
      return { queue: [...followed.queue.values()], revision: followed.revision }
    },
  }
}

function byKey(queue: readonly Entry[]): Map<string, Entry> {
  return new Map(queue.map((entry) => [entry.key, entry]))
}

/**
 * Applies events to a queue. It skips events that are older than the read of the queue. One revision may change several keys;
 * their events arrive together.
 */
function apply(followed: Followed, events: IEvent[]): void {
  const { queue, revision } = followed
  for (const { type, kv } of events) {
    if (Number(kv.mod_revision) <= revision) continue
    followed.revision = Number(kv.mod_revision)
    const entry = type === 'Put' ? readEntry(kv) : undefined
    if (entry) queue.set(entry.key, entry)
    else queue.delete(kv.key.toString())
  }
}

/** Wakes the waiters whose turn it is: a release wakes the next one, not all waiters. */
function wakeEligible({ queue }: Followed, waiters: Map<string, () => void>): void {
  let left = turns(queue.values())
  for (const [key, entry] of queue) {
    if (left-- === 0) return
    if (entry.token === undefined) waiters.get(key)?.()
  }
}
