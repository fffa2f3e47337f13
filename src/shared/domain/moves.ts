/** Tables of status transitions, and the statuses that a row can still reach from its present status. */

/** from → move → to; a status without moves is final */
export type Moves<Status extends string, Move extends string> = Readonly<
  Record<Status, Readonly<Partial<Record<Move, Status>>>>
>

/** Returns this status and every status that a row may have after it, at once or later. */
export function reachableFrom<Status extends string>(moves: Moves<Status, string>, from: Status): ReadonlySet<Status> {
  const reached = new Set([from])
  // The loop also visits elements that it adds to the set while it runs.
  for (const status of reached) for (const next of Object.values(moves[status]) as Status[]) reached.add(next)
  return reached
}

/** Returns whether the move is possible in this status, or in a status that the row may have after it. */
export const isStillPossible = <Status extends string, Move extends string>(
  moves: Moves<Status, Move>,
  from: Status,
  move: Move,
): boolean => [...reachableFrom(moves, from)].some((status) => moves[status][move] !== undefined)
