/** Graceful stop. Invariant: the steps run in order and the process ends by the deadline, whatever hangs. */
import type { Log } from './log.ts'

/** Runs the steps once at SIGTERM or SIGINT, then exits with 0; with 1 when `deadline_ms` is over first. */
export function onStop(log: Log, deadline_ms: number, steps: readonly [name: string, step: () => unknown][]): void {
  let stopping = false
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    setTimeout(() => {
      log.error({ deadline_ms }, 'not stopped by the deadline: leaving')
      process.exit(1)
    }, deadline_ms).unref()
    for (const [name, step] of steps) {
      try {
        await step()
      } catch (error) {
        log.warn({ error, step: name }, 'a step of stopping failed')
      }
    }
    log.info('stopped')
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}
