/**
 * A world of one test file's own: a database cloned from the migrated template, a Redis prefix, and the real processes
 * started on them. Invariant: what a file starts is gone when the file is over, also what it froze or killed.
 */
import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startChild, untilReady } from '../../ops/dev/child-process.mjs'
import {
  createDatabase,
  dropDatabase,
  dropKeys,
  ensureDatabase,
  placeProcess,
  type Role,
} from '../../ops/dev/environment.mjs'
import { ensureRedisServer, ROOT } from '../../ops/dev/install.mjs'
import { type Server, startPostgres, startRedis } from '../../ops/dev/local-servers.mjs'

/** What openWorld needs of tap's t; the top-level `tap` object has it too. */
export interface Scope {
  readonly name: string
  teardown(step: () => Promise<void>): void
}

type Env = Record<string, string>

export interface Running {
  readonly url: string
  readonly pid: number
  readonly process: ChildProcess
  /** Resolves when /livez answers 200; rejects with its log when it ends before. */
  ready(): Promise<void>
  kill(signal?: NodeJS.Signals): void
  /** whether a test, or the teardown, has sent it a signal that ends it */
  asked(): boolean
  /** resolves with the signal or `code N` that ended it */
  readonly exited: Promise<string>
  /** all that it wrote to stdout and stderr so far */
  logs(): string
}

/** A server that only this file uses, so that it may be frozen, killed and started again. */
export interface Owned {
  /** the same after every restart */
  readonly url: string
  readonly pid: number
  /** SIGSTOP freezes it (SIGCONT wakes it), SIGKILL and SIGTERM end it; resolves when it has ended, or at once when it is frozen. */
  stop(signal?: NodeJS.Signals): Promise<void>
  /** Again on the same port; with `empty` without the data it had. */
  restart(options?: { empty?: boolean }): Promise<void>
}

export interface World {
  /** for child processes: DATABASE_URL, REDIS_URL, REDIS_PREFIX, LOG_LEVEL and what a shell needs; nothing else */
  readonly env: Readonly<Env & { DATABASE_URL: string; REDIS_URL: string; REDIS_PREFIX: string }>
  /** Resolve when /livez answers 200; reject with the process's log when it ends before. */
  startApi(extra?: Env): Promise<Running>
  /** `entry`: another file that starts a worker. */
  startWorker(extra?: Env, entry?: string): Promise<Running>
  /** The payment provider; give its url to processes as SANDBOX_URL. */
  startSandbox(extra?: Env): Promise<Running>
  /** Give its url to processes as REDIS_URL. */
  ownRedis(): Promise<Owned>
  /** Migrated and empty; give its url to processes as DATABASE_URL. Restarting it empty migrates it again. */
  ownPostgres(): Promise<Owned>
}

/** Until a statement that makes or drops the database is given up. */
const DATABASE_MS = 20_000
/** Of the log of a process that vanished: enough for a stack and what led to it. */
const LAST_LINES = 100

/** Signals after which a process is expected to live. */
const GOES_ON = new Set<NodeJS.Signals>(['SIGSTOP', 'SIGCONT'])

export async function openWorld(t: Scope): Promise<World> {
  const server_url = given('HOLDFAST_SERVER_URL')
  const template = new URL(given('HOLDFAST_TEMPLATE_URL')).pathname.slice(1)
  const redis_url = given('REDIS_URL')
  const id = randomBytes(6).toString('hex')
  const database = `holdfast_test_${id}`
  // Another file may be cloning the template right now; only the one that comes first gets it.
  const cloned = () => createDatabase(server_url, database, template)
  const database_url = await until(cloned, { timeout_ms: DATABASE_MS, what: 'a clone of the template' })
  const env = {
    PATH: process.env.PATH ?? '',
    HOME: process.env.HOME ?? '',
    DATABASE_URL: database_url,
    REDIS_URL: redis_url,
    REDIS_PREFIX: `test-${id}:`,
    LOG_LEVEL: 'warn',
    // Nobody is there until the file starts a sandbox of its own and names it.
    SANDBOX_URL: 'http://127.0.0.1:9',
    HOST: '127.0.0.1',
  }
  const running: Running[] = []
  const servers: Server[] = []
  const folders: string[] = []
  const folder = (name: string) => {
    const path = join(given('HOLDFAST_TEST_FOLDER'), `${name}-${id}-${folders.length}`)
    mkdirSync(path)
    folders.push(path)
    return path
  }

  t.teardown(async () => {
    // SIGKILL ends a stopped process too.
    for (const one of running) one.kill('SIGKILL')
    await Promise.all([...running.map((one) => one.exited), ...servers.map((one) => one.stop('SIGKILL'))])
    for (const path of folders) rmSync(path, { recursive: true, force: true })
    const dropped = () => dropDatabase(server_url, database).then(() => true)
    await until(dropped, { timeout_ms: DATABASE_MS, what: 'the database to be dropped' })
    await dropKeys(redis_url, `test-${id}:`)
  })

  const start = async (role: Role, extra: Env, entry?: string) => {
    const place = await placeProcess(role, extra)
    const one = spawnNode(entry ?? place.entry, { ...env, ...extra, ...place.env }, place.url)
    running.push(one)
    await one.ready()
    sayIfItEnds(one, entry ?? place.entry)
    return one
  }

  return {
    env,
    startApi: (extra = {}) => start('api', extra),
    startWorker: (extra = {}, entry = undefined) => start('worker', extra, entry),
    startSandbox: (extra = {}) => start('sandbox', extra),
    async ownRedis() {
      const path = folder('redis')
      const binary = ensureRedisServer(() => {})
      return await own(
        servers,
        'redis',
        (port) => startRedis({ folder: path, binary, ...port }),
        (one) => one.url,
      )
    },
    async ownPostgres() {
      const path = folder('postgres')
      const launch = async (port: { port?: number }) => {
        const one = await startPostgres({ folder: path, ...port })
        if (one.folder !== path) folders.push(one.folder)
        if (!(await ensureDatabase(one.url('postgres'), 'holdfast'))) return one
        const migrate = spawnNode('ops/commands/migrate.ts', { ...env, DATABASE_URL: one.url('holdfast') }, '')
        if ((await migrate.exited) !== 'code 0') throw new Error(`migrate failed:\n${migrate.logs()}`)
        return one
      }
      return await own(servers, 'postgres/cluster', launch, (one) => one.url('holdfast'))
    },
  }
}

