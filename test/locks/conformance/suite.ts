/**
 * What every lock server must do in each of its modes. The suite is a function of a name in the table of
 * lock-servers.ts; one test file per server runs it, so the servers are tested in parallel.
 */
import t from 'tap'
import { type KindName, startLockServer } from '../lock-servers.ts'
import { conformArguments } from './arguments.ts'
import { conformClosing } from './close.ts'
import { conformDeadlines } from './deadlines.ts'
import { conformFaults } from './faults.ts'
import { conformLeases } from './leases.ts'
import { conformModes } from './modes.ts'
import { conformQueueing } from './queueing.ts'

export async function conform(kind: KindName): Promise<void> {
  const server = await startLockServer(kind)
  t.teardown(() => server.stop())
  const parts = [conformLeases, conformArguments, conformDeadlines, conformClosing]
  for (const part of [...parts, conformQueueing, conformModes, conformFaults]) part(server)
}
