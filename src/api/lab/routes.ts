/**
 * The lab: the same races with and without protection, in the shapes of the tutorials they come from. Invariant: what is
 * unsafe here is unsafe on the lab's own tables alone; the safe sides take the road of every purchase (row, queue, lease,
 * fence), on resources that are named for the lab.
 */
import type { FastifyInstance } from 'fastify'
import { balanceRoutes } from './balance.ts'
import { driverRoutes } from './drivers.ts'
import { fencingRoutes } from './fencing.ts'
import { inventoryRoutes } from './inventory.ts'
import { quorumRoutes } from './redlock.ts'
import { type CounterDeps, createCounters } from './scarce-counter.ts'
import { ticketRoutes } from './tickets.ts'

export interface LabDeps extends CounterDeps {
  /** absent: there is no lab */
  lab: { pause_ms: number } | undefined
}

export function labRoutes(app: FastifyInstance, deps: LabDeps): void {
  const { lab, client, guarded, locks } = deps
  if (!lab) return
  const { pause_ms } = lab
  const counters = createCounters(deps, pause_ms)
  inventoryRoutes(app, counters)
  ticketRoutes(app, counters)
  balanceRoutes(app, counters)
  driverRoutes(app, { client, guarded, pause_ms })
  fencingRoutes(app, { client, guarded, locks })
  quorumRoutes(app)
}
