/**
 * What may be locked, so that nobody has to search the keyspace. The invariant: a resource that is held or waited for is
 * in the index of its Cluster slot, by the same script that took the lock; one Redis has one index, in no slot.
 */

// Also for programs that compile these files as a part of their own.
/// <reference path="./cluster-key-slot.d.ts" />
import keySlot from 'cluster-key-slot'
import type { Cluster, Redis } from 'ioredis'

export interface RedisIndex {
  keyOf(resource: string): string
  /** Does a script of one resource find the name by itself? On a Cluster it is told. */
  implied: boolean
  /** Groups of resources that one script may work on. */
  together(resources: readonly string[]): string[][]
  list(): Promise<string[]>
}

/** An entry is dropped so long after the lock's last TTL: its holder has crashed, and nobody has asked for it since. */
const KEPT_MS = 60_000
/** After this a Cluster is told again that a slot is in use: it may have lost its memory. */
const RETELL_MS = 10_000
const SLOTS = 16_384

export function indexOf(redis: Redis | Cluster, prefix: string): RedisIndex {
  return redis.isCluster ? ofCluster(redis, prefix) : ofOne(redis, prefix)
}

/** The entries of one index, without the braces and the prefix of a lock key. */
async function entries(redis: Redis | Cluster, key: string, prefix: string, now_ms: number): Promise<string[]> {
  await redis.zremrangebyscore(key, '-inf', now_ms - KEPT_MS)
  const locks = await redis.zrange(key, '0', '-1')
  return locks.map((lock) => lock.slice(prefix.length + 'lock:{'.length, -1))
}

function ofOne(redis: Redis | Cluster, prefix: string): RedisIndex {
  const key = `${prefix}lock:index`
  return {
    keyOf: () => key,
    implied: true,
    together: (resources) => (resources.length > 0 ? [[...resources]] : []),
    list: async () => await entries(redis, key, prefix, await serverMs(redis)),
  }
}

async function serverMs(redis: Redis | Cluster): Promise<number> {
  const [seconds] = await redis.time()
  return Number(seconds) * 1000
}

/** An index for each slot, and a set of the slots that have one, which cannot be written in the same step. */
function ofCluster(redis: Redis | Cluster, prefix: string): RedisIndex {
  const used = `${prefix}lock:slots`
  const told = new Map<number, number>()
  let tags: string[] | undefined
  const keyOfSlot = (slot: number) => {
    tags ??= tagsBySlot()
    return `${prefix}lock:index:{${tags[slot]}}`
  }
  const slotOf = (resource: string) => keySlot(`${prefix}lock:{${resource}}`)

  return {
    implied: false,
    keyOf(resource) {
      const slot = slotOf(resource)
      if (Date.now() - (told.get(slot) ?? 0) > RETELL_MS) {
        told.set(slot, Date.now())
        redis.sadd(used, slot).catch(() => told.delete(slot))
      }
      return keyOfSlot(slot)
    },
    together(resources) {
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
      const lists = slots.map((slot) => entries(redis, keyOfSlot(Number(slot)), prefix, now_ms))
      return (await Promise.all(lists)).flat()
    },
  }
}

/** For each slot a text that falls into it. */
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
