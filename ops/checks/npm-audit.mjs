/**
 * Part of `npm run check`: lists known vulnerabilities of the packages that run in production. Exit code 1 from
 * severity `high` on. If the registry cannot be reached or has no advisories, the check prints a line and does not
 * fail.
 */
import { spawnSync } from 'node:child_process'

const args = ['audit', '--json', '--omit=dev', '--fetch-retries=0', '--fetch-timeout=10000']
const { stdout } = spawnSync('npm', args, { encoding: 'utf8', shell: process.platform === 'win32' })
let report
try {
  report = JSON.parse(stdout)
} catch {
  report = { message: 'npm audit printed nothing' }
}
const found = report.metadata?.vulnerabilities
if (!found) {
  process.stdout.write(`audit: NOT DONE, the registry has no advisories for us: ${report.message ?? 'no report'}\n`)
} else {
  process.stdout.write(
    `audit: ${Object.entries(found)
      .map(([severity, count]) => `${severity} ${count}`)
      .join(', ')}\n`,
  )
  for (const { name, severity, range } of Object.values(report.vulnerabilities)) {
    process.stdout.write(`  ${severity}: ${name} ${range}\n`)
  }
  if (found.high + found.critical > 0) process.exitCode = 1
}
