/** Tables of status transitions: what a row with such a status may still become. */

/** from → move → to; a status without moves is final */
export type Moves<Status extends string, Move extends string> = Readonly<
  Record<Status, Readonly<Partial<Record<Move, Status>>>>
>

/** This status and every status that a row may have after it, at once or later. */
export function reachableFrom<Status extends string>(moves: Moves<Status, string>, from: Status): ReadonlySet<Status> {
  const reached = new Set([from])
  // A set that grows while it is walked: the walk covers what was added.
  for (const status of reached) for (const next of Object.values(moves[status]) as Status[]) reached.add(next)
  return reached
}

/** Whether the move is possible in this status, or in one that a row may have after it. */
export const isStillPossible = <Status extends string, Move extends string>(
  moves: Moves<Status, Move>,
  from: Status,
  move: Move,
): boolean => [...reachableFrom(moves, from)].some((status) => moves[status][move] !== undefined)
