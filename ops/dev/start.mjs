/**
 * `npm start [-- worker=4 api=1]`: runs everything on this machine, from a bare checkout to the addresses of Swagger UI
 * and the dashboard. Listens on this machine only unless HOST is set.
 *
 * Installs what is missing, starts a private Postgres unless DATABASE_URL is set, and a private Redis unless REDIS_URL is
 * set, migrates, loads the sample resources once and runs the Procfile, with the sandbox only if it is the payment
 * provider. Data stays in .data/ (HOLDFAST_DATA_DIR names another folder). Ctrl-C stops the processes first and their
 * servers last; a second Ctrl-C kills them without waiting.
 */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { answers } from './child-process.mjs'
import { readCommand } from './command.mjs'
import { ensureDatabase } from './environment.mjs'
import { ensurePackages, ensureRedisServer, ROOT } from './install.mjs'
import { startPostgres, startRedis } from './local-servers.mjs'
import {
  forgetPid,
  killGroup,
  lockFolder,
  nextFreePort,
  portIsFree,
  Refusal,
  reapOrphans,
  recordPid,
  signal,
} from './process-registry.mjs'
import { logger, readProcfile, startLogged, wordsOf } from './procfile.mjs'

const STOP_MS = 20_000
const RESTART_MS = 1_000
/**
 * A process that ends within this number of milliseconds did not start. After three such starts in a row `npm start`
 * gives up.
 */
const STARTED_MS = 5_000
const TRIES = 3
/**
 * The terminal sends SIGINT to all processes, and npm sends it once more: two signals within this number of milliseconds
 * count as one Ctrl-C.
 */
const SAME_CTRL_C_MS = 500

const USAGE = `
npm start [-- NAME=COUNT …]     runs everything on this machine: Postgres, Redis, one api, one worker and one sandbox
  worker=4                      runs four workers instead of one (likewise api=2)
Settings, in the environment or in a file .env (.env.example lists all of them):
  PORT=3000                     port of the API; if PORT is not set, 3000 or the next free port
  HOST=127.0.0.1                address to listen on; 0.0.0.0 admits other machines: then set API_KEYS and ADMIN_KEYS
  DATABASE_URL, REDIS_URL       servers to use instead of a private Postgres and Redis in .data/
Exit code 1: it cannot run. 2: an option or an address is invalid.`

const log = logger('holdfast', 1)
const command = readCommand({ name: 'holdfast', usage: USAGE, words: 99 })
if (existsSync(join(ROOT, '.env'))) process.loadEnvFile(join(ROOT, '.env'))
command.checkAddresses()
const { PORT } = process.env
if (PORT && !(/^\d{1,5}$/.test(PORT) && PORT >= 1 && PORT <= 65_535))
  command.refuse(`PORT must be from 1 to 65535, not "${PORT}"`)
const data = resolve(ROOT, process.env.HOLDFAST_DATA_DIR || '.data')
const children = new Map()
let servers = []
/** the folder that records the running processes; undefined if both DATABASE_URL and REDIS_URL were set */
let registry
let starting = Promise.resolve()
let stopping = false
let unlock = () => {}
let finish
const finished = new Promise((done) => {
  finish = done
})

process.stdout.on('error', () => stop(0, 'the output was closed'))
let last_signal_ms
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(name, () => {
    const now = performance.now()
    const again = last_signal_ms !== undefined && now - last_signal_ms > SAME_CTRL_C_MS
    last_signal_ms = now
    if (again) endNow()
    else void stop(0, `${name}: stopping; press Ctrl-C again to end at once`)
  })
}

try {
  await main()
} catch (error) {
  // Print no errors while stopping: the stop itself causes them.
  if (!stopping) process.stderr.write(`holdfast: ${error instanceof Refusal ? error.message : error.stack}\n`)
  void stop(1)
}
process.exit(await finished)

