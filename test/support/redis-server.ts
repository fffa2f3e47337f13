/** A Redis process of one test, without persistence, which the test may pause, kill and flush. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis, type RedisOptions } from 'ioredis'
import { ensureRedisServer } from '../../ops/dev/install.mjs'
import { startRedis as start } from '../../ops/dev/local-servers.mjs'

type ClientOptions = Pick<
  RedisOptions,
  'enableOfflineQueue' | 'autoResendUnfulfilledCommands' | 'maxRetriesPerRequest' | 'port'
>

export interface OwnRedis {
  port: number
  /** Returns a client that is closed together with the server. It ignores connection errors, which tests provoke. */
  client(options?: ClientOptions): Redis
  pause(): void
  resume(): void
  kill(): void
  /** Kills Redis if it still runs, and restarts it empty on the same port. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** Starts a Redis. `args` and `env`: further arguments and variables of redis-server. */
export async function startRedis(args: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<OwnRedis> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-redis-'))
  const memory = ['--save', '', '--appendonly', 'no']
  const options = { folder, binary: ensureRedisServer(() => {}), args: [...memory, ...args], env }
  let server = await start(options)
  const { port } = server
  const clients: Redis[] = []
  return {
    port,
    client(options: ClientOptions = {}) {
      const expected = { retryStrategy: () => 20, maxRetriesPerRequest: null }
      const redis = new Redis({ host: '127.0.0.1', port, ...expected, ...options })
      redis.on('error', () => {})
      clients.push(redis)
      return redis
    },
    pause: () => server.kill('SIGSTOP'),
    resume: () => server.kill('SIGCONT'),
    kill: () => server.kill('SIGKILL'),
    async restart() {
      await server.stop('SIGKILL')
      server = await start({ ...options, port })
    },
    async stop() {
      for (const redis of clients) redis.disconnect()
      await server.stop('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
