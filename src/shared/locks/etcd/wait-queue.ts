/**
 * The wait queue of a resource in etcd: a key for each holder and waiter, in the order of their creation. Invariant: whether a
 * waiter has its turn depends only on the keys in front of its key. No key is ever added in front of another; keys in front are
 * only removed. So a waiter that has its turn keeps it until its key is gone. A holder's key is in front of all waiters.
 */
import type { IKeyValue } from 'etcd3'
import type { Mode } from '../api.ts'

/** The owner and the request, as an id encodes them. */
export interface OwnerId {
  mode: Mode
  /** Maximum number of holders, for permits; otherwise 0. */
  limit: number
  ttl_ms: number
  /** Channel of the Locks instance that made the id. */
  channel: string
  waiter_id: number
  uuid: string
  owner: string
}

/** One key in the queue. */
export interface Entry extends OwnerId {
  key: string
  create_revision: number
  mod_revision: number
  lease: string
  /** When the owner joined the queue or was granted the lock, by the owner's clock. */
  since_ms: number
  /** The fencing token; absent while the owner waits. */
  token?: number
}

const ID = /^(x|s|p(\d+)) (\d+) ([0-9a-f]+)\/(\d+)-([0-9a-f-]{36}) (.*)$/s

export function idOf({ mode, limit, ttl_ms, channel, waiter_id, uuid, owner }: OwnerId): string {
  const letter = mode === 'exclusive' ? 'x' : mode === 'shared' ? 's' : `p${limit}`
  return `${letter} ${ttl_ms} ${channel}/${waiter_id}-${uuid} ${owner}`
}

/** Parses an id. @throws RangeError for an id that idOf did not make */
export function readId(id: string): OwnerId {
  const [, letter, limit = '0', ttl_ms, channel = '', waiter_id, uuid = '', owner = ''] = ID.exec(id) ?? []
  if (letter === undefined) throw new RangeError('this is not an id of a lock on etcd')
  const mode = letter === 'x' ? 'exclusive' : letter === 's' ? 'shared' : 'permit'
  return { mode, limit: Number(limit), ttl_ms: Number(ttl_ms), channel, waiter_id: Number(waiter_id), uuid, owner }
}

/**
 * Returns the value of a key. The base is present once the lock was granted: the token is the base plus the revision of the
 * granting transaction.
 */
export function entryOf(id: string, base?: number): Buffer {
  return Buffer.from(JSON.stringify({ id, at: Date.now(), base }))
}

/** Cache of parsed entries by key: a queue is read again and again, and its keys seldom change. */
const cache = new Map<string, Entry>()
const MAX_CACHED = 5000

/** Parses a key and its value; undefined for a key in the range that the locks did not write. */
export function readEntry(kv: IKeyValue): Entry | undefined {
  const key = kv.key.toString()
  const before = cache.get(key)
  if (before?.mod_revision === Number(kv.mod_revision) && before.lease === kv.lease) return before
  const entry = parseEntry(key, kv)
  if (cache.size >= MAX_CACHED) cache.clear()
  if (entry) cache.set(key, entry)
  return entry
}

function parseEntry(key: string, kv: IKeyValue): Entry | undefined {
  try {
    const { id, at, base } = JSON.parse(kv.value.toString()) as { id: string; at: number; base?: number }
    const mod_revision = Number(kv.mod_revision)
    const position = { key, create_revision: Number(kv.create_revision), mod_revision, lease: kv.lease }
    const token = base === undefined ? {} : { token: base + mod_revision }
    return { ...readId(id), ...position, since_ms: at, ...token }
  } catch {
    return undefined
  }
}

/**
 * Returns how many keys at the head of the queue have their turn: one, or all that may share the lock, or as many permits as
 * the lowest limit among them allows. No key overtakes another, so writers do not starve.
 */
export function turns(queue: Iterable<Pick<Entry, 'mode' | 'limit'>>): number {
  let count = 0
  let mode: Mode | undefined
  let limit = Number.POSITIVE_INFINITY
  for (const one of queue) {
    if (one.mode === 'permit') limit = Math.min(limit, one.limit)
    const fits = count === 0 || (one.mode === mode && mode !== 'exclusive' && count < limit)
    if (!fits) break
    mode = one.mode
    count += 1
  }
  return count
}

export function isHolder(entry: Entry): entry is Entry & { token: number } {
  return entry.token !== undefined
}

export function isWaiter(entry: Entry): boolean {
  return entry.token === undefined
}

/** Up to this TTL, in milliseconds, one etcd lease serves both the slot and the lock. */
const ONE_LEASE_MS = 6000

/**
 * Returns the etcd lease of an id. It is derived from the uuid of the id, so that any process with the id can renew and revoke
 * the lease. With a long TTL the slot has a separate, shorter lease, because a dead waiter must not block the queue for an hour.
 */
export function leaseOf({ uuid, ttl_ms }: OwnerId, of: 'lock' | 'slot'): string {
  const hex = uuid.replaceAll('-', '')
  const half = BigInt(`0x${of === 'lock' || ttl_ms <= ONE_LEASE_MS ? hex.slice(0, 16) : hex.slice(16)}`)
  // A lease id must be positive as an int64; 0 would mean no lease.
  return String(BigInt.asUintN(63, half) || 1n)
}
