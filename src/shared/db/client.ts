/**
 * Postgres connections. Invariant: every connection has explicit time limits, and the server ends a transaction whose client
 * has stopped responding, so that its row locks never outlive the lease of its batch.
 */
import type { SQL } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

/**
 * Maximum of connections of a process. docs/deploy.md, docs/scaling.md and docker-compose.yml name the sums, which
 * test/ops/compose.test.ts compares with these.
 */
export const CONNECTIONS = {
  api: {
    reads: 8,
    /** one for each table: flushes of a table run one at a time */
    intakes: 2,
    /** while a dashboard is open */
    dashboard: 1,
  },
  worker: {
    /** a transaction, the fetches of the next one, further ones while one is stuck, the sweeper, charges */
    batches: 8,
    webhooks: 4,
    watch: 1,
  },
} as const

export interface DbOptions {
  /** connections in the pool */
  max: number
  /** shown in pg_stat_activity */
  name: string
  /** milliseconds a transaction may be idle before the server ends it: the lease's TTL */
  idle_in_transaction_ms: number
  /**
   * milliseconds for one statement: the server ends one that takes longer, and a connection without a response is closed
   * ANSWER_MS after that; undefined: no limit, for commands of an operator
   */
  statement_ms?: number
  /** further settings of each session */
  settings?: Record<string, string>
}

export type Client = postgres.Sql<{ int8: number }>
/**
 * The body of a transaction must await only its own statements. If the connection is lost while it awaits anything else,
 * postgres.js sends its next statement on the replacement connection, possibly into the transaction of another body.
 */
export type Transaction = postgres.TransactionSql<{ int8: number }>

export interface Db {
  readonly client: Client
  close(): Promise<void>
}

/** Milliseconds that the response to a statement may come after the server's own limit. */
const ANSWER_MS = 2_000

export function openDb(url: string, options: DbOptions): Db {
  const { statement_ms } = options
  const client = postgres(url, {
    max: options.max,
    ...(statement_ms !== undefined && { answer_timeout: (statement_ms + ANSWER_MS) / 1000 }),
    // postgres.js backs off up to 20 s between reconnects: too long for queues with waiting buyers.
    backoff: () => 0.2,
    connect_timeout: 2,
    idle_timeout: 60,
    onnotice: () => {},
    // With fetch_types each connection first reads the array types, and one that is cut at that moment ends the process: the
    // error of that query is not caught. Lists are sent as text (unnest.ts) and returned as JSON.
    fetch_types: false,
    // Every bigint of the schema is bounded below 2^53.
    types: { int8: { to: 20, from: [20], parse: Number, serialize: String } },
    connection: {
      application_name: options.name,
      TimeZone: 'UTC',
      idle_in_transaction_session_timeout: options.idle_in_transaction_ms,
      ...(statement_ms !== undefined && { statement_timeout: statement_ms }),
      ...options.settings,
    },
  })
  // For its side effect on the client: JSON and dates pass as text, as drizzle's statements expect.
  drizzle(client)
  return { client, close: () => client.end({ timeout: 2 }) }
}

const dialect = new PgDialect()
/** transaction → the signal that ends it */
const signals = new WeakMap<object, AbortSignal>()

/**
 * Runs one drizzle `sql` statement as a named prepared statement. drizzle's own `execute` sends it unnamed, which costs
 * postgres.js a second round trip a statement (Describe, then Bind).
 */
export function query<Row>(on: Client | Transaction, statement: SQL): Promise<Row[]> {
  const { sql: text, params } = dialect.sqlToQuery(statement)
  return run(on, text, params)
}

/** Runs one statement as a named prepared statement; in a transaction only while its signal has not aborted. */
export async function run<Row>(on: Client | Transaction, text: string, params: readonly unknown[]): Promise<Row[]> {
  signals.get(on)?.throwIfAborted()
  return (await on.unsafe(text, params as never[], { prepare: true })) as unknown as Row[]
}

/**
 * A transaction that commits only while its signal has not aborted: afterwards its next statement is not sent, and it is
 * rolled back.
 */
export async function transaction<T>(
  client: Client,
  signal: AbortSignal,
  body: (tx: Transaction) => Promise<T>,
): Promise<T> {
  return (await client.begin(async (tx) => {
    signals.set(tx, signal)
    const result = await body(tx)
    signal.throwIfAborted()
    return result
  })) as T
}
