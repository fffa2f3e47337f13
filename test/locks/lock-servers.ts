/**
 * The lock servers of the conformance suite: real processes, which a test can freeze and whose connections it can cut.
 * Invariant: what a server started is gone after its stop, even if it was frozen.
 */
import { type ChildProcess, type ChildProcessByStdio, fork, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { Cluster, Redis } from 'ioredis'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import type { LockEvents, Locks, Mode } from '../../src/shared/locks/api.ts'
import { createEtcdLocks } from '../../src/shared/locks/etcd/locks.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createRedlock } from '../../src/shared/locks/redlock/locks.ts'
import { startRedis } from '../support/redis-server.ts'
import { startProxy } from '../support/tcp-proxy.ts'
import { startEtcd } from './etcd-servers.ts'

interface Node {
  port: number
  pause(): void
  resume(): void
  stop(): Promise<void>
}

/** A node as a client reaches it: directly, or through a proxy on another port. */
interface Way {
  port: number
  through: number
}

export interface OpenOptions {
  events?: LockEvents
  instance?: string
  prefix?: string
  /** keyPrefix of the Redis client. */
  keyPrefix?: string
}

interface Opened {
  locks: Locks
  /** Closes the connections, not the locks. */
  disconnect(): void
}

interface Kind {
  modes: readonly Mode[]
  launch(): Promise<Node[]>
  connect(ways: Way[], ttl_ms: number, options: OpenOptions): Promise<Opened>
  /** Time after which a dead owner's lease of this TTL ends on the server. */
  dead_after_ms?(ttl_ms: number): number
  /** With this TTL a hundred simultaneous requests on two cores are all answered in time. */
  crowd_ttl_ms?: number
}

const ALL: readonly Mode[] = ['exclusive', 'shared', 'permit']

/**
 * Options of the clients. While a client is disconnected, requests fail. A request that was in flight when the
 * connection was cut is sent again.
 */
const CLIENT = { host: '127.0.0.1', enableOfflineQueue: false, retryStrategy: () => 20 }

async function ready(client: Redis | Cluster): Promise<void> {
  client.on('error', () => {})
  if (client.status !== 'ready') await new Promise((resolve) => client.once('ready', resolve))
}

const KINDS = {
  redis: {
    modes: ALL,
    launch: async () => [await startRedis()],
    async connect([way], ttl_ms, { keyPrefix = '', ...options }) {
      const redis = new Redis({ ...CLIENT, port: way?.through ?? 0, keyPrefix })
      await ready(redis)
      return { locks: createLocks({ redis, ttl_ms, ...options }), disconnect: () => redis.disconnect() }
    },
  },
  cluster: {
    modes: ALL,
    launch: launchCluster,
    async connect(ways, ttl_ms, { keyPrefix = '', ...options }) {
      const natMap = Object.fromEntries(
        ways.map(({ port, through }) => [`127.0.0.1:${port}`, { host: '127.0.0.1', port: through }]),
      )
      const seeds = ways.map(({ through }) => ({ host: '127.0.0.1', port: through }))
      const redis = new Cluster(seeds, {
        natMap,
        keyPrefix,
        enableOfflineQueue: false,
        redisOptions: { autoResendUnfulfilledCommands: false },
        clusterRetryStrategy: () => 20,
      })
      await ready(redis)
      // The client connects to a node on first use, which may take longer than the shortest TTLs allow.
      await Promise.all(
        redis.nodes('master').map(async (node) => {
          if (node.status === 'wait') await node.connect()
          await ready(node)
        }),
      )
      return { locks: createLocks({ redis, ttl_ms, ...options }), disconnect: () => redis.disconnect() }
    },
  },
  redlock3: quorumOf(3),
  redlock5: quorumOf(5),
  etcd: {
    modes: ALL,
    launch: async () => [await startEtcd()],
    async connect([way], ttl_ms, { keyPrefix = '', prefix = '', ...options }) {
      const hosts = [`http://127.0.0.1:${way?.through}`]
      const locks = createEtcdLocks({ hosts, ttl_ms, prefix: keyPrefix + prefix, ...options })
      // The first connection may take longer than short TTLs allow.
      while (!(await locks.inspect('connected:1').catch(() => undefined)));
      return { locks, disconnect() {} }
    },
    // etcd counts in seconds, two at least, and checks twice a second for expired leases.
    dead_after_ms: (ttl_ms) => Math.max(2, Math.ceil(ttl_ms / 1000)) * 1000 + 700,
    crowd_ttl_ms: 3000,
  },
} satisfies Record<string, Kind>

function quorumOf(count: number): Kind {
  return {
    modes: ['exclusive', 'shared'],
    launch: async () => await Promise.all(Array.from({ length: count }, () => startRedis())),
    async connect(ways, ttl_ms, { keyPrefix = '', ...options }) {
      const nodes = ways.map(
        ({ through }) => new Redis({ ...CLIENT, port: through, keyPrefix, autoResendUnfulfilledCommands: false }),
      )
      await Promise.all(nodes.map(ready))
      return {
        // The suite uses only the modes listed above.
        locks: createRedlock({ nodes, ttl_ms, ...options }) as Locks,
        disconnect() {
          for (const node of nodes) node.disconnect()
        },
      }
    },
  }
}

export type KindName = keyof typeof KINDS

/** All that another process needs to open the same locks. */
export interface Address {
  kind: KindName
  ports: number[]
}

export async function openAt({ kind, ports }: Address, ttl_ms: number, options = {}): Promise<Opened> {
  const ways = ports.map((port) => ({ port, through: port }))
  return await KINDS[kind].connect(ways, ttl_ms, options)
}

export interface LockServer {
  readonly modes: readonly Mode[]
  readonly address: Address
  /** Locks of one more process, with its own connections; `wired`: through the proxy, which can cut them. */
  open(ttl_ms: number, options?: OpenOptions & { wired?: boolean }): Promise<Locks>
  dead_after_ms(ttl_ms: number): number
  readonly crowd_ttl_ms: number
  /** Freezes every process of the server. */
  pause(): void
  resume(): void
  /** Resets every connection through the proxy. */
  cut(): void
  /**
   * Loses one answer through the proxy, after this many others, with its connection; until then the state is 'waiting'.
   */
  loseAnswer(after: number): { state: 'waiting' | 'lost' }
  stop(): Promise<void>
}

/** A separate process that waits for a lock: see waiting-process.ts. */
export function forkWaiter(address: Address, ttl_ms: number, progress_ms?: number): ChildProcess {
  const args = [JSON.stringify(address), String(ttl_ms), ...(progress_ms === undefined ? [] : [String(progress_ms)])]
  return fork(new URL('./waiting-process.ts', import.meta.url), args)
}

/** A separate process that uses the locks and exits: see leaving-process.ts. */
export function spawnLeaver(address: Address, ttl_ms: number): ChildProcessByStdio<null, Readable, null> {
  const file = fileURLToPath(new URL('./leaving-process.ts', import.meta.url))
  const args = [...process.execArgv, file, JSON.stringify(address), String(ttl_ms)]
  return spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

export async function startLockServer(kind: KindName): Promise<LockServer> {
  const { modes, launch, connect, dead_after_ms = (ttl_ms: number) => ttl_ms }: Kind = KINDS[kind]
  const { crowd_ttl_ms = 1000 }: Kind = KINDS[kind]
  const nodes = await launch()
  let losing: { after: number; state: 'waiting' | 'lost' } | undefined
  const proxies = await Promise.all(
    nodes.map(({ port }) =>
      startProxy(
        port,
        () => {},
        (link) => {
          if (losing?.state !== 'waiting' || losing.after-- > 0) return
          losing.state = 'lost'
          link.mute()
          setImmediate(link.cut)
        },
      ),
    ),
  )
  const opened: Opened[] = []
  return {
    modes,
    address: { kind, ports: nodes.map(({ port }) => port) },
    dead_after_ms,
    crowd_ttl_ms,
    async open(ttl_ms, { wired = false, ...options } = {}) {
      const ways = nodes.map(({ port }, i) => ({ port, through: wired ? (proxies[i]?.port ?? 0) : port }))
      const one = await connect(ways, ttl_ms, options)
      opened.push(one)
      return one.locks
    },
    pause() {
      for (const node of nodes) node.pause()
    },
    resume() {
      for (const node of nodes) node.resume()
    },
    cut() {
      for (const { links } of proxies) for (const link of links) link.cut()
    },
    loseAnswer(after) {
      losing = { after, state: 'waiting' }
      return losing
    },
    async stop() {
      for (const node of nodes) node.resume()
      await Promise.all(opened.map(({ locks }) => locks.close()))
      for (const { disconnect } of opened) disconnect()
      await Promise.all(proxies.map((proxy) => proxy.stop()))
      await Promise.all(nodes.map((node) => node.stop()))
    },
  }
}

/** Three masters, a third of the Cluster slots each; set up by commands, so that redis-cli is not needed. */
async function launchCluster(): Promise<Node[]> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-cluster-'))
  const nodes = await Promise.all(
    ['a', 'b', 'c'].map(async (name) => {
      const bus = await anyFreePort()
      const file = join(folder, `${name}.conf`)
      const args = ['--cluster-enabled', 'yes', '--cluster-config-file', file, '--cluster-port', String(bus)]
      return { bus, ...(await startRedis([...args, '--dir', folder])) }
    }),
  )
  const clients = nodes.map((node) => node.client())
  const ends = [0, 5461, 10_923, 16_384]
  await Promise.all(
    clients.map(async (client, i) => {
      await client.call('CLUSTER', 'SET-CONFIG-EPOCH', i + 1)
      await client.call('CLUSTER', 'ADDSLOTSRANGE', ends[i] ?? 0, (ends[i + 1] ?? 0) - 1)
    }),
  )
  for (const { port, bus } of nodes.slice(1)) await clients[0]?.call('CLUSTER', 'MEET', '127.0.0.1', port, bus)
  const knows = async (client: Redis) => {
    const info = String(await client.call('CLUSTER', 'INFO'))
    return /cluster_state:ok/.test(info) && /cluster_known_nodes:3/.test(info)
  }
  for (const client of clients) while (!(await knows(client))) await new Promise((resolve) => setTimeout(resolve, 20))
  return nodes.map((node, i) => ({
    ...node,
    async stop() {
      await node.stop()
      if (i === 0) rmSync(folder, { recursive: true, force: true })
    },
  }))
}
