/**
 * `npm run openapi` writes openapi.json from the routes, and from it the types of holdfast/client; `npm run openapi --
 * --check` exits with code 1 if a committed file differs. Needs neither Postgres nor Redis.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { readCommand } from '../dev/command.mjs'
import { renderClientTypes } from './client-types.ts'
import { buildUnconnectedApp } from './unconnected-app.ts'

const DOCUMENT = 'openapi.json'
const CLIENT_TYPES = 'src/client/generated/openapi.ts'

const USAGE = `
npm run openapi                 writes openapi.json and the types of holdfast/client from the routes
npm run openapi -- --check      writes nothing: exit code 1 when a committed file says something else`
const { values } = readCommand({ name: 'openapi', usage: USAGE, options: { check: { type: 'boolean' } } })

async function render(): Promise<string> {
  const app = await buildUnconnectedApp()
  try {
    return `${JSON.stringify(app.swagger(), null, 2)}\n`
  } finally {
    await app.close()
  }
}

/** Returns the first line that differs, from both texts. */
function firstDifference(committed: string, current: string): string {
  const [before, after] = [committed.split('\n'), current.split('\n')]
  const n = after.findIndex((line, i) => line !== before[i])
  const at = n === -1 ? after.length : n
  return `  line ${at + 1}\n  committed: ${before[at]?.trim() ?? '(end)'}\n  routes:    ${after[at]?.trim() ?? '(end)'}\n`
}

const current = await render()
const files = { [DOCUMENT]: current, [CLIENT_TYPES]: await renderClientTypes(current) }
for (const [name, text] of Object.entries(files)) {
  const file = new URL(`../../${name}`, import.meta.url)
  if (!values.check) {
    await writeFile(file, text)
    continue
  }
  const committed = await readFile(file, 'utf8').catch(() => '')
  if (committed === text) continue
  process.stderr.write(`openapi: ${name} differs from the routes:\n${firstDifference(committed, text)}`)
  process.stderr.write('  `npm run openapi` writes it anew\n')
  process.exitCode = 1
}
if (process.exitCode === undefined) {
  const paths = Object.keys(JSON.parse(current).paths).length
  process.stdout.write(`openapi: ${paths} paths; ${Object.keys(files).join(' and ')} say what the routes say\n`)
}
