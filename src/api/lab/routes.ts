/**
 * The lab: race conditions with and without protection, in the shapes of the tutorials they come from. Invariant: unsafe
 * routes write the lab's own tables only; safe ones use the path of every purchase (row, queue, lease, fencing token), on
 * resources whose type begins with `lab-`.
 */
import type { TypedApp } from '../http/typed-app.ts'
import { balanceRoutes } from './balance.ts'
import { driverRoutes } from './drivers.ts'
import { fencingRoutes } from './fencing.ts'
import { inventoryRoutes } from './inventory.ts'
import { raceRoutes } from './races.ts'
import { redlockRoutes } from './redlock.ts'
import { type CounterOptions, createCounters } from './scarce-counter.ts'
import { ticketRoutes } from './tickets.ts'

export interface LabOptions extends CounterOptions {
  /** milliseconds an unsafe variant pauses between its read and its write */
  pause_ms: number
}

export async function labRoutes(app: TypedApp, options: LabOptions): Promise<void> {
  const { db, locks, pause_ms } = options
  const counters = createCounters(options, pause_ms)
  inventoryRoutes(app, counters)
  ticketRoutes(app, counters)
  balanceRoutes(app, counters)
  driverRoutes(app, db, pause_ms)
  fencingRoutes(app, db, locks)
  redlockRoutes(app)
  raceRoutes(app)
}