async function main() {
  const counts = readProcfile(command)
  // Listen on loopback unless HOST is set, because this start has no keys and serves the lab and the metrics.
  const env = { ...process.env, HOST: process.env.HOST || '127.0.0.1' }
  const own = { postgres: !env.DATABASE_URL, redis: !env.REDIS_URL }
  if (own.postgres || own.redis) {
    makeData()
    unlock = lockFolder(data, 'npm start')
    registry = data
    rmSync(join(data, 'env'), { force: true })
    await reapOrphans(data, log)
  }
  const port = await apiPort(env)
  await ensurePackages(log)
  if (stopping) return
  if (own.redis) env.REDIS_URL = (await startServer('redis', { binary: ensureRedisServer(log) }, startRedis)).url
  if (own.postgres) {
    const server = await startServer('postgres', {}, startPostgres)
    await ensureDatabase(server.url('postgres'), 'holdfast')
    env.DATABASE_URL = server.url('holdfast')
  }
  if (stopping) return
  if (own.postgres || own.redis) {
    const api = counts.get('api')?.count ? `HOLDFAST_URL=http://${reachable(env.HOST)}:${port}\n` : ''
    const lines = `DATABASE_URL=${env.DATABASE_URL}\nREDIS_URL=${env.REDIS_URL}\n${api}`
    writeFileSync(join(data, 'env'), lines, { mode: 0o600 })
    log(`npm run verify and the other commands read these addresses from ${join(data, 'env')}`)
  }
  await runOnce('migrate', ['--import=tsx', 'ops/commands/migrate.ts'], env)
  await runOnce('seed', ['--import=tsx', 'ops/commands/seed.ts'], env)
  if (stopping) return
  await chooseSandbox(counts, env, port)
  await runProcfile(counts, env, port)
  if (counts.get('api')?.count) await printReady(env, port)
}

function makeData() {
  try {
    mkdirSync(data, { recursive: true })
    accessSync(data, constants.W_OK)
  } catch (error) {
    throw new Refusal(
      `cannot write to ${data} (${error.code}): it belongs to another user; run as that user or remove it`,
    )
  }
}

/** Returns PORT, or if it is unset 3000 or the next free port. */
async function apiPort(env) {
  // Also check ::1: a program there would get the browsers' requests, because they try ::1 before 127.0.0.1.
  const hosts = [env.HOST, '0.0.0.0', '127.0.0.1', '::1']
  if (!env.PORT) {
    const port = await nextFreePort(3000, hosts)
    if (port !== 3000) log(`port 3000 is taken; using ${port} (PORT chooses another)`)
    return port
  }
  const port = Number(env.PORT)
  if (!(await portIsFree(port, hosts))) throw new Refusal(`port ${port} is taken; set PORT to another`)
  return port
}

/** Starts a server on the port that it had last time, and restarts it there if it ends by itself. */
async function startServer(name, options, start) {
  const file = join(data, `${name}.port`)
  const before = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0
  const port = before && (await portIsFree(before)) ? { port: before } : {}
  const launch = async (where) => {
    const pending = start({ ...options, ...where, folder: data, detached: true, log })
    // stop() waits for a start that is still under way, so that it finds the server.
    starting = pending.catch(() => undefined)
    const server = await pending
    recordPid(data, name, server.pid)
    servers.push({ name, server })
    void server.exited.then(async (how) => {
      servers = servers.filter((entry) => entry.server !== server)
      if (stopping) return
      log(`${name} has ended (${how}); starting it again on port ${server.port}`)
      await sleep(RESTART_MS)
      if (!stopping) await launch({ port: server.port }).catch((error) => stop(1, error.message))
    })
    return server
  }
  const server = await launch(port)
  writeFileSync(file, String(server.port))
  log(`${name} answers on 127.0.0.1:${server.port}`)
  return server
}

async function runOnce(name, args, env) {
  if (stopping) return
  const how = await run(name, [process.execPath, ...args], env, logger(name, 1)).exited
  if (how !== 'code 0' && !stopping) throw new Refusal(`${name} failed; see above`)
}

/**
 * Lets one sandbox run for all processes, and chooses its address before they start. No sandbox runs if PAYMENTS is
 * `stripe` or SANDBOX_URL is set.
 */
async function chooseSandbox(counts, env, port) {
  if (env.PAYMENTS === 'stripe' || env.SANDBOX_URL) counts.delete('sandbox')
  const sandbox = counts.get('sandbox')
  if (!sandbox?.count) return
  sandbox.count = 1
  env.SANDBOX_URL = `http://127.0.0.1:${await nextFreePort(12_111, ['127.0.0.1'])}`
  env.SANDBOX_WEBHOOK_URL ??= `http://${reachable(env.HOST)}:${port}/api/webhooks/stripe`
}

