/**
 * Reads purchases or bookings for responses. Invariant: the reader reports an overdue row as expired only after it has read
 * the row under its row lock. So it waits for a confirm or accept that is committing; a later confirm or accept checks the
 * clock and is refused.
 */
import type { Client } from '../../shared/db/client.ts'
import type { Statement } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import type { Database } from '../database.ts'

export interface RowReader<Row> {
  /** Reads one row by id. Reads of one event-loop turn share a query, because a notice wakes a batch of waiters. */
  findById(id: string): Promise<Row | undefined>
  /** Runs a statement that selects rows of the reader's table, and returns the rows. */
  findAll(statement: Statement<Row>, values: Readonly<Record<string, unknown>>): Promise<Row[]>
}

/** Statements that read the rows of one table by the parameter `ids`. */
export interface RowStatements<Row> {
  read: Statement<Row>
  /** the same, under row locks that it takes in the order of the ids */
  lock: Statement<Row>
}

export function createRowReader<Row extends { id: string; overdue: boolean }>(
  db: Database,
  { read, lock }: RowStatements<Row>,
): RowReader<Row> {
  let next: { ids: Set<string>; rows: Promise<Map<string, Row>> } | undefined

  async function current(client: Client, rows: Row[]): Promise<Row[]> {
    const overdue = rows.filter((row) => row.overdue).map((row) => row.id)
    if (overdue.length === 0) return rows
    const locked = (await client.begin((tx) => lock(tx, { ids: arrayText(overdue) }))) as Row[]
    const lockedById = new Map(locked.map((row) => [row.id, row]))
    return rows.map((row) => lockedById.get(row.id) ?? row)
  }

  const run = (statement: Statement<Row>, values: Readonly<Record<string, unknown>>) =>
    db.read(async (client) => await current(client, await statement(client, values)))

  return {
    findAll: run,
    async findById(id) {
      if (!next) {
        const ids = new Set<string>()
        const rows = new Promise((resolve) => setImmediate(resolve)).then(async () => {
          next = undefined
          return new Map((await run(read, { ids: arrayText([...ids]) })).map((row) => [row.id, row]))
        })
        next = { ids, rows }
      }
      next.ids.add(id.toLowerCase())
      return (await next.rows).get(id.toLowerCase())
    },
  }
}
