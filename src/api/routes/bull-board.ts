/**
 * Bull Board at /admin/queues: BullMQ's own jobs, for who keeps the fleet running. Invariant: nothing of it is loaded or
 * connected before an admin has opened it. What is done there to a job is done to a hint: purchases are rows.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Queue } from 'bullmq'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Log } from '../../shared/log.ts'
import { bullPrefix, openRedis, PAYMENTS, QUEUE, WEBHOOKS } from '../../shared/queues.ts'

const PATH = '/admin/queues'
/** Its page has styles of its own inline, and its configuration as JSON. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'self'; frame-ancestors 'none'"

export interface Board {
  handle(request: IncomingMessage, response: ServerResponse): void
  close(): Promise<void>
}

export interface BoardDeps {
  openBoard(): Promise<Board>
}

/** @param authorize throws for a request without an admin's password */
export function boardRoutes(
  app: FastifyInstance,
  { openBoard }: BoardDeps,
  authorize: (request: FastifyRequest, reply: FastifyReply) => Promise<void>,
): void {
  let board: Promise<Board> | undefined
  app.addHook('onClose', async () => {
    await (await board?.catch(() => undefined))?.close()
  })
  for (const url of [PATH, `${PATH}/*`]) {
    app.route({
      method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      url,
      schema: { hide: true },
      // The whole answer is given here, before a body is read: that is the board's to do.
      async onRequest(request, reply) {
        await authorize(request, reply)
        board ??= openBoard().catch((error) => {
          board = undefined
          throw error
        })
        const { handle } = await board
        reply.hijack()
        handle(request.raw, reply.raw)
      },
      handler: () => {},
    })
  }
}

interface OpenBoardDeps {
  redis_url: string
  redis_prefix: string
  log: Log
}

/** An application of its own behind the same port: its errors, parsers and pages have nothing to do with those of the API. */
export async function openBoard({ redis_url, redis_prefix, log }: OpenBoardDeps): Promise<Board> {
  const { createBullBoard } = await import('@bull-board/api')
  const { BullMQAdapter } = await import('@bull-board/api/bullMQAdapter')
  const { FastifyAdapter } = await import('@bull-board/fastify')
  const connection = openRedis(redis_url, log, { commandTimeout: 5_000, enableOfflineQueue: true })
  const queues = [QUEUE, PAYMENTS, WEBHOOKS].map(
    (name) => new Queue(name, { connection, prefix: bullPrefix(redis_prefix), skipVersionCheck: true }),
  )
  for (const queue of queues) queue.on('error', () => {})
  const adapter = new FastifyAdapter()
  createBullBoard({ queues: queues.map((queue) => new BullMQAdapter(queue)), serverAdapter: adapter })
  adapter.setBasePath(PATH)
  const app = Fastify()
  app.addHook('onSend', async (_request, reply) => {
    reply.headers({
      'content-security-policy': POLICY,
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-cache',
    })
  })
  await app.register(adapter.registerPlugin(), { prefix: PATH })
  await app.ready()
  return {
    handle: (request, response) => app.routing(request, response),
    async close() {
      await app.close()
      await Promise.all(queues.map((queue) => queue.close()))
      connection.disconnect()
    },
  }
}
