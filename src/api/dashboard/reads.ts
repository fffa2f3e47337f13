/**
 * Reads of the dashboard's routes over the dashboard's own connection, so that no buyer waits for them. Invariants: a read
 * answers or fails within LIMIT_MS; at most MAX_PENDING statements wait for Postgres, however many requests come while it
 * does not answer.
 */
import { UnavailableError } from '../../shared/breaker.ts'
import type { Client } from '../../shared/db/client.ts'
import { withTimeout } from '../../shared/timeout.ts'

/**
 * Time limit of one read, in milliseconds. The server ends a statement after 2,000: reads that wait behind such a statement on
 * the connection still get their answer.
 */
export const LIMIT_MS = 2_500
/** Statements of 20 views of a resource, which are sent together. Refuse more: they would wait on the one connection. */
const MAX_PENDING = 120

/** Runs one or more statements at once. @throws UnavailableError */
export type Read = <T>(query: (client: Client) => Promise<T>) => Promise<T>

export function createReads(client: Client): Read {
  let pending = 0
  return async (query) => {
    if (pending >= MAX_PENDING) throw new UnavailableError('postgres', new Error(`${pending} reads are pending`))
    pending += 1
    // A read that is given up counts until its statement has ended: by its limit, or with the connection.
    const result = query(client).finally(() => {
      pending -= 1
    })
    try {
      return await withTimeout(result, LIMIT_MS)
    } catch (error) {
      throw new UnavailableError('postgres', error)
    }
  }
}
