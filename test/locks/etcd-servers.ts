/** An etcd for one test file, which the file can pause, kill and restart, with or without its data. */
import { existsSync, mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Etcd3 } from 'etcd3'
import { ensureEtcdServer } from '../../ops/dev/install.mjs'
import { startEtcd as start } from '../../ops/dev/local-servers.mjs'
import type { Locks } from '../../src/shared/locks/api.ts'
import { createEtcdLocks, type EtcdLocksOptions } from '../../src/shared/locks/etcd/locks.ts'

export interface OwnEtcd {
  url: string
  port: number
  /** Direct access: to inspect, and to break what the locks rely on. */
  raw: Etcd3
  /** Locks that are closed before the server is stopped. */
  locks(options: Omit<EtcdLocksOptions, 'hosts'> & { hosts?: readonly string[] }): Locks
  pause(): void
  resume(): void
  /** Like a power cut, then a restart on the same port; with `empty` without its data. */
  crash(options?: { empty?: boolean }): Promise<void>
  /** Number of watches that it serves. */
  watches(): Promise<number>
  stop(): Promise<void>
}

/** etcd starts with a log of 64 MB, which is all that the memory folder of a container has by default. */
const ROOM = 2 ** 29

/** A folder in memory, which survives a kill of etcd: its fsync does not wait there for a shared disk. */
function roomyMemory(): string | undefined {
  const folder = '/dev/shm'
  if (!existsSync(folder)) return undefined
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize >= ROOM ? folder : undefined
}

export async function startEtcd(): Promise<OwnEtcd> {
  const folder = mkdtempSync(join(roomyMemory() ?? tmpdir(), 'holdfast-etcd-'))
  const binary = ensureEtcdServer(() => {})
  let server = await start({ folder, binary })
  const { url, port } = server
  const raw = new Etcd3({ hosts: url })
  const opened: Locks[] = []
  return {
    url,
    port,
    raw,
    locks(options) {
      const locks = createEtcdLocks({ hosts: [url], ...options })
      opened.push(locks)
      return locks
    },
    pause: () => server.kill('SIGSTOP'),
    resume: () => server.kill('SIGCONT'),
    async crash({ empty = false } = {}) {
      await server.stop('SIGKILL')
      if (empty) rmSync(join(folder, 'etcd'), { recursive: true, force: true })
      server = await start({ folder, binary, port })
    },
    async watches() {
      const text = await (await fetch(`${url}/metrics`)).text()
      return Number(/^etcd_debugging_mvcc_watcher_total (\d+)$/m.exec(text)?.[1])
    },
    async stop() {
      server.kill('SIGCONT')
      await Promise.all(opened.map((locks) => locks.close()))
      raw.close()
      await server.stop('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
