/**
 * Peer: one job per purchase and a processor that does nothing. No design with one job per purchase can settle more,
 * whatever its processor does.
 */
import { Worker } from 'bullmq'
import { Redis } from 'ioredis'
import { PEER_QUEUE, type Purchase, reportSettled } from './settled-counter.ts'

const { REDIS_URL = '', REDIS_PREFIX = '', PEER_CONCURRENCY = '' } = process.env
const connection = new Redis(REDIS_URL, { maxRetriesPerRequest: null })
const worker = new Worker<Purchase>(PEER_QUEUE, async () => {}, {
  connection,
  prefix: REDIS_PREFIX,
  concurrency: Number(PEER_CONCURRENCY),
})
reportSettled(worker, async () => connection.disconnect())
