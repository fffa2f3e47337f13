/**
 * The environment of a benchmark: Postgres and Redis, given ones or a private pair in a temporary folder, and for each
 * run an empty database and a separate Redis prefix. Invariant: a run leaves nothing behind.
 */
import { Redis } from 'ioredis'
import { createDatabase, dropDatabase, dropKeys, openServers, runStatement } from '../../ops/dev/environment.mjs'

export interface Environment {
  /** address of a database that exists already */
  readonly admin_url: string
  readonly redis_url: string
  readonly redis: Redis
  /** `Postgres 18.0` and `Redis 7.0.15` */
  readonly versions: readonly string[]
  /** pids of the servers that were started here */
  readonly pids: Readonly<Record<string, number>>
  /** true if pg_stat_statements counts Postgres' statements */
  readonly statements: boolean
  /** Runs the body with an empty database and a separate prefix, and removes both afterwards. */
  withStore<T>(body: (store: Store) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** The database and the Redis prefix of one run. */
export interface Store {
  readonly database_url: string
  readonly redis_prefix: string
  readonly environment: Environment
}

interface EnvironmentOptions {
  /** true: let Postgres count its statements */
  statements: boolean
  /** appendfsync of a Redis that is started here */
  appendfsync: string
}

type Log = (line: string) => void

export async function openEnvironment(log: Log, options: EnvironmentOptions): Promise<Environment> {
  if (!process.env.DATABASE_URL) log('starting a Postgres (fsync on)')
  if (!process.env.REDIS_URL) log('starting a Redis (append-only file on)')
  const settings = options.statements ? { shared_preload_libraries: 'pg_stat_statements' } : {}
  const servers = await openServers({ prefix: 'holdfast-load-', owner: 'a benchmark', log, settings })
  const { postgres_url, redis_url, pids } = servers
  const redis = new Redis(redis_url)
  const close = async () => {
    redis.disconnect()
    await servers.close()
  }
  try {
    // Disable snapshots, which would fork in the middle of a run. The append-only file keeps the data.
    if (pids.redis !== undefined) await redis.config('SET', 'save', '', 'appendfsync', options.appendfsync)
    const [row] = await runStatement(postgres_url, 'SHOW server_version')
    const redis_version = /redis_version:(\S+)/.exec(await redis.info('server'))?.[1]
    let stores = 0
    const environment: Environment = {
      admin_url: postgres_url,
      redis_url,
      redis,
      versions: [`Postgres ${row?.server_version.split(' ')[0]}`, `Redis ${redis_version}`],
      pids: Object.fromEntries(Object.entries(pids)),
      statements: options.statements && pids.postgres !== undefined,
      async withStore(body) {
        const name = `holdfast_bench_${process.pid}_${++stores}`
        const redis_prefix = `${name}:`
        const database_url = await createDatabase(postgres_url, name)
        try {
          // Write a checkpoint, so that each run starts with the same amount of pending writes. Ignore the error of a
          // role that may not.
          await runStatement(postgres_url, 'CHECKPOINT').catch(() => {})
          return await body({ database_url, redis_prefix, environment })
        } finally {
          await dropDatabase(postgres_url, name)
          await dropKeys(redis_url, redis_prefix)
        }
      },
      close,
    }
    return environment
  } catch (error) {
    await close()
    throw error
  }
}
