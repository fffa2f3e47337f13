/**
 * Server-sent events as text (HTML Living Standard §9.2). Invariant: a stream is pulled, never pushed: its source is asked
 * for more when the client has taken what it was sent, so a slow client costs one piece of memory and nobody else.
 * Written here, for @fastify/sse asks for a newer Node than this project does.
 */
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'

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

/** Answers with what the source yields, until it ends. It has to end soon after the client has gone. */
export function stream(reply: FastifyReply, source: AsyncIterable<string>): FastifyReply {
  return (
    reply
      .type('text/event-stream; charset=utf-8')
      .header('cache-control', 'no-store, no-transform')
      // nginx would collect what is meant to be seen at once.
      .header('x-accel-buffering', 'no')
      .send(Readable.from(source, { objectMode: true, highWaterMark: 1 }))
  )
}
