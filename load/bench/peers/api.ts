/**
 * The API of the peers: the same Fastify, the same body and checks, one BullMQ job per purchase. Most shops that sell
 * through a queue work like this: the job is the purchase. It answers 202 when Redis has the job, and with Prefer: wait
 * 201 when BullMQ's events report the job as finished.
 */
import { Queue, QueueEvents } from 'bullmq'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { PEER_QUEUE, type Purchase } from './settled-counter.ts'

const { REDIS_URL = '', REDIS_PREFIX = '', PORT = '0' } = process.env
const connection = new Redis(REDIS_URL, { maxRetriesPerRequest: null })
const queue = new Queue<Purchase>(PEER_QUEUE, {
  connection,
  prefix: REDIS_PREFIX,
  // Keep finished jobs for a while, because a caller that waits for a job reads it once more.
  defaultJobOptions: { removeOnComplete: 1_000 },
})

const events = new QueueEvents(PEER_QUEUE, { connection, prefix: REDIS_PREFIX })

const app = Fastify({ logger: false, bodyLimit: 256 * 1024 })
app.get('/readyz', async () => ({ status: 'ready', redis: await connection.ping() }))
app.post<{ Body: Purchase }>(
  '/api/purchases',
  {
    schema: {
      body: {
        type: 'object',
        additionalProperties: false,
        required: ['customer', 'lines'],
        properties: {
          customer: { type: 'string', minLength: 1, maxLength: 200 },
          lines: {
            type: 'array',
            minItems: 1,
            maxItems: 100,
            items: {
              type: 'object',
              additionalProperties: false,
              required: ['resource', 'units'],
              properties: {
                resource: { type: 'string', pattern: '^[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~-]{1,128}$' },
                units: { type: 'integer', minimum: 1, maximum: 1_000_000_000 },
              },
            },
          },
          payment: { type: 'object', required: ['method'], properties: { method: { type: 'string' } } },
        },
      },
      response: {
        '2xx': { type: 'object', properties: { id: { type: 'string' }, status: { type: 'string' } } },
      },
    },
  },
  async (request, reply) => {
    const job = await queue.add('purchase', request.body)
    const { id } = job
    if (request.headers.prefer !== undefined) {
      await job.waitUntilFinished(events, 30_000)
      return reply.code(201).send({ id, status: 'confirmed' })
    }
    return reply.code(202).header('location', `/api/purchases/${id}`).send({ id, status: 'queued' })
  },
)

process.on('SIGTERM', async () => {
  await app.close()
  await events.close()
  await queue.close()
  connection.disconnect()
  process.exit()
})
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
