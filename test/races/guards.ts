/**
 * Proves that the races can be lost: `npm run races:guards`. It removes each guard from a separate database or process
 * whose leases exclude no other worker, and runs the guard's race, which must fail for the given reason. Not part of
 * `npm test`, because it tests the tests.
 */
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { verify } from '../../src/shared/invariants.ts'
import { type Environment, openEnvironment } from './environment.ts'
import type { Check } from './race.ts'
import { FENCE, IDEMPOTENCY, MERGING, OVERLAP, type Removal, RIDE, ROW_LOCKS, STATUS, STOCK } from './removals.ts'
import type { ScarcityName } from './scarcities.ts'
import { RACES, SCARCITIES } from './table.ts'

const TRIES = 10

interface Guard extends Removal {
  name: string
  /** the race that fails without the guard, and its scarcity */
  race: number
  on: ScarcityName
  /** matches one of the assertions that fail */
  lost: RegExp
}

/** Guards of the database, removed in one shared environment. */
const IN_SQL: readonly Guard[] = [
  { name: 'EXCLUDE bookings_no_overlap', race: 6, on: 'date ranges', ...OVERLAP, lost: /four of four are taken/ },
  { name: 'CHECK resources_available_check', race: 6, on: 'stock', ...STOCK, lost: /four of four are taken/ },
  { name: 'UNIQUE bookings_active_ride', race: 19, on: 'drivers', ...RIDE, lost: /1 of 8 have it/ },
]

/** Guards of the code, some together with a second guard in the database. */
const IN_CODE: readonly Guard[] = [
  {
    name: 'the fence in the guard of a batch, and the trigger that keeps it from falling',
    race: 21,
    on: 'stock',
    ...FENCE,
    lost: /tokens rise/,
  },
  {
    name: 'the row locks under which a batch reads what it will write',
    race: 10,
    on: 'balances',
    ...ROW_LOCKS,
    lost: /3 of 16 have it/,
  },
  {
    name: 'the condition on the status that was decided on, the trigger on statuses, and UNIQUE ledger_entries_effect',
    race: 21,
    on: 'stock',
    ...STATUS,
    lost: /two are taken|4 of 10 have it/,
  },
  {
    name: 'UNIQUE purchases_idempotency_key, and what the intake does about it',
    race: 14,
    on: 'stock',
    ...IDEMPOTENCY,
    lost: /one order/,
  },
  { name: 'the merging of lines of one resource', race: 3, on: 'tickets', ...MERGING, lost: /0 of 1 have it/ },
]

/** Returns the failed assertions of the race and the invariants violated after it; none if the race is won. */
async function failures(environment: Environment, { race: id, on }: Guard): Promise<string[]> {
  const failed: string[] = []
  const note = (held: boolean, message: string, found: unknown) => {
    if (!held) failed.push(`${message}; found ${JSON.stringify(found)}`)
  }
  const check: Check = {
    ok: (found, message) => note(Boolean(found), message, found),
    notOk: (found, message) => note(!found, message, found),
    equal: (found, wanted, message) => note(found === wanted, message, found),
    same: (found, wanted, message) => note(isDeepStrictEqual(found, wanted), message, found),
  }
  const race = RACES.find((one) => one.id === id)
  const scarcity = SCARCITIES.find((one) => one.name === on)
  if (!race || !scarcity || race.not?.[on] !== undefined) throw new Error(`there is no race #${id} on ${on}`)
  try {
    await race.run({
      check,
      environment,
      scarcity,
      among: 1,
      make: (n, options) => scarcity.make(environment, n, options),
    })
  } catch (error) {
    failed.push(`it threw ${(error as Error).message}`)
  }
  for (const { invariant, offenders } of await verify(environment.shop.client)) {
    note(offenders.length === 0, invariant, offenders.length)
  }
  return failed
}

async function proof(t: Test, environment: Environment, guard: Guard): Promise<void> {
  if (guard.sql) await environment.shop.client.unsafe(guard.sql)
  let why: string | undefined
  let tries = 0
  // Some races fail only if two workers meet at the right point, so try again.
  while (!why && tries++ < TRIES) why = (await failures(environment, guard)).find((one) => guard.lost.test(one))
  const end = why ? `is lost in try ${tries}: ${why}` : `is not lost in ${TRIES} tries`
  process.stderr.write(`without ${guard.name}: #${guard.race} on ${guard.on} ${end}\n`)
  t.ok(why, `without it #${guard.race} on ${guard.on} is lost`)
}

t.test('guards of the database', async (t) => {
  const environment = await openEnvironment(t, false)
  for (const guard of IN_SQL) {
    t.same(await failures(environment, guard), [], `with ${guard.name} #${guard.race} on ${guard.on} is won`)
  }
  for (const guard of IN_SQL) await t.test(guard.name, (t) => proof(t, environment, guard))
})

for (const guard of IN_CODE) {
  t.test(guard.name, async (t) => {
    const hook = `--import=${new URL('without.mjs', import.meta.url).pathname}`
    if (guard.env) {
      t.same(await failures(await openEnvironment(t, false, guard.env), guard), [], `with it #${guard.race} is won`)
    }
    const env = { ...guard.env, NODE_OPTIONS: hook, TEST_CODE_PATCH: JSON.stringify(guard.code) }
    await proof(t, await openEnvironment(t, false, env), guard)
  })
}
