/**
 * Sets up the environment of one run: a Postgres and a Redis, databases on them, and addresses for the processes. npm
 * start, npm test, test files and benchmarks use it. Invariant: close() ends all servers that openServers has started
 * and removes its folder; the next run with the same prefix removes the leftovers of a killed one.
 */
import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureRedisServer } from './install.mjs'
import { startPostgres, startRedis } from './local-servers.mjs'
import { anyFreePort, lockFolder, reapOrphans, recordPid } from './process-registry.mjs'

/** A folder younger than this may belong to a run that has not locked it yet. */
const FRESH_MS = 60_000
/** Seconds until end() cuts a connection that still has work. */
const END_S = 5

/** @see environment.d.mts */
export async function openServers({ prefix, owner, log, settings = {} }) {
  await removeDeadRuns(prefix, owner, log)
  const folder = mkdtempSync(join(tmpdir(), prefix))
  const undo = [() => rmSync(folder, { recursive: true, force: true })]
  const close = async () => {
    const errors = []
    for (const step of undo.splice(0).reverse())
      await Promise.resolve()
        .then(step)
        .catch((error) => errors.push(error))
    if (errors.length > 0) throw errors[0]
  }
  try {
    undo.push(lockFolder(folder, owner))
    // If this process runs as root, Postgres runs as another user, and must be able to enter this folder.
    chmodSync(folder, 0o711)
    undo.push(() => reapRun(folder, () => {}))
    const servers = {
      folder,
      postgres_url: process.env.DATABASE_URL,
      redis_url: process.env.REDIS_URL,
      pids: {},
      close,
    }
    const record = (name, pid) => {
      servers.pids[name] = pid
      recordPid(folder, name, pid)
    }
    if (!servers.redis_url) {
      const redis = await startRedis({ folder, binary: ensureRedisServer(log), detached: true, log })
      record('redis', redis.pid)
      undo.push(() => redis.stop())
      servers.redis_url = redis.url
    }
    if (!servers.postgres_url) {
      const postgres = await startPostgres({ folder, settings, detached: true, log })
      record('postgres', postgres.pid)
      undo.push(async () => {
        await postgres.stop()
        if (postgres.folder !== folder) rmSync(postgres.folder, { recursive: true, force: true })
      })
      servers.postgres_url = postgres.url('postgres')
    }
    return servers
  } catch (error) {
    await close().catch(() => {})
    throw error
  }
}

async function removeDeadRuns(prefix, owner, log) {
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(prefix))) {
    const folder = join(tmpdir(), name)
    const { uid, mtimeMs } = statSync(folder, { throwIfNoEntry: false }) ?? {}
    if (uid !== process.getuid?.() || Date.now() - mtimeMs < FRESH_MS) continue
    try {
      lockFolder(folder, owner)
    } catch {
      continue
    }
    await reapRun(folder, log)
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Ends the processes that a run has left running, also those of an `npm start` that used a subfolder. */
async function reapRun(folder, log) {
  await reapOrphans(folder, log)
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await reapOrphans(join(folder, entry.name), log)
  }
}

/** @see environment.d.mts */
export async function runStatement(url, text) {
  // Import here, because the packages may have been missing when this file was loaded.
  const { default: postgres } = await import('postgres')
  const sql = postgres(url, { max: 1, onnotice() {} })
  try {
    return await sql.unsafe(text)
  } finally {
    await sql.end({ timeout: END_S })
  }
}

/** @see environment.d.mts */
export async function createDatabase(server_url, name, template) {
  await runStatement(server_url, `CREATE DATABASE ${name}${template === undefined ? '' : ` TEMPLATE ${template}`}`)
  const url = new URL(server_url)
  url.pathname = `/${name}`
  return url.href
}

/** @see environment.d.mts */
export async function ensureDatabase(server_url, name) {
  const found = await runStatement(server_url, `SELECT 1 FROM pg_database WHERE datname = '${name}'`)
  if (found.length === 0) await createDatabase(server_url, name)
  return found.length === 0
}

/** @see environment.d.mts */
export async function dropDatabase(server_url, name) {
  await runStatement(server_url, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
}

/** @see environment.d.mts */
export async function dropKeys(redis_url, prefix) {
  const { default: Redis } = await import('ioredis')
  const redis = new Redis(redis_url)
  try {
    // Match the prefix anywhere in a key, because a library may put its own name before it.
    for await (const keys of redis.scanStream({ match: `*${prefix}*`, count: 1_000 })) {
      if (keys.length > 0) await redis.unlink(keys)
    }
  } finally {
    redis.disconnect()
  }
}

const PROCESSES = {
  api: { entry: 'src/api/main.ts', variable: 'PORT' },
  worker: { entry: 'src/workers/main.ts', variable: 'METRICS_PORT' },
  sandbox: { entry: 'ops/commands/sandbox.ts', variable: 'SANDBOX_URL' },
}

/** @see environment.d.mts */
export async function processSpec(role, env = {}) {
  const { entry, variable } = PROCESSES[role]
  const value = env[variable] ?? String(await anyFreePort())
  const url = value.startsWith('http') ? value : `http://127.0.0.1:${value}`
  return { entry, url, env: { [variable]: variable === 'SANDBOX_URL' ? url : value } }
}
