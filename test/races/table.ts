/** Runs the table of races: every race on every scarcity to which it applies. */
import type { Test } from 'tap'
import { verify } from '../../src/shared/invariants.ts'
import { openEnvironment } from './environment.ts'
import { HELD } from './held.ts'
import { LAST_ONE } from './last-one.ts'
import { ONCE } from './once.ts'
import type { Race } from './race.ts'
import { ROUND_THE_LOCK } from './round-the-lock.ts'
import { BALANCES, DATE_RANGES, DRIVERS, STOCK, TICKETS } from './scarcities.ts'

export const SCARCITIES = [STOCK, TICKETS, DRIVERS, DATE_RANGES, BALANCES]
export const RACES: readonly Race[] = [...LAST_ONE, ...HELD, ...ONCE, ...ROUND_THE_LOCK].sort((a, b) => a.id - b.id)
/**
 * Races that run concurrently, each on all its scarcities. They share the workers, as buyers of different products do.
 */
const AT_ONCE = 2

const appliesTo = (race: Race) => SCARCITIES.filter(({ name }) => race.not?.[name] === undefined)

/**
 * Runs the whole table, each case as a separate test. After each race it asserts every invariant of `npm run verify`.
 */
export async function runTable(t: Test, locking: boolean): Promise<void> {
  const environment = await openEnvironment(t, locking)
  const races = RACES.filter((race) => locking || race.lockingOnly === undefined)
  const run = (race: Race) =>
    t.test(`#${race.id} ${race.name} (${race.from})`, { buffered: true }, async (t) => {
      const scarcities = appliesTo(race)
      t.jobs = scarcities.length
      await Promise.all(
        scarcities.map((scarcity) =>
          t.test(scarcity.name, { buffered: true }, (t) =>
            race.run({
              check: t,
              environment,
              scarcity,
              among: scarcities.length,
              make: (n, options) => scarcity.make(environment, n, options),
            }),
          ),
        ),
      )
      const findings = await verify(environment.shop.client)
      t.same(
        findings.filter((one) => one.offenders.length > 0),
        [],
        `${findings.length} invariants hold`,
      )
    })
  t.jobs = AT_ONCE
  await Promise.all(races.filter((race) => !race.apart).map(run))
  for (const race of races.filter((race) => race.apart)) await run(race)
  const counts = SCARCITIES.map((scarcity) => {
    const cases = races.filter((race) => appliesTo(race).includes(scarcity)).length
    return `${scarcity.name} ${cases}`
  })
  const cases = races.reduce((sum, race) => sum + appliesTo(race).length, 0)
  t.comment(`${races.length} races, ${cases} cases: ${counts.join(', ')}`)
}
