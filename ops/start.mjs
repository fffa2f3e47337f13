/**
 * `npm start [-- worker=4 api=1]`: everything on this machine, from a bare checkout to the address of Swagger UI.
 *
 * Installs what is missing, starts a private Postgres and Redis (not those whose URL is given), migrates, loads the
 * sample resources once and runs the Procfile. Data stays in .data/ (HOLDFAST_DATA moves it). Ctrl-C stops the processes
 * first and their servers last; a second Ctrl-C does not wait.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ensurePackages, ensureRedisServer, ROOT } from './install.mjs'
import {
  endGroup,
  endLeftovers,
  forget,
  lockFolder,
  nextFreePort,
  portIsFree,
  Refusal,
  remember,
  signal,
} from './processes.mjs'
import { startPostgres, startRedis } from './services.mjs'

const STOP_MS = 20_000
const RESTART_MS = 1_000
/** A process that lives shorter than this did not start; three such in a row are given up on. */
const STARTED_MS = 5_000
const TRIES = 3
/** npm passes on the Ctrl-C that the terminal has sent to all of us already: two this close are one. */
const SAME_CTRL_C_MS = 500

const COLOURS = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94]
const say = logger('holdfast', 1)
const data = resolve(ROOT, process.env.HOLDFAST_DATA || '.data')
const children = new Map()
const servers = []
/** the folder that owns what runs, unless both servers are someone else's */
let registry
let starting = Promise.resolve()
let stopping = false
let unlock = () => {}
let finish
const finished = new Promise((done) => {
  finish = done
})

process.stdout.on('error', () => stop(0, 'nobody reads the log any more'))
let last_signal_ms
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(name, () => {
    const now = performance.now()
    const again = last_signal_ms !== undefined && now - last_signal_ms > SAME_CTRL_C_MS
    last_signal_ms = now
    if (again) endNow()
    else void stop(0, `${name}: stopping (again: at once)`)
  })
}

try {
  await main()
} catch (error) {
  // What fails while we stop fails because we stop.
  if (!stopping) process.stderr.write(`holdfast: ${error instanceof Refusal ? error.message : error.stack}\n`)
  void stop(1)
}
process.exit(await finished)

async function main() {
  const counts = wanted(process.argv.slice(2))
  if (existsSync(join(ROOT, '.env'))) process.loadEnvFile(join(ROOT, '.env'))
  const env = { ...process.env }
  const own = { postgres: !env.DATABASE_URL, redis: !env.REDIS_URL }
  if (own.postgres || own.redis) {
    makeData()
    unlock = lockFolder(data, 'npm start')
    registry = data
    rmSync(join(data, 'env'), { force: true })
    await endLeftovers(data, say)
  }
  const port = await apiPort(env)
  ensurePackages(say)
  if (own.redis) env.REDIS_URL = (await keep('redis', { binary: ensureRedisServer(say) }, startRedis)).url
  if (own.postgres) {
    const server = await keep('postgres', {}, startPostgres)
    env.DATABASE_URL = await database(server.url('postgres'), server.url('holdfast'))
  }
  if (stopping) return
  if (own.postgres || own.redis) {
    const lines = `DATABASE_URL=${env.DATABASE_URL}\nREDIS_URL=${env.REDIS_URL}\n`
    writeFileSync(join(data, 'env'), lines, { mode: 0o600 })
    say(`DATABASE_URL and REDIS_URL are in ${join(data, 'env')} (node --env-file, or: set -a; . that file)`)
  }
  await once('migrate', ['--import=tsx', 'ops/migrate.ts'], env)
  await once('seed', ['--import=tsx', 'ops/seed.ts'], env)
  if (stopping) return
  await runProcfile(counts, env, port)
  if (counts.get('api')?.count) await announce(env.HOST, port)
}

