/**
 * The end of the outbox, read once for all SSE clients of this process. Invariants: without listeners nothing is read; with
 * any number of them one reader polls Postgres, and a listener that is behind reads its own pages, PAGES_AT_ONCE at a time.
 */
import type { Client } from '../shared/db/client.ts'
import type { Log } from '../shared/log.ts'
import {
  comparePositions,
  createHorizon,
  type Event,
  endOfRow,
  outboxBounds,
  type Position,
  parseEventId,
  readEvents,
} from '../shared/outbox.ts'
import { createSignal } from '../shared/timeout.ts'

/** Milliseconds between polls: the most that an event is delayed, besides its own transmission. */
const POLL_MS = 100
/** The same while a transaction is committing. */
const SOON_MS = 20
/** Events kept in memory for listeners that are slightly behind. */
const KEPT = 5_000
/** Most events that next() returns at once. */
const AT_ONCE = 500
/** Pages read at once for listeners that are further behind. */
const PAGES_AT_ONCE = 2

export interface Listener {
  /** All events up to it were returned; undefined until the end of the outbox has been read. */
  position(): Position | undefined
  /** The next events, in order; empty when there are none yet. */
  next(): Promise<Event[]>
  /** Resolves when there may be more, after within_ms, or when the signal aborts. */
  waitForMore(within_ms: number, signal: AbortSignal): Promise<void>
  close(): void
}

/** All events after `from` and up to `to`, in order. */
interface Kept {
  from: Position
  to: Position
  events: { at: Position; event: Event }[]
}

export function createTail(client: Client, log: Log) {
  const horizon = createHorizon(client)
  let kept: Kept | undefined
  let listeners = 0
  let running = false
  let timer: NodeJS.Timeout | undefined
  let news = createSignal()
  let pages = 0
  const turns: (() => void)[] = []

  function notify(): void {
    const previous = news
    news = createSignal()
    previous.fire()
  }

  /** Reads the events that have become final since. The first poll only finds the end. */
  async function poll(): Promise<void> {
    const final = await horizon.poll()
    if (final === undefined) return
    if (kept === undefined) {
      kept = { from: endOfRow(final), to: endOfRow(final), events: [] }
      notify()
    }
    for (let more = kept.to.id < final; more && listeners > 0; ) {
      const page = await readEvents(client, { after: kept.to, horizon: final })
      const events: Kept['events'] = [
        ...kept.events,
        ...page.events.map((event) => ({ at: parseEventId(event.id), event })),
      ]
      const dropped = events.length > KEPT ? events[events.length - KEPT - 1] : undefined
      kept = { from: dropped?.at ?? kept.from, to: page.end, events: events.slice(-KEPT) }
      more = page.more
      notify()
    }
  }

  function run(): void {
    running = true
    poll()
      .catch((error) => log.debug({ error }, 'outbox poll failed; will retry'))
      .finally(() => {
        if (listeners > 0) {
          timer = setTimeout(run, horizon.waiting() ? SOON_MS : POLL_MS)
        } else {
          running = false
          kept = undefined
        }
      })
  }

  async function readPage(after: Position, upto: Position, resource: string | undefined) {
    if (pages >= PAGES_AT_ONCE) await new Promise<void>((resolve) => turns.push(resolve))
    pages++
    try {
      return await readEvents(client, { after, horizon: upto.id, resource })
    } finally {
      pages--
      turns.shift()?.()
    }
  }

  /** Listens after `from`, or from now on; to one resource, or to all. */
  function listen(from: Position | undefined, resource: string | undefined): Listener {
    let position = from
    listeners++
    if (!running) run()
    return {
      position() {
        position ??= kept?.to
        return position
      },
      async next() {
        while (kept) {
          position ??= kept.to
          if (comparePositions(position, kept.to) >= 0) return []
          let events: Event[]
          if (comparePositions(position, kept.from) < 0) {
            const page = await readPage(position, kept.from, resource)
            const { dropped } = await outboxBounds(client)
            // Events pruned during the read must not be skipped: the client reconnects and gets 410.
            if (position.id > 0 && position.id < dropped) throw new Error('these events are no longer stored')
            position = page.end
            events = page.events
          } else {
            let first = kept.events.length
            while (first > 0 && comparePositions(kept.events[first - 1]?.at ?? position, position) > 0) first--
            const some = kept.events.slice(first, first + AT_ONCE)
            position = some.length < AT_ONCE ? kept.to : (some.at(-1)?.at ?? kept.to)
            events = some.map((one) => one.event).filter((one) => resource === undefined || one.resource === resource)
          }
          if (events.length > 0) return events
        }
        return []
      },
      async waitForMore(within_ms, signal) {
        const available = kept && (position === undefined || comparePositions(position, kept.to) < 0)
        if (!available) await news.wait({ within_ms, signal })
      },
      close() {
        listeners--
      },
    }
  }

  return {
    listen,
    close() {
      clearTimeout(timer)
    },
  }
}

export type Tail = ReturnType<typeof createTail>
