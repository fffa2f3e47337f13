/**
 * Bull Board at /admin/queues: BullMQ's jobs, for operators. Invariant: the API does not load Bull Board or connect it before
 * an admin opens it. An operator who changes a job there only changes a hint, because purchases are rows in Postgres.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { openQueue, QUEUES } from '../../shared/jobs/bullmq.ts'
import type { Log } from '../../shared/log.ts'
import { openRedis } from '../../shared/redis.ts'

const PATH = '/admin/queues'
/** Content security policy of Bull Board: its page needs inline styles. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'self'; frame-ancestors 'none'"

export interface BullBoard {
  handle(request: IncomingMessage, response: ServerResponse): void
  close(): Promise<void>
}

interface BullBoardOptions {
  open(): Promise<BullBoard>
  /** throws for a request without an admin's password */
  authorize(request: FastifyRequest, reply: FastifyReply): Promise<void>
}

export async function bullBoardRoutes(app: FastifyInstance, { open, authorize }: BullBoardOptions): Promise<void> {
  let board: Promise<BullBoard> | undefined
  app.addHook('onClose', async () => {
    await (await board?.catch(() => undefined))?.close()
  })
  for (const url of [PATH, `${PATH}/*`]) {
    app.route({
      method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      url,
      schema: { hide: true },
      // Hijack the reply here, before Fastify reads a body: the board reads the body itself.
      async onRequest(request, reply) {
        await authorize(request, reply)
        board ??= open().catch((error) => {
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

/**
 * Opens the board in a separate Fastify instance behind the same port, so that its errors, parsers and pages stay separate.
 */
export async function openBullBoard(redis_url: string, redis_prefix: string, log: Log): Promise<BullBoard> {
  const { createBullBoard } = await import('@bull-board/api')
  const { BullMQAdapter } = await import('@bull-board/api/bullMQAdapter')
  const { FastifyAdapter } = await import('@bull-board/fastify')
  const connection = openRedis(redis_url, log, { commandTimeout: 5_000, enableOfflineQueue: true })
  const queues = Object.values(QUEUES).map((name) => openQueue(name, connection, redis_prefix))
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
