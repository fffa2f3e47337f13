/**
 * An isolated environment for one test file: a database cloned from the migrated template, a Redis prefix, and the real
 * processes started on them. Invariant: everything a test file starts is removed when it ends, including frozen or
 * killed processes.
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
  processSpec,
  type Role,
} from '../../ops/dev/environment.mjs'
import { ensureRedisServer, ROOT } from '../../ops/dev/install.mjs'
import { type Server, startPostgres, startRedis } from '../../ops/dev/local-servers.mjs'

/** The members of tap's `t` that openWorld needs. The top-level `tap` object has them too. */
export interface Scope {
  readonly name: string
  teardown(step: () => Promise<void>): void
}

type Env = Record<string, string>

export interface Running {
  readonly url: string
  readonly pid: number
  readonly process: ChildProcess
  /** Resolves when /livez answers 200. Rejects with the process's log if the process ends before. */
  ready(): Promise<void>
  kill(signal?: NodeJS.Signals): void
  /** true if a test or the teardown has sent the process a signal that ends it */
  asked(): boolean
  /** resolves when the process has ended, with the signal or `code N` that ended it */
  readonly exited: Promise<string>
  /** everything that the process has written to stdout and stderr so far */
  logs(): string
}

/** A server that only this file uses, so that the file may freeze, kill and restart it. */
export interface Owned {
  /** address of the server, the same after every restart */
  readonly url: string
  readonly pid: number
  /**
   * Sends the signal. SIGSTOP freezes the server and SIGCONT wakes it: then it resolves at once. SIGKILL and SIGTERM
   * end it: then it resolves when the server has ended.
   */
  stop(signal?: NodeJS.Signals): Promise<void>
  /** Restarts the server on the same port. `empty`: without the data that it had. */
  restart(options?: { empty?: boolean }): Promise<void>
}

export interface World {
  /**
   * environment of child processes: DATABASE_URL, REDIS_URL, REDIS_PREFIX, LOG_LEVEL and the variables that a shell
   * needs; nothing else
   */
  readonly env: Readonly<Env & { DATABASE_URL: string; REDIS_URL: string; REDIS_PREFIX: string }>
  /**
   * startApi, startWorker and startSandbox resolve when /livez answers 200. They reject with the process's log if the
   * process ends before.
   */
  startApi(extra?: Env): Promise<Running>
  /** `entry`: another entry file that starts a worker. */
  startWorker(extra?: Env, entry?: string): Promise<Running>
  /** Starts the payment provider. Pass its url to other processes as SANDBOX_URL. */
  startSandbox(extra?: Env): Promise<Running>
  /** Starts a Redis. Pass its url to processes as REDIS_URL. */
  ownRedis(): Promise<Owned>
  /**
   * Starts a Postgres with a migrated, empty database. Pass its url to processes as DATABASE_URL. A restart with
   * `empty` migrates it again.
   */
  ownPostgres(): Promise<Owned>
}

/** How long to retry CREATE or DROP DATABASE, in milliseconds. */
const DATABASE_MS = 20_000
/** Number of log lines printed when a process ends unexpectedly: enough for a stack and the lines before it. */
const LAST_LINES = 100

/** Signals that do not end a process. */
const GOES_ON = new Set<NodeJS.Signals>(['SIGSTOP', 'SIGCONT'])

export async function openWorld(t: Scope): Promise<World> {
  const server_url = given('HOLDFAST_SERVER_URL')
  const template = new URL(given('HOLDFAST_TEMPLATE_URL')).pathname.slice(1)
  const redis_url = given('REDIS_URL')
  const id = randomBytes(6).toString('hex')
  const database = `holdfast_test_${id}`
  // Postgres lets only one session clone a template at a time, so retry.
  const cloned = () => createDatabase(server_url, database, template)
  const database_url = await until(cloned, { timeout_ms: DATABASE_MS, what: 'a clone of the template' })
  const env = {
    PATH: process.env.PATH ?? '',
    HOME: process.env.HOME ?? '',
    DATABASE_URL: database_url,
    REDIS_URL: redis_url,
    REDIS_PREFIX: `test-${id}:`,
    LOG_LEVEL: 'warn',
    // Nothing listens on this port. A test that needs a sandbox starts one and overrides SANDBOX_URL.
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
    const spec = await processSpec(role, extra)
    const one = spawnNode(entry ?? spec.entry, { ...env, ...extra, ...spec.env }, spec.url)
    running.push(one)
    await one.ready()
    sayIfItEnds(one, entry ?? spec.entry)
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

/** Sends the signal to the postmaster and to all its child processes (one per connection). */
export function signalAll(postmaster: number, signal: NodeJS.Signals): void {
  const children = readFileSync(`/proc/${postmaster}/task/${postmaster}/children`, 'utf8').trim().split(' ')
  for (const pid of [postmaster, ...children.map(Number)]) process.kill(pid, signal)
}

/**
 * Polls until the predicate returns a truthy value, and returns that value. On timeout, throws with the last error or
 * value.
 */
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
    // Pause for a tenth of the time waited so far, so that a long wait polls rarely and no wait gets much longer.
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

/**
 * Returns Node's arguments to run a file of the bundle (ops/dev/bundle.mjs), which loads in a fraction of the time of
 * its sources.
 */
export function fromBundle(entry: string): string[] {
  return ['--enable-source-maps', join(given('HOLDFAST_BUNDLE'), entry.replace(/\.ts$/, '.mjs'))]
}

function spawnNode(entry: string, env: Env, url: string): Running {
  // Run from the sources if a hook changes a source while Node loads it (test/races/without.mjs).
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
      // Count it as asked only if the process was running and the signal is one that ends it (not SIGSTOP or SIGCONT).
      if (child.running() && !GOES_ON.has(signal)) asked = true
      child.kill(signal)
    },
  }
}

/**
 * Prints the end of the log of a process that ends although the test did not end it. Otherwise the test would show only
 * `fetch failed`.
 */
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
