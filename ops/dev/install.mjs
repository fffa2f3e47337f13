/**
 * Installs everything that a bare checkout lacks: npm packages, tap's plugin set, redis-server, etcd. Prints what it
 * does and why; does nothing if nothing is missing. `node ops/dev/install.mjs` does the npm part alone.
 */
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Refusal } from './process-registry.mjs'

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
/** Milliseconds between two lines of progress. */
const PROGRESS_MS = 3_000
const [MAJOR = 0, MINOR = 0] = process.versions.node.split('.').map(Number)

/** Returns the patches that npm ci applies to packages after it has unpacked them. */
const patches = () => readdirSync(join(ROOT, 'ops', 'patches')).map((name) => join(ROOT, 'ops', 'patches', name))

/** Installs the npm packages if they are missing or old. Resolves once they are installed. */
export async function ensurePackages(log) {
  if (MAJOR < 20 || (MAJOR === 20 && MINOR < 19)) {
    throw new Refusal(`Node ${process.versions.node} is too old: 20.19 or newer is needed`)
  }
  // npm writes this file last, so an interrupted install does not count as one.
  const installed = modified(join(ROOT, 'node_modules', '.package-lock.json'))
  const why =
    installed === undefined
      ? 'node_modules is missing'
      : [join(ROOT, 'package-lock.json'), ...patches()].some((file) => installed < (modified(file) ?? 0))
        ? 'package-lock.json or a patch is newer than node_modules'
        : undefined
  if (why) {
    log(`${why}: running npm ci`)
    await installPackages(log)
  }
}

/** Runs npm ci. npm prints nothing for a minute or more, so this counts the unpacked packages and logs the number. */
async function installPackages(log) {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'))
  const here = { os: process.platform, cpu: process.arch, libc: libc() }
  const wanted = Object.entries(packages).flatMap(([path, needs]) =>
    path !== '' && Object.entries(here).every(([what, ours]) => needs[what]?.includes(ours) ?? true) ? [path] : [],
  )
  const began = performance.now()
  const timer = setInterval(() => {
    const there = wanted.filter((path) => existsSync(join(ROOT, path, 'package.json'))).length
    const seconds = Math.round((performance.now() - began) / 1000)
    log(`npm ci: ${there} of about ${wanted.length} packages after ${seconds} s`)
  }, PROGRESS_MS)
  // With NODE_ENV=production npm would leave out the embedded Postgres.
  const args = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--no-progress']
  const npm = spawn('npm', args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] })
  // End npm together with this process.
  const end = () => npm.kill()
  process.once('exit', end)
  const how = await new Promise((resolve) => {
    npm.once('error', (error) => resolve(` (${error.message})`))
    npm.once('exit', (code) => resolve(code === 0 ? undefined : ''))
  })
  process.off('exit', end)
  clearInterval(timer)
  if (how !== undefined) throw new Refusal(`npm ci failed${how || '; see above'}`)
}

function libc() {
  // Otherwise the report looks up the names of connected hosts, which may take seconds.
  process.report.excludeNetwork = true
  return process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
}

/** tap compiles its set of plugins into node_modules; when that happens inside a test run, the run still uses the old set. */
export function ensureTapPlugins(log) {
  const built = join(ROOT, 'node_modules', '@tapjs', 'test', 'test-built', 'dist', 'esm', 'index.js')
  if (existsSync(built) && !readFileSync(built, 'utf8').includes('@tapjs/typescript')) return
  log("building tap's plugin set (once an install)")
  run(process.execPath, [tapCommand(), 'build'], 'tap build failed; see above')
}

