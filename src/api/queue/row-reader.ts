/**
 * Reads purchases or bookings for responses. Invariant: an overdue row is reported as expired only after it was read under
 * its row lock: a confirm or accept that is committing is waited for, and a later one is refused by its own clock check.
 */

import { type SQL, sql } from 'drizzle-orm'
import type { Breaker } from '../../shared/breaker.ts'
import { type Client, query, type Transaction } from '../../shared/db/client.ts'
import { anyOf } from '../../shared/db/unnest.ts'

export interface RowReader<Row> {
  /** One row by id. Reads of one event-loop turn share a query, because a notice wakes a batch of waiters. */
  findById(id: string): Promise<Row | undefined>
  /** Rows by a WHERE clause with its ORDER BY and LIMIT. */
  findAll(where: SQL): Promise<Row[]>
}

interface RowReaderDeps {
  client: Client
  /** runs a query behind the Postgres breaker */
  viaBreaker: Breaker['run']
}

/** Reads `columns` of `table`, which include id and overdue. */
export function createRowReader<Row extends { id: string; overdue: boolean }>(
  { client, viaBreaker }: RowReaderDeps,
  table: 'purchases' | 'bookings',
  columns: string,
): RowReader<Row> {
  const select = sql.raw(`SELECT ${columns} FROM ${table}`)
  let next: { ids: Set<string>; rows: Promise<Map<string, Row>> } | undefined

  async function read(where: SQL): Promise<Row[]> {
    const rows = await query<Row>(client, sql`${select} ${where}`)
    const overdue = rows.filter((row) => row.overdue).map((row) => row.id)
    if (overdue.length === 0) return rows
    const locked = sql`WHERE id ${anyOf(overdue, 'uuid')} ORDER BY id FOR SHARE`
    const current = (await client.begin((tx: Transaction) => query<Row>(tx, sql`${select} ${locked}`))) as Row[]
    const currentById = new Map(current.map((row) => [row.id, row]))
    return rows.map((row) => currentById.get(row.id) ?? row)
  }

  return {
    findAll: (where) => viaBreaker(() => read(where)),
    async findById(id) {
      if (!next) {
        const ids = new Set<string>()
        const rows = new Promise((resolve) => setImmediate(resolve)).then(async () => {
          next = undefined
          const where = sql`WHERE id ${anyOf(ids, 'uuid')}`
          return new Map((await viaBreaker(() => read(where))).map((row) => [row.id, row]))
        })
        next = { ids, rows }
      }
      next.ids.add(id.toLowerCase())
      return (await next.rows).get(id.toLowerCase())
    },
  }
}
