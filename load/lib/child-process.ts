/** Child processes of a benchmark. Invariant: what is started here is ended here, and nothing else is. */
import { join } from 'node:path'
import { startChild, untilReady } from '../../ops/dev/child-process.mjs'
import { ROOT } from '../../ops/dev/install.mjs'
import { isConfiguration } from '../../src/shared/config.ts'

/** Characters kept of what a process said, for the error message of one that ended by itself. */
const TAIL = 4_000

export interface NodeProcess {
  readonly name: string
  readonly pid: number
  /** The next message that `wanted` accepts; rejects when the process ends first. */
  next<T>(wanted: string): Promise<T>
  /** Sends a question and resolves with the message of the same name. */
  ask<T>(question: string, detail?: object): Promise<T>
  /** Resolves when the URL answers 200; rejects when the process ends before or takes a minute. */
  ready(url: string): Promise<void>
  stop(): Promise<void>
}

export interface NodeOptions {
  name: string
  /** path from the root of the checkout */
  entry: string
  env?: Record<string, string>
  /** further arguments of node itself */
  flags?: readonly string[]
}

/** Without what configures Holdfast or Node: a shell's settings must not decide how a benchmark ends. */
const inherited = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !isConfiguration(name) && !name.startsWith('NODE_')),
)

export function startNode({ name, entry, env = {}, flags = [] }: NodeOptions): NodeProcess {
  // The young generation as `npm run api` and the rest set it: the same for all that are compared.
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
