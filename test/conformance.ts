/**
 * What every lock server has to do in every mode that it has, whoever made it: the suite is a function of a name in the
 * table of lock-servers.ts, and a test file runs it, so that the servers are tested side by side.
 */
import t from 'tap'
import { conformOfArguments } from './conform-arguments.ts'
import { conformOfClosing } from './conform-close.ts'
import { conformOfDeadlines } from './conform-deadlines.ts'
import { conformInFaults } from './conform-faults.ts'
import { conformOfLeases } from './conform-leases.ts'
import { conformInLine } from './conform-line.ts'
import { conformInModes } from './conform-modes.ts'
import { type KindName, startLockServer } from './lock-servers.ts'

export async function conform(kind: KindName): Promise<void> {
  const server = await startLockServer(kind)
  t.teardown(() => server.stop())
  const parts = [conformOfLeases, conformOfArguments, conformOfDeadlines, conformOfClosing]
  for (const part of [...parts, conformInLine, conformInModes, conformInFaults]) part(server)
}
