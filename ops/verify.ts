/** `npm run verify`: the invariants on DATABASE_URL, each with its figure. Exit code 1 when one does not hold. */
import { openDb } from '../src/shared/db.ts'
import { verify } from '../src/shared/verify.ts'

const url = process.env.DATABASE_URL
if (!url) {
  process.stderr.write('holdfast: DATABASE_URL is not set\n')
  process.exit(1)
}
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
  process.stderr.write(`verify: ${error instanceof Error ? error.message || error : error}\n`)
  process.exitCode = 1
} finally {
  await db.close()
}
