/**
 * Where a benchmark runs: Postgres and Redis, the given ones or a private pair in a temporary folder, and for every run
 * an own database and an own Redis prefix. Invariant: nothing of a run is left when it is over.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { ensureRedisServer } from '../../ops/dev/install.mjs'
import { startPostgres, startRedis } from '../../ops/dev/local-servers.mjs'

export interface Arena {
  /** a database that is there already */
  readonly admin_url: string
  readonly redis_url: string
  readonly redis: Redis
  /** `Postgres 18.0` and `Redis 7.0.15` */
  readonly versions: readonly string[]
  /** pids of the servers that were started here */
  readonly pids: Readonly<Record<string, number>>
  /** true when pg_stat_statements counts what Postgres is asked */
  readonly statements: boolean
  /** Runs body with an empty database and a prefix of its own; both are gone afterwards. */
  field<T>(body: (field: Field) => Promise<T>): Promise<T>
  close(): Promise<void>
}

export interface Field {
  readonly database_url: string
  readonly redis_prefix: string
  readonly arena: Arena
}

interface ArenaOptions {
  /** have Postgres count what it is asked */
  statements: boolean
  /** of a Redis that is started here */
  appendfsync: string
}

type Log = (line: string) => void

export async function openArena(log: Log, options: ArenaOptions): Promise<Arena> {
  const undo: (() => unknown)[] = []
  const close = async () => {
    for (const step of undo.splice(0).reverse()) await step()
  }
  try {
    return await open(log, options, undo, close)
  } catch (error) {
    await close()
    throw error
  }
}

async function open(
  log: Log,
  options: ArenaOptions,
  undo: (() => unknown)[],
  close: () => Promise<void>,
): Promise<Arena> {
  const given = { postgres: process.env.DATABASE_URL, redis: process.env.REDIS_URL }
  const pids: Record<string, number> = {}
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  undo.push(() => rmSync(folder, { recursive: true, force: true }))
  // Postgres runs as another user when we are root, and must get through to its own part.
  chmodSync(folder, 0o711)

  let admin_url = given.postgres
  let statements = false
  if (!admin_url) {
    log('starting a Postgres (fsync on)')
    let server = await startPostgres({ folder, detached: true, log })
    undo.push(async () => {
      await server.stop()
      if (server.folder !== folder) rmSync(server.folder, { recursive: true, force: true })
    })
    if (options.statements) {
      await once(server.url('postgres'), "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
      await server.stop()
      server = await startPostgres({ folder, detached: true, log })
      statements = true
    }
    admin_url = server.url('postgres')
    pids.postgres = server.pid
  }
  let redis_url = given.redis
  if (!redis_url) {
    log('starting a Redis (append-only file on)')
    const server = await startRedis({ folder, binary: ensureRedisServer(log), detached: true, log })
    undo.push(() => server.stop())
    redis_url = server.url
    pids.redis = server.pid
  }
  const admin = postgres(admin_url, { max: 1, onnotice: () => {} })
  undo.push(() => admin.end({ timeout: 5 }))
  const redis = new Redis(redis_url)
  undo.push(() => redis.disconnect())
  // Snapshots would fork in the middle of somebody's run; the append-only file is what keeps the data.
  if (!given.redis) await redis.config('SET', 'save', '', 'appendfsync', options.appendfsync)
  const [row] = await admin<{ server_version: string }[]>`SHOW server_version`
  const redis_version = /redis_version:(\S+)/.exec(await redis.info('server'))?.[1]
  let fields = 0

  const arena: Arena = {
    admin_url,
    redis_url,
    redis,
    versions: [`Postgres ${row?.server_version.split(' ')[0]}`, `Redis ${redis_version}`],
    pids,
    statements,
    async field(body) {
      const name = `holdfast_bench_${process.pid}_${++fields}`
      const redis_prefix = `${name}:`
      const url = new URL(admin_url)
      url.pathname = `/${name}`
      await admin.unsafe(`CREATE DATABASE ${name}`)
      try {
        // Each run starts with the same debts. A role that may not do it measures without.
        await admin.unsafe('CHECKPOINT').catch(() => {})
        return await body({ database_url: url.href, redis_prefix, arena })
      } finally {
        await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`)
        await forget(redis, redis_prefix)
      }
    },
    close,
  }
  return arena
}

async function once(url: string, statement: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

/** Removes every key with this prefix. */
async function forget(redis: Redis, prefix: string): Promise<void> {
  for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1_000 })) {
    if ((keys as string[]).length > 0) await redis.unlink(keys as string[])
  }
}