/** Postgres is one process a connection: all of them. */
export function signalAll(postmaster: number, signal: NodeJS.Signals): void {
  const children = readFileSync(`/proc/${postmaster}/task/${postmaster}/children`, 'utf8').trim().split(' ')
  for (const pid of [postmaster, ...children.map(Number)]) process.kill(pid, signal)
}

/** Polls until the predicate holds (or is truthy) and returns its value; what it threw last is told when time is up. */
export async function until<T>(
  predicate: () => T | Promise<T>,
  { timeout_ms = 10_000, what = predicate.toString() }: { timeout_ms?: number; what?: string } = {},
): Promise<NonNullable<T>> {
  const since = performance.now()
  let last: unknown
  do {
    try {
      last = await predicate()
      if (last) return last as NonNullable<T>
    } catch (error) {
      last = error
    }
    // A tenth of the time waited so far: a long wait is not spent on polling, and no wait becomes much longer.
    await sleep(Math.min(250, Math.max(20, (performance.now() - since) / 10)))
  } while (performance.now() - since < timeout_ms)
  const seen = last instanceof Error ? last.message : JSON.stringify(last)
  throw new Error(`waited ${timeout_ms} ms for: ${what}; last seen: ${seen}`)
}

async function own<S extends Server & { folder: string }>(
  servers: Server[],
  data: string,
  launch: (port: { port?: number }) => Promise<S>,
  url: (server: S) => string,
): Promise<Owned> {
  let server = await launch({})
  servers.push(server)
  const { port } = server
  return {
    url: url(server),
    get pid() {
      return server.pid
    },
    async stop(signal = 'SIGKILL') {
      server.kill(signal)
      if (signal !== 'SIGSTOP' && signal !== 'SIGCONT') await server.exited
    },
    async restart({ empty = false } = {}) {
      await server.stop('SIGKILL')
      if (empty) rmSync(join(server.folder, data), { recursive: true, force: true })
      server = await launch({ port })
      servers.push(server)
    },
  }
}

/** What Node needs to run a file of the bundle (ops/dev/bundle.mjs), which loads in a fraction of the time of its sources. */
export function fromBundle(entry: string): string[] {
  return ['--enable-source-maps', join(given('HOLDFAST_BUNDLE'), entry.replace(/\.ts$/, '.mjs'))]
}

function spawnNode(entry: string, env: Env, url: string): Running {
  // A hook that changes a source while it is loaded (test/races/without.mjs) needs the sources.
  const how = env.TEST_CODE_PATCH === undefined ? fromBundle(entry) : ['--import=tsx', entry]
  const child = startChild([process.execPath, ...how], { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  let asked = false
  for (const stream of [child.process.stdout, child.process.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  }
  return {
    url,
    pid: child.pid,
    process: child.process,
    exited: child.closed,
    logs: () => text,
    asked: () => asked,
    ready: () => untilReady(child, `${url}/livez`, () => `${entry}\n${text}`),
    kill(signal = 'SIGKILL') {
      // Only a process that still runs is ended by it; one that is woken goes on.
      if (child.running() && !GOES_ON.has(signal)) asked = true
      child.kill(signal)
    },
  }
}

/** A process that ends although its test did not ask for it would show as `fetch failed` alone: here it says why. */
function sayIfItEnds(one: Running, entry: string): void {
  void one.exited.then((how) => {
    if (one.asked()) return
    const log = one.logs().trimEnd().split('\n').slice(-LAST_LINES).join('\n')
    process.stderr.write(`${entry} (pid ${one.pid}) has ended by itself (${how}); the end of its log:\n${log}\n`)
  })
}

function given(name: string): string {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set: run test files with npm test -- test/NAME.test.ts`)
  return value
}
