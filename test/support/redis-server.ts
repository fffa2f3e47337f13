/** A Redis process of one test's own, which the test may pause, kill and flush. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Redis, type RedisOptions } from 'ioredis'

type ClientOptions = Pick<
  RedisOptions,
  'enableOfflineQueue' | 'autoResendUnfulfilledCommands' | 'maxRetriesPerRequest' | 'port'
>

export interface OwnRedis {
  port: number
  /** A client that is closed with the server, and whose connection errors are expected. */
  client(options?: ClientOptions): Redis
  pause(): void
  resume(): void
  kill(): void
  /** Kills it, if it still runs, and starts it again where it was, with nothing in it. */
  restart(): Promise<void>
  stop(): Promise<void>
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** With further arguments and variables for redis-server. */
export async function startRedis(args: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<OwnRedis> {
  const port = await freePort()
  const own = ['--port', String(port), '--save', '', '--bind', '127.0.0.1', ...args]
  const start = () => spawn('redis-server', own, { stdio: 'ignore', env: { ...process.env, ...env } })
  let child: ChildProcess = start()
  const clients: Redis[] = []
  const client = (options: ClientOptions = {}) => {
    const expected = { retryStrategy: () => 20, maxRetriesPerRequest: null }
    const redis = new Redis({ host: '127.0.0.1', port, ...expected, ...options })
    redis.on('error', () => {})
    clients.push(redis)
    return redis
  }
  await client().ping()

  async function end(): Promise<void> {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  }

  return {
    port,
    client,
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    kill: () => void child.kill('SIGKILL'),
    async restart() {
      await end()
      child = start()
      await client().ping()
    },
    async stop() {
      for (const redis of clients) redis.disconnect()
      await end()
    },
  }
}
