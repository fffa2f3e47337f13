/** The table: every race, on every scarcity that it applies to. */
import type { Test } from 'tap'
import { verify } from '../../src/shared/verify.ts'
import { openArena } from './arena.ts'
import { LAST_ONE } from './last-one.ts'
import type { Race } from './race.ts'
import { BALANCES, DATE_RANGES, DRIVERS, STOCK, TICKETS } from './scarcities.ts'

const SCARCITIES = [STOCK, TICKETS, DRIVERS, DATE_RANGES, BALANCES]
const RACES: readonly Race[] = [...LAST_ONE].sort((a, b) => a.id - b.id)
/** Cases that run at once: they share the workers, as buyers of different things do. */
const AT_ONCE = 6

/** Runs the whole table, each case as a test of its own. */
export async function runTable(t: Test, locking: boolean): Promise<void> {
  const arena = await openArena(t, locking)
  const cases = RACES.flatMap((race) =>
    SCARCITIES.filter(({ name }) => race.not?.[name] === undefined).map((scarcity) => ({ race, scarcity })),
  ).filter(({ race }) => locking || race.lockingOnly === undefined)
  t.jobs = AT_ONCE
  await Promise.all(
    cases.map(({ race, scarcity }) =>
      t.test(`#${race.id} ${race.name} (${race.from}): ${scarcity.name}`, { buffered: true }, async (t) => {
        await race.run({ check: t, arena, scarcity, make: (n, options) => scarcity.make(arena, n, options) })
        for (const { invariant, offenders } of await verify(arena.shop.client)) t.same(offenders, [], invariant)
      }),
    ),
  )
  const counts = SCARCITIES.map(({ name }) => `${name} ${cases.filter((one) => one.scarcity.name === name).length}`)
  t.comment(`${new Set(cases.map(({ race }) => race.id)).size} races, ${cases.length} cases: ${counts.join(', ')}`)
}
