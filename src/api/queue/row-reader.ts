/**
 * Rows as they may be told to a client. Invariant: a row whose time is over is told as expired only after a look under
 * its lock: a confirm or accept that is being committed at this moment is waited for, and a later one is refused by its
 * own clock check.
 */

import { type SQL, sql } from 'drizzle-orm'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, type Transaction } from '../../shared/db/client.ts'

export interface Look<Row> {
  /** By id; all that are asked for in one turn of the event loop together: a notice wakes a batch of waiters. */
  one(id: string): Promise<Row | undefined>
  /** By a WHERE clause with its ORDER BY and LIMIT. */
  list(where: SQL): Promise<Row[]>
}

interface LookDeps {
  client: Client
  /** runs a question to Postgres behind the breaker */
  guarded: Breaker['run']
}

/** `columns` of `table`, among them id and overdue. */
export function createLook<Row extends { id: string; overdue: boolean }>(
  { client, guarded }: LookDeps,
  table: 'purchases' | 'bookings',
  columns: string,
): Look<Row> {
  const select = sql.raw(`SELECT ${columns} FROM ${table}`)
  let next: { ids: Set<string>; rows: Promise<Map<string, Row>> } | undefined

  async function list(where: SQL): Promise<Row[]> {
    const rows = await query<Row>(client, sql`${select} ${where}`)
    const overdue = rows.filter((row) => row.overdue).map((row) => row.id)
    if (overdue.length === 0) return rows
    const ids = JSON.stringify(overdue)
    const locked = sql`WHERE id IN (SELECT json_array_elements_text(${ids}::json)::uuid) ORDER BY id FOR SHARE`
    const again = (await client.begin((tx: Transaction) => query<Row>(tx, sql`${select} ${locked}`))) as Row[]
    const fresh = new Map(again.map((row) => [row.id, row]))
    return rows.map((row) => fresh.get(row.id) ?? row)
  }

  return {
    list: (where) => guarded(() => list(where)),
    async one(id) {
      if (!next) {
        const ids = new Set<string>()
        const rows = new Promise((resolve) => setImmediate(resolve)).then(async () => {
          next = undefined
          const wanted = JSON.stringify([...ids])
          const where = sql`WHERE id IN (SELECT json_array_elements_text(${wanted}::json)::uuid)`
          return new Map((await guarded(() => list(where))).map((row) => [row.id, row]))
        })
        next = { ids, rows }
      }
      next.ids.add(id.toLowerCase())
      return (await next.rows).get(id.toLowerCase())
    },
  }
}