export function tapCommand() {
  return join(ROOT, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
}

const SERVER_FOLDERS = [
  '/usr/bin',
  '/usr/sbin',
  '/usr/local/bin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
  '/opt/local/bin',
]

// Debian starts and enables a freshly installed server. Holdfast wants no server on the usual port, so policy-rc.d
// forbids the start during the installation, and systemctl disables the service for the next boot. $1 is the package,
// $2 its service.
const APT_SCRIPT = `
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || true
apt-get install -y -q --no-install-recommends "$1" || exit 1
systemctl disable --now "$2" >/dev/null 2>&1 || true
`

// A user who may not install packages can unpack one that has no dependencies. If the machine has no package lists or
// old ones, the script fetches them into a separate folder. $1 is the folder, $2 the package.
const UNPACK_SCRIPT = `
cd "$1" && mkdir -p lists/partial cache/archives/partial || exit 1
own="-o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache -o Debug::NoLocking=1"
apt-get download -q "$2" || { apt-get $own -q update && apt-get $own -q download "$2"; } || exit 1
dpkg-deb -x "$2"_*.deb . && rm -rf "$2"_*.deb lists cache
`
const ETCD_FOLDER = join(ROOT, '.cache', 'etcd')
const PROMETHEUS_FOLDER = join(ROOT, '.cache', 'prometheus')
const FAKETIME_FOLDER = join(ROOT, '.cache', 'faketime')

/** @see install.d.mts */
export function ensureRedisServer(log) {
  const found = find('redis-server') ?? installed('redis-server', 'redis-server', 'redis-server', log)
  if (found) return found
  const command = advice('redis-server', 'redis')
  throw new Refusal(`redis-server is missing: ${command} (or set REDIS_URL to a Redis you have)`)
}

/** @see install.d.mts */
export function ensureEtcdServer(log) {
  const found = find('etcd', [join(ETCD_FOLDER, 'usr', 'bin')]) ?? installed('etcd', 'etcd-server', 'etcd', log)
  if (found) return found
  if (existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')) {
    log(`etcd is missing: unpacking Debian's package etcd-server into ${ETCD_FOLDER}`)
    unpack(ETCD_FOLDER, 'etcd-server')
    const now = find('etcd', [join(ETCD_FOLDER, 'usr', 'bin')])
    if (now) return now
  }
  throw new Refusal(`etcd is missing: ${advice('etcd-server', 'etcd')}`)
}

/**
 * libfaketime gives a process a separate clock. Only tests need it, so it is unpacked into the checkout and never
 * installed. @see install.d.mts
 */
export function ensureFaketime(log) {
  const found = findFaketime()
  if (found) return found
  if (existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')) {
    log(`libfaketime is missing: unpacking Debian's package into ${FAKETIME_FOLDER}`)
    unpack(FAKETIME_FOLDER, 'libfaketime')
    const now = findFaketime()
    if (now) return now
  }
  const why =
    process.platform === 'linux' ? advice('libfaketime', '') : 'the tests that set the clock of a server need Linux'
  throw new Refusal(`libfaketime is missing: ${why}`)
}

/**
 * Only a test needs prometheus and promtool, so they are unpacked into the checkout and never installed. @see
 * install.d.mts
 */
export function ensurePrometheus(log) {
  const folders = [join(PROMETHEUS_FOLDER, 'usr', 'bin')]
  const look = () => ({ prometheus: find('prometheus', folders), promtool: find('promtool', folders) })
  if (!look().promtool && existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')) {
    log(`prometheus is missing: unpacking Debian's package into ${PROMETHEUS_FOLDER}`)
    unpack(PROMETHEUS_FOLDER, 'prometheus')
  }
  const { prometheus, promtool } = look()
  if (prometheus && promtool) return { prometheus, promtool }
  throw new Refusal(`prometheus is missing: ${advice('prometheus', 'prometheus')}`)
}

/** Finds libfaketime. Debian has it in a folder named after the architecture, other systems in /usr/lib64. */
function findFaketime() {
  for (const root of [join(FAKETIME_FOLDER, 'usr', 'lib'), '/usr/lib', '/usr']) {
    if (!existsSync(root)) continue
    for (const name of readdirSync(root)) {
      const path = join(root, name, 'faketime', 'libfaketime.so.1')
      if (existsSync(path)) return path
    }
  }
  return undefined
}

function unpack(folder, name) {
  mkdirSync(folder, { recursive: true })
  spawnSync('sh', ['-c', UNPACK_SCRIPT, 'sh', folder, name], { stdio: ['ignore', 2, 2] }) // stdout may be a test's
}

/** Installs the server's package from Debian if this user may. Returns the server's path, or undefined. */
function installed(server, name, service, log) {
  const root = process.getuid?.() === 0
  if (!existsSync('/usr/bin/apt-get')) return undefined
  if (!root && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status !== 0) return undefined
  log(`${server} is missing: installing it from Debian (apt-get install ${name})`)
  const shell = ['sh', '-c', APT_SCRIPT, 'sh', name, service]
  // apt needs none of npm's variables; its output is inherited, so that a terminal keeps its colours.
  const [command, ...args] = root ? shell : ['sudo', '-n', ...shell]
  spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  return find(server)
}

function advice(on_debian, on_mac) {
  if (existsSync('/usr/bin/apt-get')) return `sudo apt-get update && sudo apt-get install -y ${on_debian}`
  if (process.platform === 'darwin') return `brew install ${on_mac}`
  return `install ${on_debian} with your package manager`
}

function find(server, folders = []) {
  for (const folder of [...folders, ...(process.env.PATH ?? '').split(delimiter), ...SERVER_FOLDERS]) {
    if (folder === '') continue
    const path = join(folder, server)
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
    await ensurePackages((line) => console.log(`install: ${line}`))
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    console.error(`install: ${error.message}`)
    process.exitCode = 1
  }
}
