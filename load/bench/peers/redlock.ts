/**
 * Peer: one job per purchase, which does what tutorials show: redlock on the product, read the stock, write it back
 * with the order in one transaction, release.
 */
import { Worker } from 'bullmq'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import Redlock from 'redlock'
import { PEER_QUEUE, type Purchase, reportSettled } from './settled-counter.ts'

const { DATABASE_URL = '', REDIS_URL = '', REDIS_PREFIX = '', PEER_CONCURRENCY = '' } = process.env
/** TTL of a lock in milliseconds. */
const TTL_MS = 10_000
const concurrency = Number(PEER_CONCURRENCY)
const connection = new Redis(REDIS_URL, { maxRetriesPerRequest: null })
const redis = new Redis(REDIS_URL)
const sql = postgres(DATABASE_URL, { max: Math.min(concurrency, 20), onnotice: () => {} })
// Delays as in redlock's README, but practically unlimited retries, so that no purchase fails because it waits too
// long.
const redlock = new Redlock([redis], { driftFactor: 0.01, retryCount: 10_000, retryDelay: 200, retryJitter: 200 })
// redlock emits an event for each failed attempt and retries. Ignore the events.
redlock.on('error', () => {})

const worker = new Worker<Purchase>(
  PEER_QUEUE,
  async ({ id, data }) => {
    const [line] = data.lines
    if (!line) throw new Error('a purchase has a line')
    const lock = await redlock.acquire([`${REDIS_PREFIX}lock:${line.resource}`], TTL_MS)
    try {
      await sql.begin(async (tx) => {
        const [product] = await tx<{ stock: number }[]>`SELECT stock FROM products WHERE ref = ${line.resource}`
        if (!product || product.stock < line.units) throw new Error('sold out')
        await tx`UPDATE products SET stock = ${product.stock - line.units} WHERE ref = ${line.resource}`
        await tx`INSERT INTO orders (id, product, customer, units)
                 VALUES (${id ?? ''}, ${line.resource}, ${data.customer}, ${line.units})`
      })
    } finally {
      await lock.release()
    }
  },
  { connection, prefix: REDIS_PREFIX, concurrency },
)
reportSettled(worker, async () => {
  connection.disconnect()
  redis.disconnect()
  await sql.end({ timeout: 1 })
})
