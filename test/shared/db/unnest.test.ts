/** Lists as parameters: each value arrives as it was, and one prepared statement serves lists of every length. */
import { sql } from 'drizzle-orm'
import t from 'tap'
import { openDb, query } from '../../../src/shared/db/client.ts'
import { anyOf, unnestRows } from '../../../src/shared/db/unnest.ts'
import { openWorld } from '../../support/environment.ts'

/** Texts that mean something to the array syntax of Postgres, to SQL or to JSON. */
const HARD = [
  '',
  ' ',
  'NULL',
  'null',
  '{}',
  '{a,b}',
  '"',
  '\\',
  '\\"',
  "'; DROP TABLE charges; --",
  'a,b',
  'ü\n\t€',
  '$1',
]

const world = await openWorld(t)
const { client, close } = openDb(world.env.DATABASE_URL, { max: 1, name: 'test', idle_in_transaction_ms: 10_000 })
t.teardown(() => close())

t.test('anyOf: exactly the rows whose column is in the list', async (t) => {
  const among = async (values: Iterable<string>) => {
    const all = unnestRows(
      'x',
      [...HARD, 'other'].map((text) => ({ text })),
      { text: 'text' },
    )
    const rows = await query<{ text: string }>(client, sql`SELECT text FROM ${all} WHERE text ${anyOf(values, 'text')}`)
    return rows.map(({ text }) => text)
  }
  t.same(await among(HARD), HARD)
  t.same(await among(new Set(['NULL', 'absent'])), ['NULL'])
  t.same(await among([]), [])

  const id = '0190a6c0-0000-7000-8000-000000000001'
  const found = (values: string[]) => query(client, sql`SELECT 1 WHERE ${id}::uuid ${anyOf(values, 'uuid')}`)
  t.equal((await found([id, '0190a6c0-0000-7000-8000-000000000002'])).length, 1)
  t.equal((await found([])).length, 0)
  await t.rejects(found(['no uuid']), { code: '22P02' })
})

t.test('unnestRows: each member arrives as it was; a missing one is NULL', async (t) => {
  const types = { n: 'int', text: 'text', at: 'timestamptz', on: 'boolean', json: 'jsonb' }
  const rows = [
    ...HARD.map((text, n) => ({ n, text, json: { text, nested: [text, null, { n }] }, on: n % 2 === 0 })),
    { n: HARD.length, text: null, at: '2026-01-01T00:00:00Z', json: ['a'] },
    { n: HARD.length + 1 },
  ]
  const read = await query<Record<string, unknown>>(
    client,
    sql`SELECT n, text, at = '2026-01-01 00:00+00' AS at, "on", json FROM ${unnestRows('x', rows, types)} ORDER BY n`,
  )
  const none = { text: null, at: null, on: null, json: null }
  const json = (value: unknown) => (typeof value === 'string' ? JSON.parse(value) : value)
  t.same(
    read.map((row) => ({ ...row, json: json(row.json) })),
    rows.map((row) => ({ ...none, ...row, ...('at' in row && { at: true }) })),
  )
  t.same(await query(client, sql`SELECT * FROM ${unnestRows('x', [], types)}`), [])
})

t.test('lists of several lengths share one prepared statement', async (t) => {
  const prepared = async () => {
    const rows = await client<{ statement: string }[]>`SELECT statement FROM pg_prepared_statements`
    return rows.filter(({ statement }) => statement.includes('shared_statement')).length
  }
  for (const length of [0, 1, 2, 500]) {
    const values = Array.from({ length }, (_, n) => `value ${n}`)
    await query(client, sql`SELECT 1 AS shared_statement WHERE 'value 0' ${anyOf(values, 'text')}`)
  }
  t.equal(await prepared(), 1)
})
