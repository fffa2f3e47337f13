/** Lists as parameters: each value arrives as it was, and one prepared statement serves lists of every length. */
import { sql } from 'drizzle-orm'
import t from 'tap'
import { openDb } from '../../../src/shared/db/client.ts'
import { purchases, resources } from '../../../src/shared/db/schema.ts'
import { isOneOf, listOf, prepare } from '../../../src/shared/db/statements.ts'
import { arrayText } from '../../../src/shared/db/unnest.ts'
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

t.test('isOneOf: exactly the rows whose column is in the list', async (t) => {
  const list = listOf('resources', { id: 'text' })
  const statement = prepare<{ id: string }>(sql`SELECT id FROM ${list.rows} WHERE ${isOneOf(resources.id, 'values')}`)
  const all = list.values([...HARD, 'other'].map((id) => ({ id })))
  const among = async (values: string[]) =>
    (await statement(client, { ...all, values: arrayText(values) })).map(({ id }) => id)
  t.same(await among(HARD), HARD)
  t.same(await among(['NULL', 'absent']), ['NULL'])
  t.same(await among([]), [])

  const uuid = prepare(sql`SELECT id FROM purchases WHERE ${isOneOf(purchases.id, 'ids')}`)
  t.same(await uuid(client, { ids: arrayText(['0190a6c0-0000-7000-8000-000000000001']) }), [])
  await t.rejects(uuid(client, { ids: arrayText(['no uuid']) }), { code: '22P02' })
})

t.test('listOf: each member arrives as it was; a missing one is NULL', async (t) => {
  const list = listOf('x', { n: 'int', text: 'text', at: 'timestamptz', json: 'jsonb' })
  const statement = prepare<Record<string, unknown>>(
    sql`SELECT n, text, at = '2026-01-01 00:00+00' AS at, json FROM ${list.rows} ORDER BY n`,
  )
  const rows = [
    ...HARD.map((text, n) => ({ n, text, json: { text, nested: [text, null, { n }] } })),
    { n: HARD.length, text: null, at: '2026-01-01T00:00:00Z', json: ['a'] },
    { n: HARD.length + 1 },
  ]
  const read = await statement(client, list.values(rows))
  const none = { text: null, at: null, json: null }
  const json = (value: unknown) => (typeof value === 'string' ? JSON.parse(value) : value)
  t.same(
    read.map((row) => ({ ...row, json: json(row.json) })),
    rows.map((row) => ({ ...none, ...row, ...('at' in row && { at: true }) })),
  )
  t.same(await statement(client, list.values([])), [])
})

t.test('lists of several lengths share one prepared statement', async (t) => {
  const statement = prepare(sql`SELECT 1 AS shared_statement FROM resources WHERE ${isOneOf(resources.id, 'values')}`)
  for (const length of [0, 1, 2, 500]) {
    await statement(client, { values: arrayText(Array.from({ length }, (_, n) => `value ${n}`)) })
  }
  const rows = await client<{ statement: string }[]>`SELECT statement FROM pg_prepared_statements`
  t.equal(rows.filter(({ statement }) => statement.includes('shared_statement')).length, 1)
})
