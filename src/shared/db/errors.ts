/** Reads errors of Postgres: the SQLSTATE, the violated constraint, and whether the same statement can ever succeed. */
import postgres from 'postgres'

/** Returns the SQLSTATE of a Postgres error; undefined for anything else (a broken connection, a bug). */
export function sqlState(error: unknown): string | undefined {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  return cause instanceof postgres.PostgresError ? cause.code : undefined
}

/** Returns the name of the violated constraint, or undefined. */
export function constraintOf(error: unknown): string | undefined {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  return cause instanceof postgres.PostgresError ? cause.constraint_name : undefined
}

/** Returns whether the data itself is at fault (classes 22 and 23, RAISE), so that the same statement will always fail. */
export function isDataError(error: unknown): boolean {
  const state = sqlState(error)
  return state !== undefined && (state.startsWith('22') || state.startsWith('23') || state === 'P0001')
}
