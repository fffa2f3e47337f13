/** Part of `npm run check`: compares src/shared/db/schema.ts with drizzle/. Exit code 1 if a migration is missing. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'

const folder = mkdtempSync(join(tmpdir(), 'holdfast-drift-'))
try {
  cpSync('drizzle', folder, { recursive: true })
  // drizzle-kit puts ./ before the path, and always exits with 0, so only its output counts.
  const args = [
    'generate',
    '--dialect=postgresql',
    '--schema=./src/shared/db/schema.ts',
    `--out=${relative('.', folder)}`,
  ]
  const said = execFileSync('node_modules/.bin/drizzle-kit', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (!said.includes('No schema changes')) {
    process.stderr.write(`${said}\ndrift: run npx drizzle-kit generate and read what it writes\n`)
    process.exitCode = 1
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
