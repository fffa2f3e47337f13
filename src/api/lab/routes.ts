/**
 * The lab: race conditions with and without protection, in the shapes of the tutorials they come from. Invariant: unsafe
 * routes write the lab's own tables only; safe ones use the path of every purchase (row, queue, lease, fencing token), on
 * resources whose type begins with `lab-`.
 */
import type { FastifyInstance } from 'fastify'
import { balanceRoutes } from './balance.ts'
import { driverRoutes } from './drivers.ts'
import { fencingRoutes } from './fencing.ts'
import { inventoryRoutes } from './inventory.ts'
import { redlockRoutes } from './redlock.ts'
import { type CounterDeps, createCounters } from './scarce-counter.ts'
import { ticketRoutes } from './tickets.ts'

export interface LabOptions extends CounterDeps {
  /** milliseconds an unsafe variant pauses between its read and its write */
  pause_ms: number
}

export async function labRoutes(app: FastifyInstance, deps: LabOptions): Promise<void> {
  const { pause_ms, client, viaBreaker, locks } = deps
  const counters = createCounters(deps, pause_ms)
  inventoryRoutes(app, counters)
  ticketRoutes(app, counters)
  balanceRoutes(app, counters)
  driverRoutes(app, { client, viaBreaker, pause_ms })
  fencingRoutes(app, { client, viaBreaker, locks })
  redlockRoutes(app)
}
