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

export interface LabDeps extends CounterDeps {
  /** undefined: the lab is disabled */
  lab: { pause_ms: number } | undefined
}

export function labRoutes(app: FastifyInstance, deps: LabDeps): void {
  const { lab, client, viaBreaker, locks } = deps
  if (!lab) return
  const { pause_ms } = lab
  const counters = createCounters(deps, pause_ms)
  inventoryRoutes(app, counters)
  ticketRoutes(app, counters)
  balanceRoutes(app, counters)
  driverRoutes(app, { client, viaBreaker, pause_ms })
  fencingRoutes(app, { client, viaBreaker, locks })
  redlockRoutes(app)
}
