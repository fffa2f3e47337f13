/**
 * The index of resources in use, so that listing the locks does not scan the keyspace. Invariant: a resource that has
 * waiters, or whose lock was handed over, shared or renewed, is in the index of its Cluster slot. The script that makes such a
 * change also writes the index. A single Redis has one index.
 */

// The reference lets other programs that compile this file as part of their sources find the types of cluster-key-slot.
/// <reference path="./cluster-key-slot.d.ts" />
import keySlot from 'cluster-key-slot'
import type { Cluster, Redis } from 'ioredis'

export interface RedisIndex {
  keyOf(resource: string): string
  /**
   * Returns the keys that a script needs for this resource: the lock key, and the key of the index unless the script can derive
   * it from the lock key.
   */
  keysOf(resource: string): string[]
  /** Groups the resources so that one script can work on each group. */
  groupResources(resources: readonly string[]): string[][]
  list(): Promise<string[]>
}

/**
 * Milliseconds after the end of a lock's last TTL when its entry is dropped: the holder has crashed, and no caller has
 * requested the lock since.
 */
const RETENTION_MS = 60_000
/** Milliseconds after which a Cluster slot in use is announced again, because the server may have lost its data. */
const REANNOUNCE_MS = 10_000
const SLOTS = 16_384

export function lockKey(prefix: string, resource: string): string {
  return `${prefix}lock:{${resource}}`
}

export function openIndex(redis: Redis | Cluster, prefix: string): RedisIndex {
  return redis.isCluster ? clusterIndex(redis, prefix) : singleServerIndex(redis, prefix)
}

/**
 * Returns the prefix that each key has on the server: ioredis adds its keyPrefix to keys that it sends, but does not remove it
 * from keys that it reads.
 */
function baseOf(redis: Redis | Cluster, prefix: string): string {
  const { keyPrefix = '' } = redis.options
  return String(keyPrefix) + prefix
}

/** Returns the resources in one index: the lock keys in it without base and braces. */
async function entries(redis: Redis | Cluster, key: string, base: string, now_ms: number): Promise<string[]> {
  await redis.zremrangebyscore(key, '-inf', now_ms - RETENTION_MS)
  const locks = await redis.zrange(key, '0', '-1')
  return locks.map((lock) => lock.slice(base.length + 'lock:{'.length, -1))
}

function singleServerIndex(redis: Redis | Cluster, prefix: string): RedisIndex {
  const base = baseOf(redis, prefix)
  const key = `${prefix}lock:index`
  // The scripts derive the index from the first 'lock:{' in the key (prelude.lua). That fails if the prefix contains 'lock:{' too.
  const implied = `${base}lock:{`.indexOf('lock:{') === base.length
  return {
    keyOf: () => key,
    keysOf: (resource) => (implied ? [lockKey(prefix, resource)] : [lockKey(prefix, resource), key]),
    groupResources: (resources) => (resources.length > 0 ? [[...resources]] : []),
    list: async () => await entries(redis, key, base, await serverMs(redis)),
  }
}

async function serverMs(redis: Redis | Cluster): Promise<number> {
  const [seconds] = await redis.time()
  return Number(seconds) * 1000
}

/**
 * Opens the index of a Cluster: one index for each slot, and a set of the slots that have an index. A script cannot write the
 * set and an index in the same step.
 */
function clusterIndex(redis: Redis | Cluster, prefix: string): RedisIndex {
  const base = baseOf(redis, prefix)
  const tag = /\{([^}]*)\}/.exec(`${base}lock:{x}`)?.[1] ?? ''
  if (tag === '' || tag.includes('{')) {
    throw new RangeError(`prefix must have a text between its braces, or the locks are in no slot: ${base}`)
  }
  const used = `${prefix}lock:slots`
  const announced = new Map<number, number>()
  let tags: string[] | undefined
  const keyOfSlot = (slot: number) => {
    tags ??= tagsBySlot()
    return `${prefix}lock:index:{${tags[slot]}}`
  }
  const slotOf = (resource: string) => keySlot(`${base}lock:{${resource}}`)

  function keyOf(resource: string): string {
    if (tag === 'x' && resource.startsWith('}')) {
      throw new RangeError('resource must not begin with } on a Redis Cluster: its keys would be in several slots')
    }
    const slot = slotOf(resource)
    if (Date.now() - (announced.get(slot) ?? 0) > REANNOUNCE_MS) {
      announced.set(slot, Date.now())
      redis.sadd(used, slot).catch(() => announced.delete(slot))
    }
    return keyOfSlot(slot)
  }

  return {
    keyOf,
    keysOf: (resource) => [lockKey(prefix, resource), keyOf(resource)],
    groupResources(resources) {
      const groups = new Map<number, string[]>()
      for (const resource of resources) {
        const slot = slotOf(resource)
        groups.set(slot, [...(groups.get(slot) ?? []), resource])
      }
      return [...groups.values()]
    },
    async list() {
      const now_ms = await serverMs(redis)
      const slots = await redis.smembers(used)
      const lists = slots.map((slot) => entries(redis, keyOfSlot(Number(slot)), base, now_ms))
      return (await Promise.all(lists)).flat()
    },
  }
}

/** Returns for each Cluster slot a text that hashes to this slot. */
function tagsBySlot(): string[] {
  const tags = new Array<string>(SLOTS)
  for (let found = 0, n = 0; found < SLOTS; n++) {
    const slot = keySlot(String(n))
    if (tags[slot] !== undefined) continue
    tags[slot] = String(n)
    found += 1
  }
  return tags
}
