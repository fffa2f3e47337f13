/**
 * Postgres, as the API uses it. Invariant: every call is behind one circuit breaker, so a caller gets 503 within its timeout
 * instead of waiting for a server that does not answer.
 */
import type { Breaker } from '../shared/breaker.ts'
import { type Client, type Transaction, transaction } from '../shared/db/client.ts'
import type { Statement } from '../shared/db/statements.ts'

export interface Database {
  /** Runs one statement. @throws UnavailableError */
  query<Row>(statement: Statement<Row>, values?: Readonly<Record<string, unknown>>): Promise<Row[]>
  /**
   * Runs the body in a transaction. If it exceeds the breaker's timeout, the caller gets 503 and nothing is committed later.
   * @throws UnavailableError
   */
  transaction<T>(body: (tx: Transaction) => Promise<T>): Promise<T>
  /** Runs several reads as one call of the breaker. @throws UnavailableError */
  read<T>(body: (client: Client) => Promise<T>): Promise<T>
}

export const createDatabase = (client: Client, breaker: Pick<Breaker, 'run'>): Database => ({
  query: (statement, values) => breaker.run(() => statement(client, values)),
  transaction: (body) => breaker.run((signal) => transaction(client, signal, body)),
  read: (body) => breaker.run(() => body(client)),
})
