/**
 * Statements that are built once, when their module is loaded, and run as named prepared statements with new values each
 * time. Invariants: a call does not run drizzle's builder; a list is passed as one array per column, so a statement has the
 * same text, and the same plan, for every length of its lists.
 */
import { is, Param, Placeholder, type SQL, type SQLWrapper, sql } from 'drizzle-orm'
import { type PgColumn, PgDialect, type PgTable } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import { type Client, run, type Transaction } from './client.ts'
import { arrayText } from './unnest.ts'

/** Builds statements; it has no connection. */
export const build = drizzle.mock()

const dialect = new PgDialect()

type RowOf<Query> = Query extends { _: { result: (infer Row)[] } } ? Row : never

/** Runs the statement with these values of its placeholders; in a transaction, it rejects once the signal has aborted. */
export type Statement<Row> = (on: Client | Transaction, values?: Readonly<Record<string, unknown>>) => Promise<Row[]>

/** Prepares a statement of drizzle's builder; the type of its rows follows from the statement. */
export function prepare<Query extends SQLWrapper & { _: { result: unknown } }>(
  statement: Query,
): Statement<RowOf<Query>>
/** Prepares a statement in raw SQL; its caller names the type of its rows. */
export function prepare<Row>(statement: SQL<Row>): Statement<Row>
export function prepare(statement: SQLWrapper): Statement<unknown> {
  // Inline constants as literals: with a parameter, Postgres' generic plan could not use a partial index such as that on the
  // queued rows.
  const { sql: text, params } = dialect.sqlToQuery(statement.getSQL().inlineParams())
  const fill = params.map((param): ((values: Readonly<Record<string, unknown>>) => unknown) => {
    if (is(param, Placeholder)) return (values) => givenValue(values, param.name)
    if (is(param, Param) && is(param.value, Placeholder)) {
      const { name } = param.value
      return (values) => encode(param, givenValue(values, name))
    }
    return () => param
  })
  return (on, values = {}) =>
    run(
      on,
      text,
      fill.map((of) => of(values)),
    )
}

const encode = (param: Param, value: unknown) => (value === null ? null : param.encoder.mapToDriverValue(value))

function givenValue(values: Readonly<Record<string, unknown>>, name: string): unknown {
  if (!(name in values)) throw new Error(`a statement was run without its value ${name}`)
  return values[name]
}

/** Returns a placeholder; each run of the statement gives its value under this name. */
export const value = (name: string) => sql.placeholder(name)

/** Returns a list of values of one column as a source for FROM; each run passes the list as text made by arrayText. */
export const unnested = (name: string, column: PgColumn) => ({
  rows: sql`unnest(${value(name)}::text::${sql.raw(elementOf(column))}[]) AS ${sql.raw(`"${name}"(id)`)}`,
  value: sql.raw(`"${name}".id`),
})

/** Returns the condition that the column is one of the values of the run, which are passed as text made by arrayText. */
export const isOneOf = (column: PgColumn, name: string) =>
  sql`${column} = ANY(${value(name)}::text::${sql.raw(elementOf(column))}[])`

const elementOf = (type: PgColumn | string) =>
  typeof type === 'string' ? type : type.getSQLType().replace(/ COLLATE .*/, '')

/** The columns of a list: name → a column of the schema with the same type, or the name of a Postgres type. */
type ListColumns = Readonly<
  Record<string, PgColumn | 'text' | 'uuid' | 'bigint' | 'int' | 'float8' | 'jsonb' | 'timestamptz'>
>
type ListValue<Column> = Column extends PgColumn
  ? Column['_']['data'] | (Column['_']['notNull'] extends true ? never : null)
  : Column extends 'text' | 'uuid' | 'timestamptz'
    ? string | null
    : Column extends 'jsonb'
      ? unknown
      : number | null

/**
 * Returns a list of rows as a source for FROM: `rows` is the source, `columns.NAME` is a column, and `values(list)` converts a
 * list to the values of one run. A missing member of a row becomes NULL.
 */
export function listOf<Name extends string, Columns extends ListColumns>(name: Name, columns: Columns) {
  const names = Object.keys(columns)
  const arrays = Object.entries(columns).map(([column, type]) => {
    return sql`${value(`${name}.${column}`)}::text::${sql.raw(elementOf(type))}[]`
  })
  const rows = sql`unnest(${sql.join(arrays, sql`, `)}) AS ${sql.raw(`"${name}"(${names.map((one) => `"${one}"`).join(', ')})`)}`
  return {
    rows,
    columns: Object.fromEntries(names.map((column) => [column, sql.raw(`"${name}"."${column}"`)])) as {
      [Column in keyof Columns]: SQL<ListValue<Columns[Column]>>
    },
    values: (list: readonly object[]): Record<string, string> =>
      Object.fromEntries(
        names.map((column) => [
          `${name}.${column}`,
          arrayText(list.map((row) => (row as Record<string, unknown>)[column])),
        ]),
      ),
  }
}

type Selecting<Fields> = SQLWrapper & { _: { selectedFields: Fields } }

/**
 * Builds an INSERT of the selected columns. drizzle's insert().select() needs every column of the table, so the SELECT would
 * have to repeat the defaults of the other columns.
 */
export function insertFrom<Table extends PgTable, Fields>(
  table: Table,
  select: Selecting<Fields> & (Exclude<keyof Fields, keyof Table['$inferInsert']> extends never ? unknown : never),
): SQL {
  const fields = Object.keys((select as unknown as { getSelectedFields(): object }).getSelectedFields())
  const columns = fields.map((field) =>
    sql.identifier((table as unknown as Record<string, PgColumn>)[field]?.name ?? field),
  )
  return sql`insert into ${table} (${sql.join(columns, sql`, `)}) ${select}`
}

/** Converts a time to milliseconds since 1970. It does not use extract(), whose numeric result costs ten times as much. */
export const epochMs = (time: string | SQLWrapper) =>
  sql<number>`date_part('epoch', ${typeof time === 'string' ? sql.raw(time) : time}) * 1000`

/** Converts milliseconds since 1970 to a time. */
export const toTime = (ms: SQLWrapper) => sql<string>`to_timestamp(${ms} / 1000)`
