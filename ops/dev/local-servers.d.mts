import type { Child } from './child-process.mjs'

export interface Server extends Child {
  readonly port: number
}

interface Options {
  /** holds data and log; a second server on the same folder is stopped first */
  readonly folder: string
  /** any free port by default; refused if it is taken */
  readonly port?: number
  /** true: start the server in a separate session, so that a terminal's Ctrl-C does not reach it */
  readonly detached?: boolean
  readonly log?: (line: string) => void
}

/**
 * Starts a Postgres. Resolves when it answers a query. `folder` of the result: the folder with its data, which may
 * differ from that of the options.
 */
export function startPostgres(
  options: Options & { settings?: Readonly<Record<string, string>> },
): Promise<Server & { url(database: string): string; folder: string }>
/**
 * Starts a Redis. Resolves when it answers PING. `args`: added after the usual ones, so that they override them. `env`:
 * added to that of this process.
 */
export function startRedis(
  options: Options & { binary: string; args?: readonly string[]; env?: NodeJS.ProcessEnv },
): Promise<Server & { url: string; folder: string }>
/** Starts an etcd, the only member of its cluster. Resolves when it has elected itself. */
export function startEtcd(
  options: Omit<Options, 'log'> & { binary: string },
): Promise<Server & { url: string; folder: string }>
