/**
 * Nudges of lines that flow are held back: the worker that has such a line says that it will look again, so a job that
 * asks it to costs three processes a job and tells nothing. Invariant: a nudge that is held back is sent as soon as the
 * worker says that it has left the line, or has said nothing for a while.
 */
import type { Redis } from 'ioredis'
import type { Log } from '../../shared/log.ts'
import { hotQueueChannel, parseHotQueue } from '../../shared/queues.ts'

/** Milliseconds without a word of the worker after which it may be gone: many batches, and less than the sweeper takes. */
const SILENT_MS = 500

export interface FlowDeps {
  /** stays the caller's to close */
  subscriber: Redis
  redis_prefix: string
  nudge(resources: Iterable<string>): void
  log: Log
}

export function createFlow({ subscriber, redis_prefix, nudge, log }: FlowDeps) {
  const flowing = new Map<string, { silent: NodeJS.Timeout; held_back: boolean }>()
  const channel = hotQueueChannel(redis_prefix)

  function over(resource: string): void {
    const line = flowing.get(resource)
    if (!line) return
    flowing.delete(resource)
    clearTimeout(line.silent)
    if (line.held_back) nudge([resource])
  }

  const subscribe = () => {
    subscriber.subscribe(channel).catch((error) => log.debug({ error }, 'lines that flow are nudged as others are'))
  }
  // Again after every reconnect: a subscription does not outlive its connection.
  subscriber.on('ready', subscribe)
  if (subscriber.status === 'ready') subscribe()
  let closed = false
  subscriber.on('message', (from: string, message: string) => {
    if (from !== channel || closed) return
    const { resource, flows } = parseHotQueue(message)
    if (!flows) return over(resource)
    const line = flowing.get(resource)
    if (line) line.silent.refresh()
    else flowing.set(resource, { silent: setTimeout(over, SILENT_MS, resource), held_back: false })
  })

  return {
    /** As the nudger's. */
    nudge(resources: Iterable<string>): void {
      const now: string[] = []
      for (const resource of resources) {
        const line = flowing.get(resource)
        // Stays true while the line flows: of a look that was under way when the row came, nobody knows what it found.
        if (line) line.held_back = true
        else now.push(resource)
      }
      nudge(now)
    },
    /** Sends what was held back, and holds nothing back any more. */
    close(): void {
      closed = true
      for (const resource of [...flowing.keys()]) over(resource)
    },
  }
}
