/**
 * Graceful shutdown. Invariants: every step runs, even when an earlier step hangs, and the process ends by the deadline; the
 * server resets no connection during a request, and answers requests that still arrive.
 */
import { Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Log } from './log.ts'

/** One step of the shutdown. `within_ms`: time after which the next step runs. */
export type Step = readonly [name: string, run: (within_ms: number) => unknown]

/** Milliseconds reserved for each later step. */
const RESERVED_MS = 500

/** Share of the deadline for all steps together, so that the last step ends before the deadline. */
const FOR_STEPS = 0.95

/** Runs the steps one after the other. A step that fails or times out is logged and abandoned. */
export async function runSteps(log: Log, steps: readonly Step[], within_ms: number): Promise<void> {
  const end = performance.now() + within_ms
  const reserved_ms = Math.min(RESERVED_MS, within_ms / (2 * steps.length))
  for (const [i, [step, run]] of steps.entries()) {
    const left_ms = Math.max(reserved_ms, end - performance.now() - reserved_ms * (steps.length - 1 - i))
    const over = new AbortController()
    const late = async () => {
      await sleep(left_ms, undefined, { signal: over.signal })
      throw new Error(`not done within ${Math.round(left_ms)} ms`)
    }
    try {
      await Promise.race([run(left_ms), late()])
    } catch (error) {
      log.warn({ error, step }, 'shutdown step failed; continuing with the next')
    } finally {
      over.abort()
    }
  }
}

/** Runs the steps once at SIGTERM or SIGINT, then exits with 0, or with 1 when `deadline_ms` passes first. */
export function onStop(log: Log, deadline_ms: number, steps: readonly Step[]): void {
  let stopping = false
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) return
    stopping = true
    log.info({ signal }, 'stopping')
    setTimeout(() => {
      log.error({ deadline_ms }, 'shutdown deadline exceeded, exiting')
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
 * Milliseconds in which open connections may still send a request after the server has stopped accepting new connections. A
 * client that got its last response before the stop may be sending its next request: closing the connection would reset it.
 */
const QUIET_MS = 1_000
/** Milliseconds between checks of the open connections. */
const POLL_MS = 20

export interface ConnectionDrain {
  /** From now on each response has `Connection: close`; new connections are still accepted. */
  announceClose(): void
  /** Registers a step that ends long requests; it runs once no new connection is accepted. */
  onDrain(step: () => void): void
  /** Stops accepting connections, waits for open requests, and closes the server; after within_ms it closes by force. */
  drain(within_ms: number): Promise<void>
}

/**
 * Adds the hooks. Call it before routes and other hooks are registered. The server answers while it closes
 * (return503OnClosing: false).
 */
export function createConnectionDrain(app: FastifyInstance): ConnectionDrain {
  let leaving = false
  const steps: (() => void)[] = []
  app.addHook('onRequest', (_request, reply, done) => {
    // Set the header on the raw response too, for handlers that hijack the reply.
    if (leaving) reply.raw.setHeader('connection', 'close')
    done()
  })
  // This hook is for requests that were open when the shutdown began.
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
      // Do not use the close of http.Server, which also closes idle connections at once.
      if (app.server.listening) Server.prototype.close.call(app.server)
      for (const step of steps) step()
      const quiet = performance.now() + Math.min(QUIET_MS, within_ms / 2)
      while (performance.now() < quiet && (await connections()) > 0) await sleep(POLL_MS)
      // Every response since the stop has `Connection: close`, so connections that are idle now have been idle for long.
      const idle = setInterval(() => app.server.closeIdleConnections(), POLL_MS)
      const late = setTimeout(() => app.server.closeAllConnections(), Math.max(0, end - performance.now() - POLL_MS))
      try {
        await app.close()
      } finally {
        clearInterval(idle)
        clearTimeout(late)
      }
    },
  }
}
