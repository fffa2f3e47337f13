/**
 * Server-sent events as text (HTML Living Standard §9.2). Invariant: a stream is pulled, never pushed: its source is asked
 * for more when the client has taken what it was sent, so a slow client costs one piece of memory and nobody else.
 * Written here, for @fastify/sse asks for a newer Node than this project does.
 */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { Problem } from '../../shared/problem.ts'

export interface Frame {
  /** what the client sends back as Last-Event-ID */
  id?: string
  event?: string
  /** one line */
  data?: string
}

/** Without data it is no event: then it only moves the client's Last-Event-ID, and shows that the line is alive. */
export function frame({ id, event, data }: Frame): string {
  const lines = [id && `id: ${id}`, event && `event: ${event}`, data === undefined ? ': alive' : `data: ${data}`]
  return `${lines.filter(Boolean).join('\n')}\n\n`
}

/** Milliseconds after which a client that lost the stream comes again. */
const RETRY_MS = 1_000
export const HELLO = `retry: ${RETRY_MS}\n`

/**
 * The streams of one route: so many at once, and none outlives its client or this process. `open` answers with what the
 * source yields until it ends, which has to be soon after its signal has aborted.
 */
export function createStreams(app: FastifyInstance, most: number) {
  /** Of the streams there are: what ends them. Each its own: one signal for all would keep what was ever fed by it. */
  const ends = new Set<AbortController>()
  let stopping = false
  // These do not end by themselves.
  app.door.onDrain(() => {
    stopping = true
    for (const one of ends) one.abort()
  })
  return {
    /** @throws Problem when there are too many; to be asked before anything is done for one more */
    assertCapacity(): void {
      if (ends.size >= most) {
        throw new Problem(503, 'too_many_streams', 'This process has all the streams it can have.', { retry_after: 5 })
      }
    },
    open(reply: FastifyReply, source: (gone: AbortSignal) => AsyncIterable<string>): FastifyReply {
      const end = new AbortController()
      if (stopping) end.abort()
      ends.add(end)
      reply.raw.once('close', () => {
        ends.delete(end)
        end.abort()
      })
      reply
        .type('text/event-stream; charset=utf-8')
        .header('cache-control', 'no-store, no-transform')
        // nginx would collect what is meant to be seen at once.
        .header('x-accel-buffering', 'no')
      // HEAD wants the headers alone.
      if (reply.request.method === 'HEAD') return reply.send()
      return reply.send(Readable.from(source(end.signal), { objectMode: true, highWaterMark: 1 }))
    },
  }
}
