import type { ParseArgsConfig, parseArgs } from 'node:util'

type Options = NonNullable<ParseArgsConfig['options']>
interface Range {
  /** 1 by default */
  readonly from?: number
  /** 999,999 by default */
  readonly to?: number
}

export interface Command<O extends Options> {
  readonly values: ReturnType<typeof parseArgs<{ options: O; allowPositionals: true; strict: true }>>['values']
  /** the arguments that are not options */
  readonly words: readonly string[]
  /** Prints one line on stderr and ends with exit code 2. */
  refuse(message: string): never
  /** Returns the option as a whole number, or refuses it. `wholes`: several numbers, separated by commas. */
  whole(flag: keyof O & string, range?: Range): number
  wholes(flag: keyof O & string, range?: Range): number[]
  /** Returns the members of `known` that the option names, in the order of `known`. Refuses any other name. */
  some<T extends string>(flag: keyof O & string, known: readonly T[]): T[]
  /**
   * Returns DATABASE_URL or REDIS_URL: from the environment, else from .env, else from the running `npm start`;
   * otherwise refuses.
   */
  address(variable: 'DATABASE_URL' | 'REDIS_URL'): string
  /** Returns the same, or undefined if there is none. */
  found(variable: 'DATABASE_URL' | 'REDIS_URL'): string | undefined
  /** Refuses an address in the environment that is not a URL of its kind. An unset address is allowed. */
  checkAddresses(): void
}

export function readCommand<const O extends Options = Record<never, never>>(command: {
  /** prefix of each refusal */
  name: string
  /** text that --help prints */
  usage: string
  options?: O
  /** most words beside the options; 0 by default */
  words?: number
  /** arguments to read instead of those of this process */
  args?: readonly string[]
}): Command<O>

/** Returns the addresses of the running `npm start`; empty if none runs. */
export function runningHere(): { DATABASE_URL?: string; REDIS_URL?: string; HOLDFAST_URL?: string }

/** Returns the message of an error of the system or a server in one line, and any other error with its stack. */
export function reasonOf(error: unknown): string
