/**
 * Planted faults: a guard is removed while Node loads the sources, and the checker must find the consequences. If a
 * second guard would hide the fault, it is removed too: either the constraint in the database, or the leases, which
 * every caller then gets at once.
 */
import { FENCE, IDEMPOTENCY, MERGING, OVERLAP, type Removal, ROW_LOCKS, STATUS, STOCK } from '../races/removals.ts'
import type { Kind } from './nemesis.ts'

export interface Planted extends Removal {
  readonly name: string
  /** description of what is removed, for people */
  readonly what: string
  /** entry file of the workers instead of the real one */
  readonly worker?: string
  readonly code: NonNullable<Removal['code']>
  /** the kinds of faults that make it visible; undefined: all kinds in turn */
  readonly kinds?: readonly Kind[]
  /** the checker must find nothing, because what is removed does not guard the answers to clients */
  readonly harmless?: true
}

const RUNNER = '/src/workers/queue/queue-runner.ts'
const UNLOCKED = { worker: 'test/races/unlocked-worker.ts' }

/** No other kinds: a kill or a freeze of a single worker would end the leaked lease. */
const FREEZES: readonly Kind[] = ['frozen while they wait for a lease']

/** Control runs, with which the planted faults are compared: the same runs with the guards in place. */
export const CONTROLS: readonly Planted[] = [
  { name: 'nothing', what: 'nothing', code: [], harmless: true },
  {
    name: 'freezes',
    what: 'nothing, where workers freeze while they wait for a lease,',
    code: [],
    kinds: FREEZES,
    harmless: true,
  },
  { name: 'leases', what: 'leases that keep others out, and all else in place', code: [], ...UNLOCKED, harmless: true },
]

export const PLANTED: readonly Planted[] = [
  {
    name: 'stock',
    what: 'the look at the stock before a sale, and the CHECK behind it',
    ...STOCK,
    code: [{ file: '/src/workers/decide/purchases.ts', guard: 'stock', instead: '0' }],
  },
  {
    name: 'overlap',
    what: 'the look at who has these dates, and the EXCLUDE behind it',
    ...OVERLAP,
    code: [{ file: '/src/workers/decide/bookings.ts', guard: 'overlap', instead: 'false' }],
  },
  {
    name: 'fence',
    what: 'the fence in the guard of a batch, the trigger behind it, and leases that keep others out',
    ...FENCE,
    ...UNLOCKED,
  },
  {
    name: 'idempotency',
    what: 'the unique key of a purchase, and what the intake does about it',
    ...IDEMPOTENCY,
  },
  {
    name: 'status',
    what: 'the condition on the status that was decided on, the unique effects behind it, and leases that keep others out',
    ...STATUS,
    ...UNLOCKED,
  },
  {
    name: 'merging',
    what: 'the merging of two lines of one resource, on both sides',
    ...MERGING,
  },
  {
    name: 'leak',
    what: 'the giving back of a lease that is granted after its worker gave up, and the deadline behind it',
    kinds: FREEZES,
    code: [
      { file: RUNNER, guard: 'late-lease', instead: '' },
      { file: RUNNER, guard: 'ended-wait', instead: '' },
      { file: RUNNER, guard: 'progress', instead: '...{}' },
    ],
  },
  {
    name: 'rows',
    what: 'the row locks under which a batch reads what it will write, and leases that keep others out',
    ...ROW_LOCKS,
    ...UNLOCKED,
  },
]
