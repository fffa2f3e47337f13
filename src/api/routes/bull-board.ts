/**
 * Bull Board at /admin/queues: BullMQ's jobs, for operators. Invariant: the API does not load Bull Board or connect it before
 * an admin opens it. An operator who changes a job there only changes a hint, because purchases are rows in Postgres.
 * The dashboard links to /admin/queues/queue/{name} with the names of QUEUES.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { UIConfig } from '@bull-board/api/typings/app'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { openQueue, QUEUES } from '../../shared/jobs/bullmq.ts'
import type { Log } from '../../shared/log.ts'
import { openRedis } from '../../shared/redis.ts'

const PATH = '/admin/queues'
/** Content security policy of Bull Board: its page needs inline styles. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'self'; frame-ancestors 'none'"

const FONTS = { 'font-sans': 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', 'font-mono': 'monospace' }
/** Bull Board's texts and colours: those of the dashboard. */
const UI: UIConfig = {
  boardTitle: 'Holdfast jobs',
  boardLogo: { path: '/dashboard/icon.svg', width: 24, height: 24 },
  favIcon: { default: '/dashboard/icon.svg', alternative: '/dashboard/icon.svg' },
  miscLinks: [{ text: 'Dashboard', url: '/' }],
  hideDocsLink: true,
  theme: {
    light: { ...FONTS, background: '#f6f7f8', foreground: '#1b2026', primary: '#175a99', 'sidebar-primary': '#175a99' },
    dark: { ...FONTS, background: '#101418', foreground: '#e7eaed', primary: '#79b8f3', 'sidebar-primary': '#79b8f3' },
  },
}

export interface BullBoard {
  handle(request: IncomingMessage, response: ServerResponse): void
  close(): Promise<void>
}

/** What the board says about each queue. `title` of a job is what its data names. */
const SHOWN: Record<keyof typeof QUEUES, { displayName: string; description: string; title(data: JobData): string }> = {
  nudges: {
    displayName: 'Nudges: rows to settle',
    description:
      'A job names resources whose queues have rows; a worker then settles them. The rows are in Postgres: if a job is lost ' +
      'or removed, the sweeper nudges the queue again.',
    title: ({ resources = [] }) => resources.join(', '),
  },
  charges: {
    displayName: 'Charges: next steps',
    description:
      'A job names a purchase or a booking whose charge is to be made, captured, refunded or cancelled. The state of the ' +
      'charge is in Postgres: the sweeper adds a lost job again.',
    title: ({ id = '' }) => id,
  },
  webhooks: {
    displayName: 'Webhooks: events to deliver',
    description:
      'A job names a delivery stream: the events of one resource for one endpoint, in order. Its cursor is in Postgres.',
    title: ({ resource = '' }) => resource,
  },
}

/** Data of a job of any queue, as far as the board names it. */
interface JobData {
  resources?: string[]
  resource?: string
  id?: string
}

/** Removes the link to the web fonts of a server outside: the page then uses this machine's fonts. */
const withoutWebFonts = (html: string) => html.replace(/<link href="https:[^>]*>/g, '')

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
  const queues = (Object.keys(QUEUES) as (keyof typeof QUEUES)[]).map((key) => ({
    queue: openQueue(QUEUES[key], connection, redis_prefix),
    shown: SHOWN[key],
  }))
  const adapter = new FastifyAdapter()
  const adapters = queues.map(({ queue, shown: { displayName, description, title } }) => {
    const one = new BullMQAdapter(queue, { displayName, description })
    one.setFormatter('name', (job) => title(job.data) || job.name)
    return one
  })
  createBullBoard({ queues: adapters, serverAdapter: adapter, options: { uiConfig: UI } })
  adapter.setBasePath(PATH)
  const app = Fastify()
  app.addHook('onSend', async (_request, reply, payload) => {
    reply.headers({
      'content-security-policy': POLICY,
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-cache',
    })
    return typeof payload === 'string' && payload.startsWith('<') ? withoutWebFonts(payload) : payload
  })
  await app.register(adapter.registerPlugin(), { prefix: PATH })
  await app.ready()
  return {
    handle: (request, response) => app.routing(request, response),
    async close() {
      await app.close()
      await Promise.all(queues.map(({ queue }) => queue.close()))
      connection.disconnect()
    },
  }
}
