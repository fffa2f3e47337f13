/**
 * Brings a bare checkout to where it can run: npm packages, tap's plugin set, redis-server. Says what it does and why;
 * does nothing when nothing is missing. `node ops/install.mjs` does the npm part alone.
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Refusal } from './processes.mjs'

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const [MAJOR = 0, MINOR = 0] = process.versions.node.split('.').map(Number)

export function ensurePackages(say) {
  if (MAJOR < 20 || (MAJOR === 20 && MINOR < 19)) {
    throw new Refusal(`Node ${process.versions.node} is too old: 20.19 or newer is needed`)
  }
  // npm writes this file last, so an interrupted install does not count as one.
  const installed = modified(join(ROOT, 'node_modules', '.package-lock.json'))
  const why =
    installed === undefined
      ? 'node_modules is missing'
      : installed < (modified(join(ROOT, 'package-lock.json')) ?? 0)
        ? 'package-lock.json is newer than node_modules'
        : undefined
  if (why) {
    say(`${why}: running npm ci`)
    // With NODE_ENV=production npm would leave out the embedded Postgres.
    run('npm', ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund'], 'npm ci failed; see above')
  }
}

/** tap compiles its set of plugins into node_modules; when that happens inside a test run, the run still uses the old set. */
export function ensureTapPlugins(say) {
  const built = join(ROOT, 'node_modules', '@tapjs', 'test', 'test-built', 'dist', 'esm', 'index.js')
  if (existsSync(built) && !readFileSync(built, 'utf8').includes('@tapjs/typescript')) return
  say("building tap's plugin set (once an install)")
  run(process.execPath, [tapCommand(), 'build'], 'tap build failed; see above')
}

export function tapCommand() {
  return join(ROOT, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
}

const REDIS_FOLDERS = [
  '/usr/bin',
  '/usr/sbin',
  '/usr/local/bin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
  '/opt/local/bin',
]

// Debian starts and enables a freshly installed server. Nobody asked for one on port 6379, so policy-rc.d forbids it while
// the package is set up, and it is disabled for the next boot.
const APT_SCRIPT = `
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || true
apt-get install -y -q --no-install-recommends redis-server || exit 1
systemctl disable --now redis-server >/dev/null 2>&1 || true
`

/** The path of redis-server, installed from Debian when this user may. */
export function ensureRedisServer(say) {
  const found = findRedisServer()
  if (found) return found
  const apt = existsSync('/usr/bin/apt-get')
  const root = process.getuid?.() === 0
  if (apt && (root || spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0)) {
    say('redis-server is missing: installing it from Debian (apt-get install redis-server)')
    const shell = ['sh', '-c', APT_SCRIPT]
    // npm's own variables (prefix, configuration) are none of apt's business; a terminal keeps its colours.
    const [command, ...args] = root ? shell : ['sudo', '-n', ...shell]
    spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
    const now = findRedisServer()
    if (now) return now
  }
  const command = apt
    ? 'sudo apt-get update && sudo apt-get install -y redis-server'
    : process.platform === 'darwin'
      ? 'brew install redis'
      : 'install redis-server with your package manager'
  throw new Refusal(`redis-server is missing: ${command} (or set REDIS_URL to a Redis you have)`)
}

function findRedisServer() {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), ...REDIS_FOLDERS]) {
    if (folder === '') continue
    const path = join(folder, 'redis-server')
    try {
      accessSync(path, constants.X_OK)
      if (statSync(path).isFile()) return path
    } catch {
      // not here
    }
  }
  return undefined
}

function run(command, args, failure) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) throw new Refusal(error ? `${failure} (${error.message})` : failure)
}

function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    ensurePackages((line) => console.log(`install: ${line}`))
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    console.error(`install: ${error.message}`)
    process.exitCode = 1
  }
}
