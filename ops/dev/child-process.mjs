/**
 * The child processes that npm start, npm test, test files and benchmarks start: servers, APIs, workers and load
 * generators. Invariant: a child ends together with the process that started it, unless that process ends without the
 * event 'exit': by SIGKILL, by a signal that it does not handle (such as SIGHUP), or by an abort.
 */
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds that a process has to answer, generous because the machine may be busy. */
const READY_MS = 60_000
/**
 * Milliseconds between two requests to a process that starts. Each request costs a millisecond or two of processor time,
 * which the processes that start need.
 */
const POLL_MS = 100
/** Time limit of one request, in milliseconds. */
const ANSWER_MS = 2_000
/** Milliseconds between the signal that asks a process to end and SIGKILL. */
const STOP_MS = 20_000

/**
 * The running children, each with the signal that ends it when this process ends. This process does not wait for them
 * then.
 */
const live = new Map()
process.on('exit', () => {
  for (const [child, signal] of live) child.kill(signal)
})

/** @see child-process.d.mts */
export function startChild([command, ...args], { lastSignal = 'SIGKILL', ...options }) {
  const child = spawn(command, args, options)
  live.set(child, lastSignal)
  const ended = (event) =>
    new Promise((resolve) => {
      child.once(event, (code, signal) => resolve(signal ?? `code ${code}`))
      child.once('error', (error) => resolve(error.message))
    })
  const [exited, closed] = [ended('exit'), ended('close')]
  void exited.then(() => live.delete(child))
  return {
    process: child,
    pid: child.pid ?? 0,
    exited,
    closed,
    running: () => live.has(child),
    kill: (signal) => void child.kill(signal),
    async stop(signal = 'SIGTERM', deadline_ms = STOP_MS) {
      if (!live.has(child)) return
      // A frozen process handles its signal only after it is woken.
      child.kill('SIGCONT')
      child.kill(signal)
      const timer = setTimeout(() => child.kill('SIGKILL'), deadline_ms)
      await exited
      clearTimeout(timer)
    },
  }
}

/** @see child-process.d.mts */
export async function answers(url, timeout_ms = ANSWER_MS) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(timeout_ms) })
    await response.arrayBuffer()
    return response.ok
  } catch {
    return false
  }
}

/** @see child-process.d.mts */
export async function untilReady(child, url, output = () => '') {
  const deadline = Date.now() + READY_MS
  while (Date.now() < deadline) {
    if (!child.running())
      throw new Error(`the process has ended (${await child.closed}) before it answered ${url}:\n${output()}`)
    if (await answers(url)) return
    await sleep(POLL_MS)
  }
  throw new Error(`the process did not answer ${url} within ${READY_MS} ms:\n${output()}`)
}
