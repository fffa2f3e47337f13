import type { ChildProcess, SpawnOptions } from 'node:child_process'

export interface Child {
  readonly process: ChildProcess
  /** 0 if the process could not be started */
  readonly pid: number
  /**
   * resolves when the process has ended, with the signal or `code N` that ended it, or with the reason why it could not
   * be started
   */
  readonly exited: Promise<string>
  /** the same, once all its output has been read */
  readonly closed: Promise<string>
  running(): boolean
  kill(signal: NodeJS.Signals): void
  /** Sends the signal (SIGTERM), then SIGKILL after deadline_ms (20 s); resolves when the process has ended. */
  stop(signal?: NodeJS.Signals, deadline_ms?: number): Promise<void>
}

/**
 * Starts a child process. `lastSignal`: the signal that ends the child if this process ends first; SIGKILL by default.
 */
export function startChild(words: readonly string[], options: SpawnOptions & { lastSignal?: NodeJS.Signals }): Child

/** Resolves with true if the URL answers 2xx within timeout_ms (2 s). */
export function answers(url: string | URL, timeout_ms?: number): Promise<boolean>

/**
 * Resolves when the URL answers 2xx. Rejects with the child's output if the child ends before or does not answer within
 * a minute.
 */
export function untilReady(child: Child, url: string, output?: () => string): Promise<void>
