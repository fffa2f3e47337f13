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
  /** what is no option */
  readonly words: readonly string[]
  /** One line on stderr, exit code 2. */
  refuse(message: string): never
  /** The option as a whole number, or refuses; `wholes`: several, with commas between them. */
  whole(flag: keyof O & string, range?: Range): number
  wholes(flag: keyof O & string, range?: Range): number[]
  /** Those of `known` that the option names, in the order of `known`; refuses another one. */
  some<T extends string>(flag: keyof O & string, known: readonly T[]): T[]
  /** DATABASE_URL or REDIS_URL: of the environment, else of .env, else of the `npm start` that runs here; else refuses. */
  address(variable: 'DATABASE_URL' | 'REDIS_URL'): string
  /** The same, or undefined where there is none. */
  found(variable: 'DATABASE_URL' | 'REDIS_URL'): string | undefined
  /** Refuses an address of the environment that is no URL of its kind; one that is not set is none. */
  checkAddresses(): void
}

export function readCommand<const O extends Options = Record<never, never>>(command: {
  /** before each line that refuses */
  name: string
  /** what --help prints */
  usage: string
  options?: O
  /** how many words there may be beside the options; 0 by default */
  words?: number
  /** instead of those of this process */
  args?: readonly string[]
}): Command<O>

/** The addresses of the `npm start` that runs here; empty when none does. */
export function runningHere(): { DATABASE_URL?: string; REDIS_URL?: string; HOLDFAST_URL?: string }

/** What the system or a server said, in one line; an error of our own with its stack. */
export function reasonOf(error: unknown): string
