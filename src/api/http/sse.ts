/**
 * Server-sent events as text (HTML Living Standard §9.2). Invariant: a stream is pulled, never pushed: it reads its source
 * when the connection has taken the earlier chunks, so a slow client costs a few chunks of memory and delays no other client.
 * Written here because @fastify/sse requires a newer Node than this project.
 */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { Problem } from '../../shared/problem.ts'

export interface Frame {
  /** the client sends it back as Last-Event-ID */
  id?: string
  event?: string
  /** must not contain a line break */
  data?: string
}

/**
 * Returns a frame as text. A frame without data is not an event: it moves the client's Last-Event-ID and keeps the connection
 * alive.
 */
export function frame({ id, event, data }: Frame): string {
  const lines = [id && `id: ${id}`, event && `event: ${event}`, data === undefined ? ': alive' : `data: ${data}`]
  return `${lines.filter(Boolean).join('\n')}\n\n`
}

/** Milliseconds after which a client reconnects when its stream has ended. */
const RETRY_MS = 1_000
export const HELLO = `retry: ${RETRY_MS}\n`

/**
 * Manages the streams of one route, at most `most` at once. A stream ends when its client disconnects or this process begins
 * to drain. `open` sends what the source yields; the source must end soon after its signal aborts.
 */
export function createStreams(app: Pick<FastifyInstance, 'door'>, most: number) {
  /**
   * Controllers that end the open streams, one per stream: a shared signal would retain the listeners of every past stream.
   */
  const ends = new Set<AbortController>()
  let stopping = false
  // Streams do not end by themselves, so shutdown must end them.
  app.door.onDrain(() => {
    stopping = true
    for (const one of ends) one.abort()
  })
  return {
    /** Checks that another stream may be opened; call it before any other work for the stream. @throws Problem 503 */
    assertCapacity(): void {
      if (ends.size >= most) {
        throw new Problem(503, 'too_many_streams', 'This process has reached its limit of streams.', { retry_after: 5 })
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
        // Without this header nginx would buffer the events.
        .header('x-accel-buffering', 'no')
      // HEAD gets only the headers.
      if (reply.request.method === 'HEAD') return reply.send()
      return reply.send(Readable.from(source(end.signal), { objectMode: true, highWaterMark: 1 }))
    },
  }
}
