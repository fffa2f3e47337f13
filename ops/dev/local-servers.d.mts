import type { Child } from './child-process.mjs'

export interface Server extends Child {
  readonly port: number
}

interface Options {
  /** holds data and log; a second server on the same folder is stopped first */
  readonly folder: string
  /** any free one by default; refused when it is taken */
  readonly port?: number
  /** a session of its own, so that a terminal's Ctrl-C does not reach it */
  readonly detached?: boolean
  readonly log?: (line: string) => void
}

/** Resolves when it answers a query. `folder` is where its data really is (not always the folder asked for). */
export function startPostgres(
  options: Options & { settings?: Readonly<Record<string, string>> },
): Promise<Server & { url(database: string): string; folder: string }>
/** Resolves when it answers PING. `args` go behind its own, so that they win; `env` beside that of this process. */
export function startRedis(
  options: Options & { binary: string; args?: readonly string[]; env?: NodeJS.ProcessEnv },
): Promise<Server & { url: string; folder: string }>
/** One server, alone in its cluster. Resolves when it has elected itself. */
export function startEtcd(
  options: Omit<Options, 'log'> & { binary: string },
): Promise<Server & { url: string; folder: string }>
