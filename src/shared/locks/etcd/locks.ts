/** Leases on etcd 3. Invariant: createEtcdLocks contacts no server before it has checked all options. */
import { hostname } from 'node:os'
import type { LockEvents, Locks } from '../api.ts'
import { checkSetting, checkText } from '../core/arguments.ts'
import { createLocksOn } from '../core/locks.ts'
import { EtcdBackend } from './backend.ts'
import { connectEtcd } from './client.ts'

// biome-ignore lint/performance/noBarrelFile: an entry point of the package: its callers branch on these errors
export { type Lease, LeaseLostError, LockBusyError, type Locks } from '../api.ts'

export interface EtcdLocksOptions {
  /** URLs of the servers of one cluster, version 3.4 or newer: http://host:port. */
  hosts: readonly string[]
  /** Prefix of every key. */
  prefix?: string
  /** etcd counts TTLs in whole seconds, at least two: after a crash of the holder, other callers may wait that long. */
  ttl_ms: number
  /** The holder's name if an acquire names no owner. Default: host:pid. */
  instance?: string
  events?: LockEvents
  expected_hold_ms?: (resource: string) => number | undefined
}

/** Creates locks on etcd. @throws TypeError or RangeError for an invalid option, RangeError when hosts is empty */
export function createEtcdLocks(all: EtcdLocksOptions): Locks {
  checkSetting(all)
  const { hosts, prefix = '', instance, ...options } = all
  if (!Array.isArray(hosts)) throw new TypeError('hosts must be an array')
  for (const host of hosts) checkText('hosts', host ?? null)
  if (hosts.length === 0) throw new RangeError('hosts names no server')
  const backend = new EtcdBackend(connectEtcd(hosts), prefix)
  return createLocksOn(backend, { ...options, instance: instance ?? `${hostname()}:${process.pid}` })
}