async function runProcfile(counts, env, port) {
  let next = port
  let metrics_port = 9464
  for (const [name, { command, count }] of counts) {
    for (let i = 1; i <= count; i++) {
      const label = count === 1 && name !== 'worker' ? name : `${name}.${i}`
      const extra = {}
      if (name === 'api') {
        extra.PORT = String(i === 1 ? port : await nextFreePort(next + 1, [env.HOST]))
        next = Number(extra.PORT)
      } else if (name === 'worker') {
        metrics_port = await nextFreePort(metrics_port, [env.HOST])
        extra.METRICS_PORT = String(metrics_port++)
      }
      void watch(label, wordsOf(command), { ...env, ...extra }, extra)
    }
  }
}

/** Runs a process and restarts it when it ends, until three starts in a row have failed. */
async function watch(label, words, env, extra) {
  const logChild = logger(label, [...children.keys()].length + 2)
  for (let early = 0; !stopping; ) {
    const since = performance.now()
    const child = run(label, words, env, logChild)
    const where = Object.entries(extra).map(([name, value]) => ` ${name}=${value}`)
    logChild(`started, pid ${child.pid}${where.join('')}`)
    const how = await child.exited
    if (stopping) return
    early = performance.now() - since < STARTED_MS ? early + 1 : 0
    if (early === TRIES) return stop(1, `${label} ended ${TRIES} times soon after its start (${how}): giving up`)
    log(`${label} has ended (${how}); starting it again in ${RESTART_MS / 1000} s`)
    await sleep(RESTART_MS)
  }
}

/** Runs a process until stop() ends it. If this `npm start` is killed, the next `npm start` ends the process. */
function run(label, words, env, log) {
  const { pid, exited, closed } = startLogged(words, env, log)
  if (pid === 0) return { pid, exited }
  if (registry) recordPid(registry, label, pid)
  const ended = exited.then(async (how) => {
    // End the processes that this process has started, and wait for the end of its output.
    await killGroup(pid, { deadline_ms: STOP_MS })
    await Promise.race([closed, sleep(1_000)])
    children.delete(label)
    if (registry) forgetPid(registry, label)
    return how
  })
  children.set(label, { pid, ended })
  return { pid, exited: ended }
}

/** Returns the host under which this machine reaches a server that listens on HOST. */
function reachable(host) {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1'
  return host.includes(':') ? `[${host}]` : host
}

async function printReady(env, port) {
  while (!(await answers(`http://${reachable(env.HOST)}:${port}/livez`))) {
    if (stopping) return
    await sleep(50)
  }
  const host = ['127.0.0.1', '::1', '0.0.0.0', '::'].includes(env.HOST) ? 'localhost' : reachable(env.HOST)
  const url = `http://${host}:${port}`
  const alone = ['127.0.0.1', '::1', 'localhost'].includes(env.HOST)
  const keys = env.API_KEYS && env.ADMIN_KEYS
  log(
    alone
      ? `it listens on ${env.HOST}, for this machine alone (HOST=0.0.0.0 lets others in; set API_KEYS and ADMIN_KEYS then)`
      : `it listens on ${env.HOST}, for other machines too${keys ? '' : ': API_KEYS and ADMIN_KEYS are not set, so EVERY CALLER MAY DO EVERYTHING'}`,
  )
  log(`ready: Swagger UI is at ${url}/docs and the dashboard at ${url} (Ctrl-C stops everything)`)
}

/** Stops everything in order, then lets the program end with `code`. Only the first call counts. */
async function stop(code, why) {
  if (stopping) return
  stopping = true
  if (why) log(why)
  for (const { pid } of children.values()) void killGroup(pid, { deadline_ms: STOP_MS })
  await Promise.all(Array.from(children.values(), ({ ended }) => ended))
  await starting
  for (const name of ['redis', 'postgres']) {
    for (const entry of servers.filter((candidate) => candidate.name === name)) {
      await entry.server.stop()
      forgetPid(data, name)
    }
  }
  unlock()
  if (why) log('stopped')
  finish(code)
}

function endNow() {
  log('ending at once')
  for (const [label, { pid }] of children) {
    signal(-pid, 'SIGKILL')
    if (registry) forgetPid(registry, label)
  }
  // On SIGQUIT Postgres also ends its child processes; it replays its log at the next start.
  for (const { name, server } of servers) server.kill(name === 'postgres' ? 'SIGQUIT' : 'SIGKILL')
  unlock()
  process.exit(1)
}
