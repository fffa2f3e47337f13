/** src/api/queue/row-reader.ts: reads of one turn share a query, and an overdue row is read again under its lock. */
import t from 'tap'
import type { Database } from '../../../src/api/database.ts'
import { createRowReader } from '../../../src/api/queue/row-reader.ts'
import type { Client } from '../../../src/shared/db/client.ts'

interface Row {
  id: string
  overdue: boolean
  status: string
}

/** Rows as a plain read sees them, and as a read that waits for their locks does. */
function openReader(seen: Record<string, Row>, locked: Record<string, Row> = seen) {
  const log: string[] = []
  const read =
    (name: string, rows: Record<string, Row>) => async (_on: unknown, values?: Readonly<Record<string, unknown>>) => {
      log.push(`${name} ${values?.ids}`)
      const ids = JSON.parse(String(values?.ids).replace('{', '[').replace('}', ']')) as string[]
      return ids.flatMap((id) => rows[id] ?? [])
    }
  const client = { begin: async (body: (tx: unknown) => unknown) => await body({}) } as unknown as Client
  const db = { read: (body: (client: Client) => unknown) => body(client) } as unknown as Database
  return { log, reader: createRowReader<Row>(db, { read: read('read', seen), lock: read('lock', locked) }) }
}

t.test('reads of one event-loop turn share a query, in any letter case', async (t) => {
  const { log, reader } = openReader({ a: { id: 'a', overdue: false, status: 'held' } })
  const [first, second, none] = await Promise.all([reader.findById('a'), reader.findById('A'), reader.findById('b')])
  t.same([first?.id, second?.id, none], ['a', 'a', undefined])
  t.same(log, ['read {"a","b"}'])
  await reader.findById('a')
  t.same(log, ['read {"a","b"}', 'read {"a"}'])
})

t.test('a confirm that is committing while the hold ends: its outcome, not expired', async (t) => {
  const seen = { a: { id: 'a', overdue: true, status: 'held' }, b: { id: 'b', overdue: false, status: 'held' } }
  const { log, reader } = openReader(seen, { a: { id: 'a', overdue: false, status: 'confirmed' } })
  const rows = await Promise.all([reader.findById('a'), reader.findById('b')])
  t.same(
    rows.map((row) => row?.status),
    ['confirmed', 'held'],
  )
  t.same(log, ['read {"a","b"}', 'lock {"a"}'], 'only the overdue row is locked')
})

t.test('a row that is gone when its lock is held stays as it was read', async (t) => {
  const { reader } = openReader({ a: { id: 'a', overdue: true, status: 'held' } }, {})
  t.match(await reader.findById('a'), { overdue: true })
})
