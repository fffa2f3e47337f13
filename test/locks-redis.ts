/** A Redis process of one test's own, that the test may pause, kill and flush. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Redis, type RedisOptions } from 'ioredis'

type ClientOptions = Pick<RedisOptions, 'enableOfflineQueue' | 'autoResendUnfulfilledCommands' | 'port'>

export interface OwnRedis {
  port: number
  process: ChildProcess
  /** A client that is closed with the server, and whose connection errors are expected. */
  client(options?: ClientOptions): Redis
  pause(): void
  resume(): void
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

export async function startRedis(): Promise<OwnRedis> {
  const port = await freePort()
  const child = spawn('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1'], {
    stdio: 'ignore',
  })
  const clients: Redis[] = []
  const client = (options: ClientOptions = {}) => {
    const expected = { retryStrategy: () => 20, maxRetriesPerRequest: null }
    const redis = new Redis({ host: '127.0.0.1', port, ...expected, ...options })
    redis.on('error', () => {})
    clients.push(redis)
    return redis
  }
  await client().ping()
  return {
    port,
    process: child,
    client,
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    async stop() {
      for (const redis of clients) redis.disconnect()
      child.kill('SIGKILL')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    },
  }
}
