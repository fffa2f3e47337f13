export interface Servers {
  /** folder of this run alone, which every user may enter */
  readonly folder: string
  /** address of the server, for CREATE DATABASE */
  readonly postgres_url: string
  readonly redis_url: string
  /** pids of the servers that were started here; none for a given server */
  readonly pids: { readonly postgres?: number; readonly redis?: number }
  /** Stops the servers that were started here, and processes that a killed child of this run left in its folders. */
  close(): Promise<void>
}

/** Uses the servers of DATABASE_URL and REDIS_URL, or starts private ones in a temporary folder. */
export function openServers(options: {
  /** prefix of the folder's name; leftovers of killed runs with the same prefix are removed first */
  readonly prefix: string
  /** name of the run, for the folder's lock */
  readonly owner: string
  readonly log: (line: string) => void
  /** further settings of a Postgres that is started here */
  readonly settings?: Readonly<Record<string, string>>
}): Promise<Servers>

/** Runs one statement, or several without parameters, on a separate connection. */
// biome-ignore lint/suspicious/noExplicitAny: as the statement has it
export function runStatement(url: string, text: string): Promise<any[]>

/** Creates a database. @returns its address. Rejects if it exists or another session uses the template */
export function createDatabase(server_url: string, name: string, template?: string): Promise<string>

/** Creates the database unless it exists. @returns true if it was created */
export function ensureDatabase(server_url: string, name: string): Promise<boolean>

/** Drops the database, even if it has sessions. Does nothing if it does not exist. */
export function dropDatabase(server_url: string, name: string): Promise<void>

/** Removes every key that has the prefix in its name. */
export function dropKeys(redis_url: string, prefix: string): Promise<void>

export type Role = 'api' | 'worker' | 'sandbox'

/**
 * Returns the entry file of a process, the address at which it will answer, and the variable that sets this address.
 * The port is that of `env` (PORT, METRICS_PORT; for the sandbox SANDBOX_URL), otherwise a free one.
 */
export function processSpec(
  role: Role,
  env?: Readonly<Record<string, string>>,
): Promise<{ entry: string; url: string; env: Record<string, string> }>
