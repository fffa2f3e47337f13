/** Compares a trigger of the database with a table of transitions, for every pair of statuses. */
import { type Moves, reachableFrom } from '../../../src/shared/domain/moves.ts'
import type { Shop } from '../../support/api-client.ts'

/** Inserts a row with this status and returns its id. */
type InsertRow<Status> = (status: Status) => Promise<string>

/**
 * Changes a new row of `table` from each status to each other one. Returns the pairs, as `from → to`, in which the trigger
 * `<table>_terminal` and the table of moves differ: none, when each change is accepted that a path of moves leads to (a batch
 * writes the last of several moves), and no other.
 */
export async function differingPairs<Status extends string>(
  client: Shop['client'],
  table: 'purchases' | 'bookings',
  moves: Moves<Status, string>,
  insertRow: InsertRow<Status>,
): Promise<string[]> {
  const statuses = Object.keys(moves) as Status[]
  const differing: string[] = []
  for (const from of statuses) {
    for (const to of statuses) {
      const id = await insertRow(from)
      const refusal = await client`UPDATE ${client(table)} SET status = ${to} WHERE id = ${id}`.then(
        () => undefined,
        (error) => `${error.code} ${error.message}`,
      )
      const expected = reachableFrom(moves, from).has(to) ? undefined : `23000 ${table}_terminal: UPDATE refused`
      if (refusal !== expected) differing.push(`${from} → ${to}: ${refusal ?? 'accepted'}`)
    }
  }
  return differing
}
