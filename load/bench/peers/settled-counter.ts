/** What the peers' workers share: their job, and the count of what they settled, asked for over IPC. */
import type { Worker } from 'bullmq'

export const PEER_QUEUE = 'purchases'

/** The body of a purchase. */
export interface Purchase {
  customer: string
  lines: { resource: string; units: number }[]
}

/** Milliseconds of one step of the timeline. */
export const STEP_MS = 250

/** What was settled since the last reset. */
export interface Settled {
  settled: number
  failed: number
  /** milliseconds since 1970; 0 when nothing was settled */
  last_ms: number
  /** [step since 1970, settled in it] */
  timeline: [number, number][]
}

/** Counts the worker's jobs; answers `settled` and `reset`, and closes it on SIGTERM. */
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
    // Forced: what it is at stays undone, as one transaction.
    await worker.close(true)
    await close()
    process.exit()
  })
  process.on('disconnect', () => process.exit())
  void worker.waitUntilReady().then(() => process.send?.({ type: 'up' }))
}
