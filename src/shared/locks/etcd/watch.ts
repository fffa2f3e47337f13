/**
 * What etcd tells: one stream for all watches of a createEtcdLocks. The invariant: a watch goes on from the revision
 * where it was cut off, so nothing is missed while etcd is away; where etcd has forgotten what happened since, the
 * watch ends and says so.
 */
import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { type EtcdClient, startingWith } from './client.ts'
import { type Entry, readEntry, turns } from './wait-queue.ts'

interface Watch {
  prefix: string
  /** The first revision that has not been told; 0 = from now on. */
  from: number
  told(events: IEvent[]): void
  /** Nothing more will be told. */
  ended(): void
}

export interface Watches {
  /** @returns what ends it */
  open(watch: Watch): () => void
  connected(): boolean
  close(): void
}

/** Soon again, because all the waiters of this process live by rechecks until then. */
const RECONNECT_MS = [50, 100, 200, 500, 1000]

export function createWatches(client: EtcdClient): Watches {
  const watches = new Map<string, Watch>()
  let stream: IDuplexStream<IWatchRequest, IWatchResponse> | undefined
  let connecting = false
  let closed = false
  let failures = 0
  let ids = 0

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
      // A stream that fails twice, with an error and an end, is one failure.
      const lost = () => {
        if (stream !== opened) return
        stream = undefined
        again()
      }
      opened.on('data', (answer) => {
        failures = 0
        heard(answer)
      })
      opened.on('error', lost)
      opened.on('end', lost)
      stream = opened
      if (closed || watches.size === 0) rest()
      else for (const [id, watch] of watches) send(id, watch)
    } catch {
      again()
    } finally {
      connecting = false
    }
  }

  /** A stream keeps the process alive, so there is none without a watch. */
  function rest(): void {
    const idle = stream
    stream = undefined
    idle?.cancel()
  }

  function again(): void {
    if (closed) return
    setTimeout(() => void connect(), RECONNECT_MS[Math.min(failures, RECONNECT_MS.length - 1)]).unref()
    failures += 1
  }

  function heard({ header, watch_id, created, canceled, events }: IWatchResponse): void {
    const watch = watches.get(watch_id)
    if (!watch) return
    if (canceled) {
      watches.delete(watch_id)
      watch.ended()
      return
    }
    const revision = Number(header.revision)
    // "From now on" has become a revision, from which the watch goes on when the stream is cut.
    if (created && watch.from === 0) watch.from = revision + 1
    if (events.length === 0) return
    watch.from = Number(events.at(-1)?.kv.mod_revision) + 1
    watch.told(events)
  }

  return {
    open(watch) {
      const id = String(++ids)
      watches.set(id, watch)
      if (stream) send(id, watch)
      else void connect()
      if (closed) watches.clear()
      return () => {
        if (!watches.delete(id)) return
        if (watches.size === 0) rest()
        else stream?.write({ cancel_request: { watch_id: id } })
      }
    },

    connected: () => stream !== undefined,

    close() {
      closed = true
      watches.clear()
      rest()
    },
  }
}

/** A line as it was at a revision. */
export interface Seen {
  line: readonly Entry[]
  revision: number
}

/** The lines that waiters of this process stand in, as etcd tells of them. */
export interface Lines {
  /** The waiter with this key is called when its turn has come, by what was read or told since. */
  follow(prefix: string, seen: Seen, key: string, call: () => void): void
  unfollow(prefix: string, key: string): void
  /** The line, unless it is time to read it again, or nothing is told at present. */
  known(prefix: string): Seen | undefined
}

interface Followed {
  /** In the order of their creation: new keys come last, changed ones stay where they are. */
  line: Map<string, Entry>
  revision: number
  waiters: Map<string, () => void>
  /** performance.now() */
  read_at: number
  end(): void
}

/** A line is read so often by all its waiters together, in case etcd fails to tell something. */
const READ_MS = 1000

export function createLines(watches: Watches): Lines {
  const lines = new Map<string, Followed>()

  function begin(prefix: string, { line, revision }: Seen): Followed {
    const followed: Followed = {
      line: byKey(line),
      revision,
      waiters: new Map(),
      read_at: performance.now(),
      end: watches.open({
        prefix,
        from: revision + 1,
        told(events) {
          apply(followed, events)
          callThose(followed, followed.waiters)
        },
        ended() {
          lines.delete(prefix)
          for (const call of followed.waiters.values()) call()
        },
      }),
    }
    lines.set(prefix, followed)
    return followed
  }

  return {
    follow(prefix, seen, key, call) {
      const followed = lines.get(prefix) ?? begin(prefix, seen)
      if (seen.revision > followed.revision) {
        Object.assign(followed, { line: byKey(seen.line), revision: seen.revision })
      }
      followed.waiters.set(key, call)
      // What was told between the reading and now must not be waited for.
      callThose(followed, new Map([[key, call]]))
    },

    unfollow(prefix, key) {
      const followed = lines.get(prefix)
      if (!followed?.waiters.delete(key) || followed.waiters.size > 0) return
      lines.delete(prefix)
      followed.end()
    },

    known(prefix) {
      const followed = lines.get(prefix)
      const now = performance.now()
      if (!followed || !watches.connected()) return undefined
      if (now - followed.read_at > READ_MS) {
        followed.read_at = now
        return undefined
      }
      return { line: [...followed.line.values()], revision: followed.revision }
    },
  }
}

function byKey(line: readonly Entry[]): Map<string, Entry> {
  return new Map(line.map((entry) => [entry.key, entry]))
}

/** What is told was maybe read before. One revision may change several keys; they are told together. */
function apply(followed: Followed, events: IEvent[]): void {
  const { line, revision } = followed
  for (const { type, kv } of events) {
    if (Number(kv.mod_revision) <= revision) continue
    followed.revision = Number(kv.mod_revision)
    const entry = type === 'Put' ? readEntry(kv) : undefined
    if (entry) line.set(entry.key, entry)
    else line.delete(kv.key.toString())
  }
}

/** Calls the waiters whose turn it is: a release wakes the one who is next, not all who wait. */
function callThose({ line }: Followed, waiters: Map<string, () => void>): void {
  let left = turns(line.values())
  for (const [key, entry] of line) {
    if (left-- === 0) return
    if (entry.token === undefined) waiters.get(key)?.()
  }
}
