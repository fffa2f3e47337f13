/** `npm run verify`: the invariants on DATABASE_URL, each with its figure. Exit code 1 when one does not hold. */
import { openDb } from '../src/shared/db.ts'
import { verify } from '../src/shared/verify.ts'
import { readCommand, reasonOf } from './command.mjs'

const USAGE = `
npm run verify     the invariants on DATABASE_URL, or on the database of the npm start that runs here, each with its figure
Exit code 0 when all hold, 1 when one is broken or could not be looked at. 2: the options or the address make no sense.`

const url = readCommand({ name: 'verify', usage: USAGE }).address('DATABASE_URL')
const db = openDb(url, { max: 1, name: 'holdfast-verify', idle_in_transaction_ms: 60_000 })
try {
  const findings = await verify(db.client)
  for (const { invariant, looked_at, offenders } of findings) {
    process.stdout.write(`${offenders.length === 0 ? 'ok    ' : 'BROKEN'} ${invariant} (${looked_at} looked at)\n`)
    if (offenders.length > 0) process.stdout.write(`       ${offenders.join(', ')}\n`)
  }
  const broken = findings.filter((finding) => finding.offenders.length > 0).length
  process.stdout.write(`verify: ${findings.length - broken} invariants hold, ${broken} broken\n`)
  process.exitCode = broken > 0 ? 1 : 0
} catch (error) {
  process.stderr.write(`verify: ${reasonOf(error)}\n`)
  process.exitCode = 1
} finally {
  await db.close()
}
