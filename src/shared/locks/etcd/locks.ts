/**
 * Leases on etcd 3. Invariant: an attempt answers with a lock only when it has renewed the lock's etcd lease itself,
 * and has then found the granted key; so etcd keeps the lock for its TTL, counted from before the attempt.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { IEvent } from 'etcd3'
import type { LockEvents, LockState, Locks } from '../api.ts'
import { answerLimit } from '../core/answer-limit.ts'
import { checkSetting, checkText } from '../core/arguments.ts'
import type { Answer, Attempt, Backend, BusyAnswer, OnLockMessage } from '../core/backend.ts'
import { createLocksOn } from '../core/locks.ts'
import { type Call, connectEtcd, type EtcdClient, isGone } from './client.ts'
import { createKeyspace, type View } from './keyspace.ts'
import { type Entry, idOf, isHolder, isWaiter, leaseOf, type OwnerId, readId, turns } from './wait-queue.ts'
import { createFollowedQueues, createWatches } from './watch.ts'

// biome-ignore lint/performance/noBarrelFile: an entry of the package; callers branch on the errors of what they open here
export { type Lease, LeaseLostError, LockBusyError, type Locks } from '../api.ts'

export interface EtcdLocksOptions {
  /** URLs of one cluster's servers, version 3.4 or newer: http://host:port. */
  hosts: readonly string[]
  /** Prefix of every key. */
  prefix?: string
  /** etcd counts in whole seconds, two at least: after a crash of the holder other callers may wait that long. */
  ttl_ms: number
  /** The holder's name when an acquire names no owner. Default host:pid. */
  instance?: string
  events?: LockEvents
  expected_hold_ms?: (resource: string) => number | undefined
}

/** @throws TypeError or RangeError for an invalid option, RangeError when hosts is empty */
export function createEtcdLocks(all: EtcdLocksOptions): Locks {
  checkSetting(all)
  const { hosts, prefix = '', instance, ...options } = all
  if (!Array.isArray(hosts)) throw new TypeError('hosts must be an array')
  for (const host of hosts) checkText('hosts', host ?? null)
  if (hosts.length === 0) throw new RangeError('hosts names no server')
  const backend = etcdBackend(connectEtcd(hosts), prefix)
  return createLocksOn(backend, { ...options, instance: instance ?? `${hostname()}:${process.pid}` })
}

/** Time limit of operations without a TTL: the longest that the core waits for any. */
const DEFAULT_LIMIT_MS = 2000

/** Revocations are watched for at least this long after the last lock: the next one may be requested soon. */
const IDLE_CHECK_MS = 1000

/** Each failed try means that the queue changed in the meantime; after this many failures something is broken. */
const MAX_TRIES = 50