/** How many of each Procfile line: one, or what name=N says. */
function wanted(args) {
  const lines = readFileSync(join(ROOT, 'Procfile'), 'utf8').matchAll(/^([\w-]+):\s*(.+)$/gm)
  const counts = new Map(Array.from(lines, ([, name, command]) => [name, { command, count: 1 }]))
  for (const arg of args) {
    const [, name, count] = /^([\w-]+)=(\d{1,2})$/.exec(arg) ?? []
    const line = counts.get(name)
    if (!line)
      throw new Refusal(`cannot read "${arg}": say NAME=COUNT, where NAME is ${[...counts.keys()].join(' or ')}`)
    line.count = Number(count)
  }
  return counts
}

function makeData() {
  try {
    mkdirSync(data, { recursive: true })
    accessSync(data, constants.W_OK)
  } catch (error) {
    throw new Refusal(
      `cannot write to ${data} (${error.code}): it belongs to another user; run as that one or remove it`,
    )
  }
}

/** 3000, or the next free one when nobody asked for 3000. */
async function apiPort(env) {
  // Someone on localhost alone would be in the way too: browsers try ::1 before 127.0.0.1.
  const hosts = [env.HOST || '0.0.0.0', '127.0.0.1', '::1']
  if (!env.PORT) {
    const port = await nextFreePort(3000, hosts)
    if (port !== 3000) say(`port 3000 is taken; using ${port} (PORT chooses another)`)
    return port
  }
  const port = Number(env.PORT)
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Refusal(`PORT must be from 1 to 65535, not "${env.PORT}"`)
  if (!(await portIsFree(port, hosts))) throw new Refusal(`port ${port} is taken; set PORT to another`)
  return port
}

/** Starts a server on the port it had last time, and again there when it ends on its own. */
async function keep(name, options, start) {
  const file = join(data, `${name}.port`)
  const before = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0
  const port = before && (await portIsFree(before)) ? { port: before } : {}
  const launch = async (where) => {
    const pending = start({ ...options, ...where, folder: data, detached: true, say })
    // A Ctrl-C in the middle of this waits for it, so that there is something to stop.
    starting = pending.catch(() => undefined)
    const server = await pending
    remember(data, name, server.pid)
    servers.push({ name, server })
    void server.exited.then(async (how) => {
      servers.splice(
        servers.findIndex((entry) => entry.server === server),
        1,
      )
      if (stopping) return
      say(`${name} has ended (${how}); starting it again on port ${server.port}`)
      await sleep(RESTART_MS)
      if (!stopping) await launch({ port: server.port }).catch((error) => stop(1, error.message))
    })
    return server
  }
  const server = await launch(port)
  writeFileSync(file, String(server.port))
  say(`${name} answers on 127.0.0.1:${server.port}`)
  return server
}

async function database(server_url, url) {
  const { default: postgres } = await import('postgres')
  const sql = postgres(server_url, { max: 1, onnotice() {} })
  const found = await sql`SELECT 1 FROM pg_database WHERE datname = 'holdfast'`
  if (found.length === 0) await sql.unsafe('CREATE DATABASE holdfast')
  await sql.end()
  return url
}

async function once(name, args, env) {
  if (stopping) return
  const { code } = await run(name, [process.execPath, ...args], env, logger(name, 1)).exited
  if (code !== 0 && !stopping) throw new Refusal(`${name} failed; see above`)
}

async function runProcfile(counts, env, port) {
  let next = port
  let metrics_port = 9464
  for (const [name, { command, count }] of counts) {
    for (let i = 1; i <= count; i++) {
      const label = count === 1 && name === 'api' ? name : `${name}.${i}`
      const extra = {}
      if (name === 'api') {
        extra.PORT = String(i === 1 ? port : await nextFreePort(next + 1, [env.HOST || '0.0.0.0']))
        next = Number(extra.PORT)
      } else {
        metrics_port = await nextFreePort(metrics_port, ['0.0.0.0'])
        extra.METRICS_PORT = String(metrics_port++)
      }
      void watch(label, wordsOf(command), { ...env, ...extra }, extra)
    }
  }
}

