/**
 * Holds back nudges of hot queues. The worker of a hot queue has announced that it will poll the queue again, so a nudge would
 * be a job that costs API, Redis and worker time and finds no further row. Invariant: a nudge that is held back is sent as soon
 * as the worker announces that it has left the queue, or has announced nothing for SILENT_MS.
 */
import type { Redis } from 'ioredis'
import type { Log } from '../../shared/log.ts'
import { hotQueueChannel, parseHotQueue, subscribe } from '../../shared/redis.ts'

/**
 * Milliseconds without a message after which the worker may have died: many batches, and less than the second after which the
 * sweeper nudges.
 */
const SILENT_MS = 500

export interface NudgeGateDeps {
  /** the caller closes it */
  subscriber: Redis
  redis_prefix: string
  nudge(resources: Iterable<string>): void
  log: Log
}

export function createNudgeGate({ subscriber, redis_prefix, nudge, log }: NudgeGateDeps) {
  const hotQueues = new Map<string, { silence: NodeJS.Timeout; held_back: boolean }>()

  function onCooled(resource: string): void {
    const hot = hotQueues.get(resource)
    if (!hot) return
    hotQueues.delete(resource)
    clearTimeout(hot.silence)
    if (hot.held_back) nudge([resource])
  }

  let closed = false
  const onMessage = (message: string) => {
    if (closed) return
    const { resource, hot } = parseHotQueue(message)
    if (!hot) return onCooled(resource)
    const known = hotQueues.get(resource)
    if (known) known.silence.refresh()
    else hotQueues.set(resource, { silence: setTimeout(onCooled, SILENT_MS, resource), held_back: false })
  }
  subscribe(subscriber, hotQueueChannel(redis_prefix), onMessage, (error) =>
    log.debug({ error }, 'hot-queue channel subscription failed; nudges are not held back'),
  )

  return {
    /** Passes nudges on to the workers, except those of hot queues, which it holds back. */
    nudge(resources: Iterable<string>): void {
      const now: string[] = []
      for (const resource of resources) {
        const hot = hotQueues.get(resource)
        // Stays true while the queue is hot: a poll that was under way when the row committed may have missed it.
        if (hot) hot.held_back = true
        else now.push(resource)
      }
      nudge(now)
    },
    /** Sends the nudges that were held back; later nudges are sent at once. */
    close(): void {
      closed = true
      for (const resource of [...hotQueues.keys()]) onCooled(resource)
    },
  }
}
