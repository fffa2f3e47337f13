/**
 * Private Redis servers for a demonstration. Invariant: the servers end with the demonstration and with this process, unless
 * this process ends without the event 'exit': by SIGKILL, by a signal that it does not handle (such as SIGHUP), or by an abort.
 * They store nothing on disk and listen on no port. This file does not use ops/dev/local-servers.mjs, because that is not in
 * the image and its servers listen on ports.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { Problem } from '../../shared/problem.ts'
import { withTimeout } from '../../shared/timeout.ts'

/** Milliseconds within which a server must become ready. */
const READY_MS = 5_000
/** Milliseconds between attempts to reach a server. */
const RETRY_MS = 20

export interface PrivateRedis {
  /** client of the server, without an offline queue, as Redlock requires */
  redis: Redis
  /** Sends SIGKILL; resolves when the process has ended. */
  stop(): Promise<void>
}

export interface PrivateServers {
  servers: PrivateRedis[]
  close(): Promise<void>
}

/**
 * Starts `count` servers. Aborting the signal kills the servers at any stage.
 * @throws Problem 503 when redis-server is not installed or does not start
 */
export async function startRedisServers(count: number, signal: AbortSignal): Promise<PrivateServers> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-lab-'))
  const children: ChildProcess[] = []
  const kill = () => {
    for (const child of children) child.kill('SIGKILL')
  }
  process.on('exit', kill)
  signal.addEventListener('abort', kill)
  const servers: PrivateRedis[] = []
  const close = async () => {
    for (const { redis } of servers) redis.disconnect()
    await Promise.all(servers.map((server) => server.stop()))
    process.off('exit', kill)
    signal.removeEventListener('abort', kill)
    await rm(folder, { recursive: true, force: true })
  }
  try {
    const ready: Promise<unknown>[] = []
    for (let n = 1; n <= count; n++) {
      // Use a socket in a private folder: another process could bind a port first.
      const path = join(folder, `${n}.sock`)
      const settings = ['--port', '0', '--unixsocket', path, '--save', '', '--appendonly', 'no', '--dir', folder]
      const child = spawn('redis-server', settings, { stdio: 'ignore' })
      children.push(child)
      const gone = new Promise<void>((resolve) => {
        child.once('exit', () => resolve())
        child.once('error', () => resolve())
      })
      const redis = new Redis({
        path,
        enableOfflineQueue: false,
        maxRetriesPerRequest: 0,
        autoResubscribe: false,
        autoResendUnfulfilledCommands: false,
        retryStrategy: () => RETRY_MS,
      })
      redis.on('error', () => {})
      const stop = async () => {
        child.kill('SIGKILL')
        await gone
      }
      servers.push({ redis, stop })
      // Do not use `once` of node:events: it rejects at the first failed attempt, before the socket exists.
      const answering = new Promise<void>((resolve) => {
        redis.once('ready', resolve)
      })
      const ended = gone.then(() => {
        throw new Error('redis-server has ended')
      })
      ready.push(
        withTimeout(Promise.race([answering, ended]), READY_MS).catch(() => {
          throw new Problem(503, 'redis_server_missing', 'redis-server is not installed, or does not start here.')
        }),
      )
    }
    if (signal.aborted) kill()
    await Promise.all(ready)
    return { servers, close }
  } catch (error) {
    await close()
    throw error
  }
}
