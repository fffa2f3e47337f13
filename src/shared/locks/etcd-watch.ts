/**
 * What etcd tells: one stream for all watches of a createEtcdLocks. The invariant: a watch goes on from the revision
 * where it was cut off, so nothing is missed while etcd is away; where etcd has forgotten what happened since, the
 * watch ends and says so.
 */
import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { type EtcdClient, startingWith } from './etcd-client.ts'
import { type Entry, readEntry, turns } from './etcd-line.ts'

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
      if (closed) opened.cancel()
      else for (const [id, watch] of watches) send(id, watch)
    } catch {
      again()
    } finally {
      connecting = false
    }
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
        if (watches.delete(id)) stream?.write({ cancel_request: { watch_id: id } })
      }
    },

    close() {
      closed = true
      watches.clear()
      stream?.cancel()
    },
  }
}

/** The lines that waiters of this process stand in, as etcd tells of them. */
export interface Lines {
  /** The waiter with this key is called when its turn has come, by what etcd told since this line was read. */
  follow(prefix: string, line: readonly Entry[], revision: number, key: string, call: () => void): void
  unfollow(prefix: string, key: string): void
  /** The entry of a waiter whose turn has come. */
  atTurn(prefix: string, key: string): Entry | undefined
}

interface Followed {
  /** In the order of their creation: new keys come last, changed ones stay where they are. */
  line: Map<string, Entry>
  waiters: Map<string, () => void>
  end(): void
}

export function createLines(watches: Watches): Lines {
  const lines = new Map<string, Followed>()

  function begin(prefix: string, entries: readonly Entry[], revision: number): Followed {
    const line = new Map(entries.map((entry) => [entry.key, entry]))
    const waiters = new Map<string, () => void>()
    const end = watches.open({
      prefix,
      from: revision + 1,
      told(events) {
        for (const { type, kv } of events) apply(line, type, kv)
        callThose(line, waiters)
      },
      ended() {
        lines.delete(prefix)
        for (const call of waiters.values()) call()
      },
    })
    const followed = { line, waiters, end }
    lines.set(prefix, followed)
    return followed
  }

  return {
    follow(prefix, entries, revision, key, call) {
      const { line, waiters } = lines.get(prefix) ?? begin(prefix, entries, revision)
      waiters.set(key, call)
      // What was told between the reading and now must not be waited for.
      callThose(line, new Map([[key, call]]))
    },

    unfollow(prefix, key) {
      const followed = lines.get(prefix)
      if (!followed?.waiters.delete(key) || followed.waiters.size > 0) return
      lines.delete(prefix)
      followed.end()
    },

    atTurn(prefix, key) {
      const line = lines.get(prefix)?.line
      const entry = line?.get(key)
      return line && entry && [...line.keys()].indexOf(key) < turns(line.values()) ? entry : undefined
    },
  }
}

function apply(line: Map<string, Entry>, type: IEvent['type'], kv: IEvent['kv']): void {
  const entry = type === 'Put' ? readEntry(kv) : undefined
  if (entry) line.set(entry.key, entry)
  else line.delete(kv.key.toString())
}

/** Calls the waiters whose turn it is: a release wakes the one who is next, not all who wait. */
function callThose(line: Map<string, Entry>, waiters: Map<string, () => void>): void {
  let left = turns(line.values())
  for (const [key, entry] of line) {
    if (left-- === 0) return
    if (entry.token === undefined) waiters.get(key)?.()
  }
}
