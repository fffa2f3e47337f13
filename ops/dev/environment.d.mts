export interface Servers {
  /** of this run alone; every user may pass through it */
  readonly folder: string
  /** an address on which databases can be made */
  readonly postgres_url: string
  readonly redis_url: string
  /** of the servers that were started here: not of a given one */
  readonly pids: { readonly postgres?: number; readonly redis?: number }
  /** Stops what was started here, and what a killed child of this run left in its folders. */
  close(): Promise<void>
}

/** Those of DATABASE_URL and REDIS_URL, else a private pair in a temporary folder. */
export function openServers(options: {
  /** of the folder's name; what killed runs with the same prefix have left is removed first */
  readonly prefix: string
  /** what is said to run in the folder */
  readonly owner: string
  readonly log: (line: string) => void
  /** of a Postgres that is started here, beside the usual ones */
  readonly settings?: Readonly<Record<string, string>>
}): Promise<Servers>

/** One statement, or several without parameters, on a connection of its own. */
// biome-ignore lint/suspicious/noExplicitAny: as the statement has it
export function runStatement(url: string, text: string): Promise<any[]>

/** @returns its address; rejects when it exists, or when another session uses the template */
export function createDatabase(server_url: string, name: string, template?: string): Promise<string>

/** @returns whether it was made: false when it was there */
export function ensureDatabase(server_url: string, name: string): Promise<boolean>

/** Also with sessions in it, and when there is none. */
export function dropDatabase(server_url: string, name: string): Promise<void>

/** Removes every key that has the prefix in its name. */
export function dropKeys(redis_url: string, prefix: string): Promise<void>

export type Role = 'api' | 'worker' | 'sandbox'

/**
 * The entry file of a process, the address at which it will answer, and the variable that tells it so: on the port of `env`
 * (PORT, METRICS_PORT; the sandbox: SANDBOX_URL), else on a free one of this machine.
 */
export function placeProcess(
  role: Role,
  env?: Readonly<Record<string, string>>,
): Promise<{ entry: string; url: string; env: Record<string, string> }>
