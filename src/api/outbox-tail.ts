/**
 * The end of the outbox, read once for all clients of this process. Invariants: while nobody listens, nothing is asked;
 * however many listen, one reader asks Postgres, and whoever is behind it reads pages of its own, a few at a time.
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

/** Milliseconds between looks: what an event is late at most, beside its own way. */
const LOOK_MS = 100
/** The same while a transaction is on its way to its commit. */
const SOON_MS = 20
/** Events that are kept for those who are a little late. */
const KEPT = 5_000
/** Events handed over at once. */
const AT_ONCE = 500
/** Pages read at once for those who are further behind. */
const PAGES_AT_ONCE = 2

/** Rings once. */
function bell() {
  let ring = () => {}
  const rung = new Promise<void>((resolve) => {
    ring = () => resolve()
  })
  return { ring, rung }
}

export interface Listener {
  /** All before it was given; undefined: Postgres has not said yet where the end is. */
  position(): Position | undefined
  /** What comes next, in order; nothing when there is nothing yet. */
  next(): Promise<Event[]>
  /** Resolves when there may be more, after so many milliseconds, or when the signal aborts. */
  more(within_ms: number, signal: AbortSignal): Promise<void>
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
  let news = bell()
  let pages = 0
  const turns: (() => void)[] = []

  function tell(): void {
    const told = news
    news = bell()
    told.ring()
  }

  /** Reads what has become final since. The first look only says where the end is. */
  async function look(): Promise<void> {
    const final = await horizon.poll()
    if (final === undefined) return
    if (kept === undefined) {
      kept = { from: endOfRow(final), to: endOfRow(final), events: [] }
      tell()
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
      tell()
    }
  }

  function run(): void {
    running = true
    look()
      .catch((error) => log.debug({ error }, 'no look at the outbox; the next one makes up for it'))
      .finally(() => {
        if (listeners > 0) {
          timer = setTimeout(run, horizon.waiting() ? SOON_MS : LOOK_MS)
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

  /** From this place on, or from now on; of this resource, or of all. */
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
            // What was forgotten while it was read is not skipped: who comes back is told.
            if (position.id > 0 && position.id < dropped) throw new Error('these events are no longer kept')
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
      async more(within_ms, signal) {
        const there = kept && (position === undefined || comparePositions(position, kept.to) < 0)
        if (signal.aborted || there) return
        const over = bell()
        const late = setTimeout(over.ring, within_ms)
        signal.addEventListener('abort', over.ring, { once: true })
        await Promise.race([news.rung, over.rung])
        clearTimeout(late)
        signal.removeEventListener('abort', over.ring)
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
