/** Child processes of a benchmark. Invariant: what is started here is ended here, and nothing else is. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { ROOT } from '../../ops/dev/install.mjs'
import { isConfiguration } from '../../src/shared/config.ts'

/** Milliseconds a process has to come up on a machine that has much else to do, and to end after SIGTERM. */
const UP_MS = 60_000
const DOWN_MS = 20_000
/** Characters kept of what a process said, for the error message of one that ended by itself. */
const TAIL = 4_000

export interface NodeProcess {
  readonly name: string
  readonly pid: number
  /** The next message that `wanted` accepts; rejects when the process ends first. */
  next<T>(wanted: string): Promise<T>
  /** Sends a question and resolves with the message of the same name. */
  ask<T>(question: string, detail?: object): Promise<T>
  running(): boolean
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

const live = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of live) child.kill('SIGKILL')
})

/** Without what configures Holdfast or Node: a shell's settings must not decide how a benchmark ends. */
const inherited = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !isConfiguration(name) && !name.startsWith('NODE_')),
)

export function startNode({ name, entry, env = {}, flags = [] }: NodeOptions): NodeProcess {
  const path = join(ROOT, entry)
  // The young generation as `npm run api` and the rest set it: the same for all that are compared.
  const child = spawn(process.execPath, [...flags, '--max-semi-space-size=32', '--import=tsx', path], {
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  live.add(child)
  let said = ''
  const listen = (chunk: Buffer) => {
    said = (said + chunk).slice(-TAIL)
  }
  child.stdout?.on('data', listen)
  child.stderr?.on('data', listen)
  const ended = once(child, 'exit').then(([code, signal]) => {
    live.delete(child)
    return `${name} ended (${signal ?? `code ${code}`})${said ? `:\n${said}` : ''}`
  })

  function next<T>(wanted: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const hear = (message: unknown) => {
        const { type, ...rest } = message as { type: string }
        if (type !== wanted) return
        child.off('message', hear)
        resolve(rest as T)
      }
      child.on('message', hear)
      void ended.then((how) => reject(new Error(how)))
    })
  }

  return {
    name,
    pid: child.pid ?? 0,
    next,
    ask<T>(question: string, detail: object = {}) {
      const answer = next<T>(question)
      child.send({ type: question, ...detail })
      return answer
    },
    running: () => live.has(child),
    async stop() {
      if (!live.has(child)) return
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), DOWN_MS)
      await ended
      clearTimeout(timer)
    },
  }
}

/** Resolves when `url` answers 200; rejects when the process ends or UP_MS are over. */
export async function answers(server: NodeProcess, url: string): Promise<void> {
  const deadline = Date.now() + UP_MS
  while (Date.now() < deadline) {
    const response = await fetch(url).catch(() => undefined)
    if (response?.ok) return
    // Its message is the better one.
    if (!server.running()) await server.next('')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`${server.name} did not answer ${url} within ${UP_MS} ms`)
}