function etcdBackend(client: EtcdClient, prefix: string): Backend {
  const channel = randomBytes(8).toString('hex')
  const keyspace = createKeyspace(client, prefix)
  const { queuePrefix } = keyspace
  const watches = createWatches(client)
  const followed = createFollowedQueues(watches)
  let last_slot = 0
  let listener: OnLockMessage | undefined
  /** Work that continues after its answer was returned. */
  const background = new Set<Promise<unknown>>()

  const within = (limit_ms: number): Call => ({ deadline: Date.now() + limit_ms })

  function inBackground(work: Promise<unknown>): void {
    // What fails here expires with its etcd lease.
    const done = work.then(ignore, ignore).finally(() => background.delete(done))
    background.add(done)
  }

  async function grantOrRenew(lease: string, ttl_ms: number, call: Call): Promise<void> {
    // Neither granted nor renewed: it is expiring at this moment.
    while (!(await client.grantLease(lease, serverTtl(ttl_ms), call)) && (await client.keepAlive(lease, call)) === 0);
  }

  /**
   * Repeats until the lock is granted or known to be busy. A wrong assumption costs nothing: the answer contains the
   * queue.
   */
  async function grantOrEnqueue(request: Attempt, key: string, assumed: View, call: Call): Promise<Answer> {
    const named = readId(request.id)
    const may_wait = request.slot_ttl_ms > 0
    const slot = leaseOf(named, 'slot')
    const one_lease = slot === leaseOf(named, 'lock')
    let view = assumed
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const at = view.queue.findIndex((entry) => entry.key === key)
      const own = view.queue[at]
      if (own?.token !== undefined) return { granted: true, token: own.token }
      const has_turn = own ? at < turns(view.queue) : turns([...view.queue, request]) > view.queue.length
      // A newcomer that finds other keys does not race for the end of the queue, if it may wait in it.
      if (has_turn && (own || tries === 0 || !may_wait)) {
        const answer = await keyspace.grant(request, key, view, may_wait && one_lease, call)
        if (typeof answer === 'number') return { granted: true, token: answer }
        view = answer
      } else if (own || !may_wait) {
        return busyAnswer(request, key, view)
      } else {
        if (!one_lease) await grantOrRenew(slot, request.slot_ttl_ms, call)
        view = await keyspace.enqueue(request, key, call)
      }
    }
    throw new Error(`the wait queue of ${request.resource} changed ${MAX_TRIES} times during one attempt`)
  }

  function busyAnswer({ resource, id }: Attempt, key: string, { queue, revision }: Omit<View, 'base'>): BusyAnswer {
    const at = queue.findIndex((entry) => entry.key === key)
    if (at >= 0) {
      const { waiter_id } = readId(id)
      followed.follow(queuePrefix(resource), { queue, revision }, key, () => listener?.(waiter_id))
    }
    const holder = queue.find(isHolder)
    return {
      granted: false,
      ticket: queue[at]?.create_revision ?? 0,
      slot: at >= 0 ? ++last_slot : 0,
      ahead: queue.slice(0, Math.max(at, 0)).filter(isWaiter).length,
      waiting: queue.filter(isWaiter).length,
      // Upper bound: a live holder renews so often that reading the exact value would add little.
      free_in_ms: holder ? serverTtl(holder.ttl_ms) * 1000 : -1,
      holder: holder?.owner,
    }
  }

  /**
   * Rechecks from a slot: the queue is known from etcd's watch events, so this costs one renewal, and one transaction
   * more when the turn has come. undefined when a lease has expired in the meantime, whatever was found.
   */
  async function recheck(request: Attempt, key: string, call: Call): Promise<Answer | undefined> {
    const { resource, id, ttl_ms, slot_ttl_ms } = request
    const named = readId(id)
    const view = followed.current(queuePrefix(resource)) ?? (await keyspace.read(resource, call))
    const at = view.queue.findIndex((entry) => entry.key === key)
    if (at < 0) return undefined
    if (at < turns(view.queue)) {
      const [left_ms, answer] = await Promise.all([
        client.keepAlive(leaseOf(named, 'lock'), call),
        grantOrEnqueue(request, key, { ...keyspace.assumedView(), ...view }, call).catch(unlessGone),
      ])
      return answer?.granted && left_ms >= ttl_ms ? answer : undefined
    }
    const left_ms = await client.keepAlive(leaseOf(named, 'slot'), call)
    return left_ms >= slot_ttl_ms ? busyAnswer(request, key, view) : undefined
  }

  async function stateOf(queue: readonly Entry[], call: Call): Promise<Omit<LockState, 'resource'>> {
    const holders = queue.filter(isHolder).map(async (entry) => {
      // etcd rounds down to seconds. The core uses the TTL that it requested, which is within that of etcd.
      const left_ms = (await client.timeToLive(entry.lease, call)) + 1000
      return { ...toWaiter(entry), token: entry.token, ttl_left_ms: Math.min(Math.max(left_ms, 0), entry.ttl_ms) }
    })
    const held = await Promise.all(holders)
    const fencing_token = Math.max(0, ...held.map((holder) => holder.token))
    return { fencing_token, holders: held, waiters: queue.filter(isWaiter).map(toWaiter) }
  }

  /**
   * By waiter_id: until when, by performance.now(), the waiter may have a lock or a slot. Lost and remote ones expire.
   */
  const live_until = new Map<number, number>()
  const revocations = {
    prefix: keyspace.revokedPrefix(channel),
    // Continues from the last revision seen, so no event is missed in between.
    from: 0,
    onEvents(events: readonly IEvent[]) {
      for (const { type, kv } of events) if (type === 'Put') listener?.(Number(kv.value.toString()), 'taken')
    },
    // Until the watch is opened again, holders learn of revocations by their heartbeats.
    onEnd() {
      revocations.from = 0
      stopRevocations = undefined
    },
  }
  let stopRevocations: (() => void) | undefined
  let check_scheduled = false

  /**
   * Watches revocations while a waiter may have a lock or slot; not longer, because the stream keeps the process alive.
   */
  function markLive({ waiter_id, channel: of, ttl_ms }: OwnerId): void {
    if (of !== channel) return
    live_until.set(waiter_id, performance.now() + ttl_ms)
    if (stopRevocations) return
    stopRevocations = watches.open(revocations)
    scheduleIdleCheck()
  }

  function unmarkLive({ waiter_id, channel: of }: OwnerId): void {
    if (of === channel) live_until.delete(waiter_id)
  }

  function scheduleIdleCheck(): void {
    if (check_scheduled) return
    check_scheduled = true
    setTimeout(() => {
      check_scheduled = false
      const now = performance.now()
      for (const [waiter_id, until] of live_until) if (until < now) live_until.delete(waiter_id)
      if (live_until.size > 0) return scheduleIdleCheck()
      stopRevocations?.()
      stopRevocations = undefined
    }, IDLE_CHECK_MS).unref()
  }

  return {
    newOwnerId: (requester) => idOf({ ...requester, channel, uuid: randomUUID() }),

    async attempt(request) {
      const { resource, ticket, ttl_ms } = request
      const named = readId(request.id)
      const lease = leaseOf(named, 'lock')
      const call = within(answerLimit(ttl_ms))
      const key = queuePrefix(resource) + named.uuid
      markLive(named)
      let answer = ticket > 0 ? await recheck(request, key, call) : undefined
      if (!answer) {
        await grantOrRenew(lease, ttl_ms, call)
        answer = await grantOrEnqueue(
          request,
          key,
          ticket > 0 ? await keyspace.read(resource, call) : keyspace.assumedView(),
          call,
        )
      }
      if (answer.granted) followed.unfollow(queuePrefix(resource), key)
      // The lease that is no longer needed: of the slot, or of a lock that a try without waiting did not get.
      const slot = leaseOf(named, 'slot')
      const idle = answer.granted ? ticket > 0 && slot !== lease && slot : answer.ticket === 0 && lease
      if (!answer.granted && answer.ticket === 0) unmarkLive(named)
      if (idle) inBackground(client.revokeLease(idle, within(DEFAULT_LIMIT_MS)))
      return answer
    },

    async extend(resource, id, ttl_ms) {
      const named = readId(id)
      const lease = leaseOf(named, 'lock')
      const call = within(answerLimit(ttl_ms))
      const [left_ms, { queue }] = await Promise.all([client.keepAlive(lease, call), keyspace.read(resource, call)])
      const own = queue.find((entry) => entry.key === queuePrefix(resource) + named.uuid)
      if (own && isHolder(own) && left_ms >= ttl_ms) {
        markLive(named)
        return queue.filter(isWaiter).length
      }
      unmarkLive(named)
      if (own) return 'expired'
      // If the etcd lease outlives its key, the lock was revoked.
      if (left_ms > 0) inBackground(client.revokeLease(lease, within(DEFAULT_LIMIT_MS)))
      return left_ms > 0 || queue.some(isHolder) ? 'taken' : 'expired'
    },

    async release(resource, id) {
      const call = within(DEFAULT_LIMIT_MS)
      unmarkLive(readId(id))
      const left = await keyspace.remove(resource, id, call)
      const revoked = client.revokeLease(leaseOf(readId(id), 'lock'), call)
      inBackground(revoked)
      if (left === true) return 'released'
      if (left.revoked) return 'taken'
      // Neither revoked nor expired: an earlier release succeeded, and its answer was lost.
      if (await revoked) return 'released'
      return left.queue.some(isHolder) ? 'taken' : 'expired'
    },

    async cancel(resource, id) {
      const named = readId(id)
      unmarkLive(named)
      const call = within(DEFAULT_LIMIT_MS)
      followed.unfollow(queuePrefix(resource), queuePrefix(resource) + named.uuid)
      // Revokes the leases, not the key: without them a request that arrives late cannot write it.
      const leases = new Set([leaseOf(named, 'lock'), leaseOf(named, 'slot')])
      await Promise.all(Array.from(leases, (lease) => client.revokeLease(lease, call)))
    },

    async force(resource, above) {
      const call = within(DEFAULT_LIMIT_MS)
      for (let tries = 0; tries < MAX_TRIES; tries++) {
        const view = await keyspace.read(resource, call)
        const { holders } = await stateOf(view.queue, call)
        const token = await keyspace.revoke(resource, view, above, call)
        if (token !== undefined) return { token, revoked_holders: holders }
      }
      throw new Error(`the wait queue of ${resource} changed ${MAX_TRIES} times during a forced release`)
    },

    async inspect(resources) {
      const call = within(DEFAULT_LIMIT_MS)
      const read = await keyspace.readQueues(resources, call)
      const states = resources.map(async (resource, n) => ({ resource, ...(await stateOf(read[n] ?? [], call)) }))
      return await Promise.all(states)
    },

    list: () => keyspace.resources(within(DEFAULT_LIMIT_MS)),

    listen(onMessage) {
      listener ??= onMessage
    },

    async close() {
      watches.close()
      await Promise.all(background)
      client.close()
    },
  }
}

function toWaiter({ owner, mode, limit, since_ms }: Entry): LockState['waiters'][number] {
  return { owner, mode, since_ms, ...(mode === 'permit' ? { limit } : {}) }
}

/** In seconds; etcd's minimum TTL is two. */
function serverTtl(ttl_ms: number): number {
  return Math.max(2, Math.ceil(ttl_ms / 1000))
}

function unlessGone(error: unknown): undefined {
  if (!isGone(error)) throw error
}

function ignore(): void {}
