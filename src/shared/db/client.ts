/**
 * Postgres connections. Invariant: every connection has explicit time limits, and the server ends a transaction whose client
 * has stopped responding, so that its row locks never outlive the lease of its batch.
 */
import type { SQL } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

/**
 * Maximum number of connections of a process. docs/deploy.md, docs/scaling.md and docker-compose.yml name the sums;
 * test/ops/compose.test.ts compares those sums with these numbers.
 */
export const CONNECTIONS = {
  api: {
    reads: 8,
    /** one for each of the two tables: flushes of a table run one at a time */
    intakes: 2,
    /** used while a dashboard is open */
    dashboard: 1,
  },
  worker: {
    /** for a transaction, the fetches of the next one, further transactions while one is stuck, the sweeper, and charges */
    batches: 8,
    webhooks: 4,
    watch: 1,
  },
} as const

export interface DbOptions {
  /** maximum number of connections in the pool */
  max: number
  /** name that pg_stat_activity shows */
  name: string
  /** milliseconds a transaction may be idle before the server ends it: the lease's TTL */
  idle_in_transaction_ms: number
  /**
   * time limit of one statement, in milliseconds: the server ends a statement that takes longer; the client closes a connection
   * without a response ANSWER_MS after that. undefined: no limit, for commands of an operator
   */
  statement_ms?: number
  /** further settings of each session */
  settings?: Record<string, string>
}

export type Client = postgres.Sql<{ int8: number }>
/**
 * A transaction, as its body gets it. The body must await only the statements of this transaction. If the connection is lost
 * while the body awaits anything else, postgres.js sends the body's next statement on the replacement connection, possibly
 * into the transaction of another body.
 */
export type Transaction = postgres.TransactionSql<{ int8: number }>

export interface Db {
  readonly client: Client
  close(): Promise<void>
}

/** Milliseconds after the server's statement limit within which the response must arrive. */
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
    // With fetch_types each new connection first reads the array types. If the connection is cut at that moment, the process
    // ends, because postgres.js does not catch the error of that query. So lists are sent as text (unnest.ts) and returned as JSON.
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
  // Called for its side effect on the client: JSON and dates then pass as text, as drizzle's statements expect.
  drizzle(client)
  return { client, close: () => client.end({ timeout: 2 }) }
}

const dialect = new PgDialect()
/** transaction → the signal that ends it */
const signals = new WeakMap<object, AbortSignal>()

/**
 * Runs one drizzle `sql` statement as a named prepared statement. drizzle's `execute` sends statements unnamed, which costs
 * postgres.js a second round trip per statement (Describe, then Bind).
 */
export function query<Row>(on: Client | Transaction, statement: SQL): Promise<Row[]> {
  const { sql: text, params } = dialect.sqlToQuery(statement)
  return run(on, text, params)
}

/**
 * Runs one statement as a named prepared statement; inside a transaction, only while the transaction's signal has not
 * aborted.
 */
export async function run<Row>(on: Client | Transaction, text: string, params: readonly unknown[]): Promise<Row[]> {
  signals.get(on)?.throwIfAborted()
  return (await on.unsafe(text, params as never[], { prepare: true })) as unknown as Row[]
}

/**
 * Runs the body in a transaction, which commits only while the signal has not aborted. After an abort, the next statement is not
 * sent and the transaction is rolled back.
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