/** Runs a process and runs it again when it ends, until that is plainly of no use. */
async function watch(label, words, env, extra) {
  const log = logger(label, [...children.keys()].length + 2)
  for (let early = 0; !stopping; ) {
    const since = performance.now()
    const child = run(label, words, env, log)
    const where = Object.entries(extra).map(([name, value]) => ` ${name}=${value}`)
    log(`started, pid ${child.pid}${where.join('')}`)
    const { how } = await child.exited
    if (stopping) return
    early = performance.now() - since < STARTED_MS ? early + 1 : 0
    if (early === TRIES)
      return stop(1, `${label} has ended ${TRIES} times within ${STARTED_MS / 1000} s (${how}): giving up`)
    say(`${label} has ended (${how}); starting it again in ${RESTART_MS / 1000} s`)
    await sleep(RESTART_MS)
  }
}

/** One process in a group of its own, its output line by line under its name. */
function run(label, [command, ...args], env, log) {
  const child = spawn(command, args, { cwd: ROOT, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
  const exited = new Promise((done) => {
    child.once('error', (error) => done({ code: 1, how: error.message }))
    child.once('close', (code, name) => done({ code, how: name ?? `code ${code}` }))
  }).then(async (result) => {
    if (child.pid) await endGroup(child.pid, { deadline_ms: STOP_MS })
    children.delete(label)
    if (registry) forget(registry, label)
    return result
  })
  if (child.pid) children.set(label, child.pid)
  if (child.pid && registry) remember(registry, label, child.pid)
  for (const stream of [child.stdout, child.stderr]) {
    let rest = ''
    stream.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) log(line)
    })
    stream.on('end', () => rest && log(rest))
  }
  return { pid: child.pid, exited }
}

/** `npm run NAME` as npm would run it, less npm and the shell between: the pid shown is the process itself. */
function wordsOf(command) {
  const [, name] = /^npm run ([\w:-]+)$/.exec(command) ?? []
  const scripts = name ? JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).scripts : {}
  const line = (name && scripts[name]) || command
  if (/[^\w\s./:=@-]/.test(line)) return ['sh', '-c', line]
  const words = line.trim().split(/\s+/)
  return words[0] === 'node' ? [process.execPath, ...words.slice(1)] : words
}

async function announce(host, port) {
  const at = !host || host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  while (!stopping) {
    const ok = await fetch(`http://${at.includes(':') ? `[${at}]` : at}:${port}/livez`, {
      signal: AbortSignal.timeout(2_000),
    }).then(
      async (answer) => {
        await answer.arrayBuffer()
        return answer.ok
      },
      () => false,
    )
    if (ok) return say(`ready: Swagger UI is at http://localhost:${port}/docs (Ctrl-C stops everything)`)
    await sleep(50)
  }
}

/** Stops everything in order and then lets the program end with `code`; the first caller decides. */
async function stop(code, why) {
  if (stopping) return
  stopping = true
  if (why) say(why)
  await Promise.all(Array.from(children.values(), (pid) => endGroup(pid, { deadline_ms: STOP_MS })))
  await starting
  for (const name of ['redis', 'postgres']) {
    for (const entry of servers.filter((candidate) => candidate.name === name)) {
      await entry.server.stop()
      forget(data, name)
    }
  }
  unlock()
  if (why) say('stopped')
  finish(code)
}

function endNow() {
  say('ending at once')
  for (const pid of children.values()) signal(-pid, 'SIGKILL')
  // Postgres leaves no children behind on SIGQUIT, and replays its log at the next start.
  for (const { name, server } of servers) server.kill(name === 'postgres' ? 'SIGQUIT' : 'SIGKILL')
  unlock()
  process.exit(1)
}

function logger(label, index) {
  const colour = process.stdout.isTTY && !process.env.NO_COLOR
  const prefix = `${label.padEnd(8)} | `
  const shown = colour ? `\x1b[${COLOURS[index % COLOURS.length]}m${prefix}\x1b[0m` : prefix
  return (line) => process.stdout.write(`${shown}${line}\n`)
}
