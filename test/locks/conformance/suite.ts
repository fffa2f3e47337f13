/**
 * What every lock server has to do in every mode that it has, whoever made it: the suite is a function of a name in the
 * table of lock-servers.ts, and a test file runs it, so that the servers are tested side by side.
 */
import t from 'tap'
import { type KindName, startLockServer } from '../lock-servers.ts'
import { conformOfArguments } from './arguments.ts'
import { conformOfClosing } from './close.ts'
import { conformOfDeadlines } from './deadlines.ts'
import { conformInFaults } from './faults.ts'
import { conformOfLeases } from './leases.ts'
import { conformInModes } from './modes.ts'
import { conformInLine } from './queueing.ts'

export async function conform(kind: KindName): Promise<void> {
  const server = await startLockServer(kind)
  t.teardown(() => server.stop())
  const parts = [conformOfLeases, conformOfArguments, conformOfDeadlines, conformOfClosing]
  for (const part of [...parts, conformInLine, conformInModes, conformInFaults]) part(server)
}
