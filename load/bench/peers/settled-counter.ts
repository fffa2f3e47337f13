/**
 * Parts that the peers' workers share: the type of their job, and the count of settled purchases, which the benchmark
 * requests over IPC.
 */
import type { Worker } from 'bullmq'

export const PEER_QUEUE = 'purchases'

/** The body of a purchase. */
export interface Purchase {
  customer: string
  lines: { resource: string; units: number }[]
}

/** Length of one step of the timeline, in milliseconds. */
export const STEP_MS = 250

/** Purchases settled since the last reset. */
export interface Settled {
  settled: number
  failed: number
  /** time of the last settlement, in milliseconds since 1970; 0 if nothing was settled */
  last_ms: number
  /** [step since 1970, purchases settled in it] */
  timeline: [number, number][]
}

/** Counts the worker's jobs, answers the messages `settled` and `reset`, and closes the worker on SIGTERM. */
export function reportSettled(worker: Worker<Purchase>, close: () => Promise<unknown>): void {
  const none = (): Settled => ({ settled: 0, failed: 0, last_ms: 0, timeline: [] })
  let count = none()
  worker.on('completed', () => {
    const now = Date.now()
    const step = Math.floor(now / STEP_MS)
    count.settled++
    count.last_ms = now
    const last = count.timeline.at(-1)
    if (last?.[0] === step) last[1]++
    else count.timeline.push([step, 1])
  })
  worker.on('failed', (_job, error) => {
    count.failed++
    process.stderr.write(`${error.message}\n`)
  })
  worker.on('error', (error) => process.stderr.write(`${error.message}\n`))
  process.on('message', ({ type }: { type: string }) => {
    if (type === 'reset') count = none()
    process.send?.({ type, ...count })
  })
  process.on('SIGTERM', async () => {
    // Close without waiting: the current job is one transaction, so it is rolled back.
    await worker.close(true)
    await close()
    process.exit()
  })
  process.on('disconnect', () => process.exit())
  void worker.waitUntilReady().then(() => process.send?.({ type: 'up' }))
}
