/**
 * Reads the end of the outbox once for all SSE (server-sent events) clients of this process. Invariants: without listeners it
 * stops reading after the poll that is due; for any number of listeners one reader polls Postgres. Listeners that are behind read their own pages; at
 * most PAGES_AT_ONCE such reads run per process.
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

/** Milliseconds between polls: the longest delay this adds to an event. */
const POLL_MS = 100
/** Milliseconds between polls while a transaction is committing. */
const SOON_MS = 20
/** Number of events kept in memory for listeners that are slightly behind. */
const KEPT = 5_000
/**
 * Maximum number of events in memory that next() returns at once. A listener that is further behind gets all events of one
 * page of the outbox.
 */
const AT_ONCE = 500
/** Maximum number of pages that this process reads at the same time for listeners that are further behind. */
const PAGES_AT_ONCE = 2

export interface Listener {
  /** The position up to which next() has returned all events; undefined until the end of the outbox has been read. */
  position(): Position | undefined
  /** Returns the next events, in order; an empty list if there are none yet. */
  next(): Promise<Event[]>
  /** Resolves when there may be more events, after within_ms, or when the signal aborts. */
  waitForMore(within_ms: number, signal: AbortSignal): Promise<void>
  close(): void
}

/** All events after `from` and up to `to`, in order. */
interface Kept {
  from: Position
  to: Position
  events: { at: Position; event: Event }[]
}

/** The state of a listener. `position` undefined: start from now. `resource` undefined: all resources. */
interface Cursor {
  position: Position | undefined
  resource: string | undefined
}

export class Tail {
  readonly #client: Client
  readonly #log: Log
  readonly #horizon: ReturnType<typeof createHorizon>
  #kept: Kept | undefined
  #listeners = 0
  #running = false
  #timer: NodeJS.Timeout | undefined
  #news = createSignal()
  /** number of pages that are being read, and the readers that wait for their turn */
  #pages = 0
  readonly #turns: (() => void)[] = []

  constructor(client: Client, log: Log) {
    this.#client = client
    this.#log = log
    this.#horizon = createHorizon(client)
  }

  /**
   * Registers a listener for the events after `from` (undefined: from now on) of `resource` (undefined: of all resources).
   */
  listen(from: Position | undefined, resource: string | undefined): Listener {
    const cursor: Cursor = { position: from, resource }
    this.#listeners++
    if (!this.#running) this.#run()
    return {
      position: () => {
        cursor.position ??= this.#kept?.to
        return cursor.position
      },
      next: () => this.#next(cursor),
      waitForMore: async (within_ms, signal) => {
        const { position } = cursor
        const available = this.#kept && (position === undefined || comparePositions(position, this.#kept.to) < 0)
        if (!available) await this.#news.wait({ within_ms, signal })
      },
      close: () => {
        this.#listeners--
      },
    }
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  #run(): void {
    this.#running = true
    this.#poll()
      .catch((error) => this.#log.debug({ error }, 'outbox poll failed; will retry'))
      .finally(() => {
        if (this.#listeners > 0) {
          this.#timer = setTimeout(() => this.#run(), this.#horizon.waiting() ? SOON_MS : POLL_MS)
        } else {
          this.#running = false
          this.#kept = undefined
        }
      })
  }

  /**
   * Reads the events after those of the last poll up to the horizon, the id below which no further row can become visible.
   * The first poll only finds the end of the outbox.
   */
  async #poll(): Promise<void> {
    const final = await this.#horizon.poll()
    if (final === undefined) return
    let kept = this.#kept
    if (kept === undefined) {
      kept = { from: endOfRow(final), to: endOfRow(final), events: [] }
      this.#keep(kept)
    }
    for (let more = kept.to.id < final; more && this.#listeners > 0; ) {
      const page = await readEvents(this.#client, { after: kept.to, horizon: final })
      const events: Kept['events'] = [
        ...kept.events,
        ...page.events.map((event) => ({ at: parseEventId(event.id), event })),
      ]
      const dropped = events.length > KEPT ? events[events.length - KEPT - 1] : undefined
      kept = { from: dropped?.at ?? kept.from, to: page.end, events: events.slice(-KEPT) }
      more = page.more
      this.#keep(kept)
    }
  }

  #keep(kept: Kept): void {
    this.#kept = kept
    const previous = this.#news
    this.#news = createSignal()
    previous.fire()
  }

  async #next(cursor: Cursor): Promise<Event[]> {
    while (this.#kept) {
      cursor.position ??= this.#kept.to
      if (comparePositions(cursor.position, this.#kept.to) >= 0) return []
      const behind = comparePositions(cursor.position, this.#kept.from) < 0
      const events = behind
        ? await this.#storedEvents(cursor, cursor.position, this.#kept.from)
        : keptEvents(cursor, cursor.position, this.#kept)
      if (events.length > 0) return events
    }
    return []
  }

  /** Reads events that are no longer in memory, up to `upto`, from Postgres. */
  async #storedEvents(cursor: Cursor, after: Position, upto: Position): Promise<Event[]> {
    const page = await this.#readPage(after, upto, cursor.resource)
    const { dropped } = await outboxBounds(this.#client)
    // The listener must not skip events that were pruned during the read: it fails, and its client reconnects and gets 410.
    if (after.id > 0 && after.id < dropped) throw new Error('these events are no longer stored')
    cursor.position = page.end
    return page.events
  }

  async #readPage(after: Position, upto: Position, resource: string | undefined) {
    if (this.#pages >= PAGES_AT_ONCE) await new Promise<void>((resolve) => this.#turns.push(resolve))
    this.#pages++
    try {
      return await readEvents(this.#client, { after, horizon: upto.id, resource })
    } finally {
      this.#pages--
      this.#turns.shift()?.()
    }
  }
}

function keptEvents(cursor: Cursor, after: Position, { events, to }: Kept): Event[] {
  let first = events.length
  while (first > 0 && comparePositions(events[first - 1]?.at ?? after, after) > 0) first--
  const some = events.slice(first, first + AT_ONCE)
  cursor.position = some.length < AT_ONCE ? to : (some.at(-1)?.at ?? to)
  const { resource } = cursor
  return some.map((one) => one.event).filter((one) => resource === undefined || one.resource === resource)
}
