/**
 * Graceful stop. Invariants: every step has its turn, also when one before it hangs, and the process ends by the deadline;
 * no connection is reset under a request, and what still arrives is answered.
 */
import { Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Log } from './log.ts'

/** `within_ms`: what it has until the next step has its turn. */
export type Step = readonly [name: string, run: (within_ms: number) => unknown]

/** Milliseconds that are kept for each later step. */
const KEPT_MS = 500

/** Of the deadline, so that the last step's is not after it. */
const FOR_STEPS = 0.95

/** Runs the steps one after the other. One that fails or takes too long is named in the log, and left. */
export async function runSteps(log: Log, steps: readonly Step[], within_ms: number): Promise<void> {
  const end = performance.now() + within_ms
  const kept_ms = Math.min(KEPT_MS, within_ms / (2 * steps.length))
  for (const [i, [step, run]] of steps.entries()) {
    const left_ms = Math.max(kept_ms, end - performance.now() - kept_ms * (steps.length - 1 - i))
    const over = new AbortController()
    const late = async () => {
      await sleep(left_ms, undefined, { signal: over.signal })
      throw new Error(`not done within ${Math.round(left_ms)} ms`)
    }
    try {
      await Promise.race([run(left_ms), late()])
    } catch (error) {
      log.warn({ error, step }, 'a step of stopping failed; going on with the next')
    } finally {
      over.abort()
    }
  }
}

/** Runs the steps once at SIGTERM or SIGINT, then exits with 0; with 1 when even so `deadline_ms` is over first. */
export function onStop(log: Log, deadline_ms: number, steps: readonly Step[]): void {
  let stopping = false
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    setTimeout(() => {
      log.error({ deadline_ms }, 'not stopped by the deadline: leaving')
      process.exit(1)
    }, deadline_ms).unref()
    await runSteps(log, steps, deadline_ms * FOR_STEPS)
    log.info('stopped')
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}

/**
 * Milliseconds that connections have to send a request once no new one is taken. A client that has had its last answer
 * before the stop may be sending its next request: a connection that is closed then resets it.
 */
const QUIET_MS = 1_000
/** Milliseconds between looks at what is still open. */
const LOOK_MS = 20

export interface ConnectionDrain {
  /** From now on each answer tells its client to close the connection; new ones are taken all the same. */
  announceClose(): void
  /** For what would keep a request under way: run once no new connection is taken. */
  onDrain(step: () => void): void
  /** Takes no new connection, waits for the requests under way, and closes the server: by force when the time is over. */
  drain(within_ms: number): Promise<void>
}

/** To be called before routes and other hooks are registered. The server answers while it closes: return503OnClosing is false. */
export function createConnectionDrain(app: FastifyInstance): ConnectionDrain {
  let leaving = false
  const steps: (() => void)[] = []
  app.addHook('onRequest', (_request, reply, done) => {
    // On the raw response too: who hijacks it does not know of this.
    if (leaving) reply.raw.setHeader('connection', 'close')
    done()
  })
  // For requests that were under way when it began.
  app.addHook('onSend', (_request, reply, payload, done) => {
    if (leaving) reply.header('connection', 'close')
    done(null, payload)
  })
  const connections = () =>
    new Promise<number>((resolve) => app.server.getConnections((error, count) => resolve(error ? 0 : count)))

  return {
    announceClose() {
      leaving = true
    },
    onDrain: (step) => void steps.push(step),
    async drain(within_ms) {
      leaving = true
      const end = performance.now() + within_ms
      // Not http.Server's own close: that one also closes the connections that are idle just now.
      if (app.server.listening) Server.prototype.close.call(app.server)
      for (const step of steps) step()
      const quiet = performance.now() + Math.min(QUIET_MS, within_ms / 2)
      while (performance.now() < quiet && (await connections()) > 0) await sleep(LOOK_MS)
      // Whatever was asked since the stop began is answered with `Connection: close`: what is idle now has long been so.
      const idle = setInterval(() => app.server.closeIdleConnections(), LOOK_MS)
      const late = setTimeout(() => app.server.closeAllConnections(), Math.max(0, end - performance.now() - LOOK_MS))
      try {
        await app.close()
      } finally {
        clearInterval(idle)
        clearTimeout(late)
      }
    },
  }
}
