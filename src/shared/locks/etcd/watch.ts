/**
 * The watches on etcd: one stream for all watches of a createEtcdLocks. Invariant: a watch continues from the revision
 * where the stream was cut, so no event is missed while etcd is away; where etcd has compacted the events since, the
 * watch ends and reports it.
 */
import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { type EtcdClient, startingWith } from './client.ts'
import { type Entry, readEntry, turns } from './wait-queue.ts'

interface Watch {
  prefix: string
  /** The first revision that was not delivered; 0 = from now on. */
  from: number
  onEvents(events: IEvent[]): void
  /** No more events will follow. */
  onEnd(): void
}

export interface Watches {
  /** @returns a function that ends the watch */
  open(watch: Watch): () => void
  connected(): boolean
  close(): void
}

/** Soon, because until then all waiters of this process depend on their rechecks. */
const RECONNECT_MS = [50, 100, 200, 500, 1000]

export function createWatches(client: EtcdClient): Watches {
  const watches = new Map<string, Watch>()
  let stream: IDuplexStream<IWatchRequest, IWatchResponse> | undefined
  let connecting = false
  let closed = false
  let failures = 0
  let last_id = 0

  function send(id: string, { prefix, from }: Watch): void {
    // The type of 1.1.2 lacks watch_id, the protocol has it.
    const request = { ...startingWith(prefix), start_revision: from, watch_id: id }
    stream?.write({ create_request: request })
  }

  async function connect(): Promise<void> {
    if (connecting || stream || closed || watches.size === 0) return
    connecting = true
    try {
      const opened = await client.watches()
      // An error followed by an end is one failure of the stream.
      const onStreamEnd = () => {
        if (stream !== opened) return
        stream = undefined
        reconnectLater()
      }
      opened.on('data', (answer) => {
        failures = 0
        onResponse(answer)
      })
      opened.on('error', onStreamEnd)
      opened.on('end', onStreamEnd)
      stream = opened
      if (closed || watches.size === 0) closeStream()
      else for (const [id, watch] of watches) send(id, watch)
    } catch {
      reconnectLater()
    } finally {
      connecting = false
    }
  }

  /** A stream keeps the process alive, so there is none without a watch. */
  function closeStream(): void {
    const idle = stream
    stream = undefined
    idle?.cancel()
  }

  function reconnectLater(): void {
    if (closed) return
    setTimeout(() => void connect(), RECONNECT_MS[Math.min(failures, RECONNECT_MS.length - 1)]).unref()
    failures += 1
  }

  function onResponse({ header, watch_id, created, canceled, events }: IWatchResponse): void {
    const watch = watches.get(watch_id)
    if (!watch) return
    if (canceled) {
      watches.delete(watch_id)
      watch.onEnd()
      return
    }
    const revision = Number(header.revision)
    // "From now on" has become a revision, from which the watch continues when the stream is cut.
    if (created && watch.from === 0) watch.from = revision + 1
    if (events.length === 0) return
    watch.from = Number(events.at(-1)?.kv.mod_revision) + 1
    watch.onEvents(events)
  }

  return {
    open(watch) {
      const id = String(++last_id)
      watches.set(id, watch)
      if (stream) send(id, watch)
      else void connect()
      if (closed) watches.clear()
      return () => {
        if (!watches.delete(id)) return
        if (watches.size === 0) closeStream()
        else stream?.write({ cancel_request: { watch_id: id } })
      }
    },

    connected: () => stream !== undefined,

    close() {
      closed = true
      watches.clear()
      closeStream()
    },
  }
}

/** A wait queue as it was at a revision. */
export interface QueueView {
  queue: readonly Entry[]
  revision: number
}

/** The wait queues with waiters of this process, kept up to date by watch events. */
export interface FollowedQueues {
  /** Wakes the waiter with this key when its turn has come, according to what was read or delivered since. */
  follow(prefix: string, view: QueueView, key: string, wake: () => void): void
  unfollow(prefix: string, key: string): void
  /** The queue, unless it is due to be read again or the stream is cut. */
  current(prefix: string): QueueView | undefined
}

interface Followed {
  /** In the order of creation: new keys come last, changed ones keep their position. */
  queue: Map<string, Entry>
  revision: number
  waiters: Map<string, () => void>
  /** performance.now() */
  read_at: number
  end(): void
}

/** A queue is read this often by all its waiters together, in case an event is lost. */
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
      // Events between the read and now must not be waited for.
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

/** An event may be older than what was read. One revision may change several keys; they arrive together. */
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
