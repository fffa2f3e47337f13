/** Child processes of a benchmark. Invariant: this module ends every process that it has started, and no other. */
import { join } from 'node:path'
import { startChild, untilReady } from '../../ops/dev/child-process.mjs'
import { ROOT } from '../../ops/dev/install.mjs'
import { isConfiguration } from '../../src/shared/config.ts'

/** Characters of a process's output that are kept for the error message if it ends by itself. */
const TAIL = 4_000

export interface NodeProcess {
  readonly name: string
  readonly pid: number
  /** Resolves with the next message of the name `wanted`. Rejects if the process ends first. */
  next<T>(wanted: string): Promise<T>
  /** Sends a message and resolves with the answer, which has the same name. */
  ask<T>(question: string, detail?: object): Promise<T>
  /** Resolves when the URL answers 200. Rejects if the process ends before or does not answer within a minute. */
  ready(url: string): Promise<void>
  stop(): Promise<void>
}

export interface NodeOptions {
  name: string
  /** path from the root of the checkout */
  entry: string
  env?: Record<string, string>
  /** further arguments of node */
  flags?: readonly string[]
}

/**
 * The environment without variables that configure Holdfast or Node, so that a shell's settings do not affect a
 * benchmark.
 */
const inherited = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !isConfiguration(name) && !name.startsWith('NODE_')),
)

export function startNode({ name, entry, env = {}, flags = [] }: NodeOptions): NodeProcess {
  // The same young generation as in `npm run api` and the other scripts, for all compared systems.
  const words = [process.execPath, ...flags, '--max-semi-space-size=32', '--import=tsx', join(ROOT, entry)]
  const child = startChild(words, { env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
  let tail = ''
  for (const stream of [child.process.stdout, child.process.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      tail = (tail + chunk).slice(-TAIL)
    })
  }

  function next<T>(wanted: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const onMessage = (message: unknown) => {
        const { type, ...rest } = message as { type: string }
        if (type !== wanted) return
        child.process.off('message', onMessage)
        resolve(rest as T)
      }
      child.process.on('message', onMessage)
      void child.exited.then((how) => reject(new Error(`${name} ended (${how})${tail ? `:\n${tail}` : ''}`)))
    })
  }

  return {
    name,
    pid: child.pid,
    next,
    ask<T>(question: string, detail: object = {}) {
      const answer = next<T>(question)
      child.process.send({ type: question, ...detail })
      return answer
    },
    ready: (url) => untilReady(child, url, () => `${name}: ${tail}`),
    stop: () => child.stop(),
  }
}
