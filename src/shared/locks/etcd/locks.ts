/**
 * Leases on etcd 3. The invariant: an attempt answers with a lock only when it has renewed the lock's etcd lease itself,
 * and has found the granted key after it asked; so from before it asked, etcd keeps the lock for its TTL.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { IEvent } from 'etcd3'
import { answerLimit } from '../../timeout.ts'
import type { LockEvents, LockState, Locks } from '../api.ts'
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
  /** In front of every key. */
  prefix?: string
  /** etcd counts in whole seconds, two at least: others may wait that long where a lock is not let go. */
  ttl_ms: number
  /** Shown as the holder when an acquire names no owner. Default host:pid. */
  instance?: string
  events?: LockEvents
  expected_hold_ms?: (resource: string) => number | undefined
}

/** @throws TypeError or RangeError for an option that is none, RangeError when hosts is empty */
export function createEtcdLocks(all: EtcdLocksOptions): Locks {
  checkSetting(all)
  const { hosts, prefix = '', instance, ...options } = all
  if (!Array.isArray(hosts)) throw new TypeError('hosts must be an array')
  for (const host of hosts) checkText('hosts', host ?? null)
  if (hosts.length === 0) throw new RangeError('hosts names no server')
  const backend = etcdBackend(connectEtcd(hosts), prefix)
  return createLocksOn(backend, { ...options, instance: instance ?? `${hostname()}:${process.pid}` })
}

/** For a verb that names no TTL: as long as the core would wait for any. */
const DEFAULT_LIMIT_MS = 2000

/** For so long, at least, robberies are listened to when nothing is held any more: the next lock may be asked for soon. */
const IDLE_CHECK_MS = 1000

/** Somebody must come or go in between for a transaction to fail: so often in a row, something is broken. */
const MAX_TRIES = 50

function etcdBackend(client: EtcdClient, prefix: string): Backend {
  const channel = randomBytes(8).toString('hex')
  const keyspace = createKeyspace(client, prefix)
  const { queuePrefix } = keyspace
  const watches = createWatches(client)
  const followed = createFollowedQueues(watches)
  let last_slot = 0
  let listener: OnLockMessage | undefined
  /** What goes on behind an answer that has been given. */
  const background = new Set<Promise<unknown>>()

  const within = (limit_ms: number): Call => ({ deadline: Date.now() + limit_ms })

  function inBackground(work: Promise<unknown>): void {
    // What is not undone here dies with its etcd lease.
    const done = work.then(ignore, ignore).finally(() => background.delete(done))
    background.add(done)
  }

  async function grantOrRenew(lease: string, ttl_ms: number, call: Call): Promise<void> {
    // Neither there nor renewed: it is ending this very moment.
    while (!(await client.grantLease(lease, serverTtl(ttl_ms), call)) && (await client.keepAlive(lease, call)) === 0);
  }

  /** Until it is granted, or known to be busy. A guessed view costs nothing when it is wrong: the answer has the line. */
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
      // Newcomers who find company do not race for the end of the line, if they may stand in it.
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
    throw new Error(`the line of ${request.resource} changed ${MAX_TRIES} times while it was asked for`)
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
      // At the latest: a holder that lives renews so often that to ask would tell little more.
      free_in_ms: holder ? serverTtl(holder.ttl_ms) * 1000 : -1,
      holder: holder?.owner,
    }
  }

  /**
   * From a place in line: the line is known from what etcd tells, so this costs a renewal, and one transaction more when
   * the turn has come. undefined when a lease has run out meanwhile, whatever was found.
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
      // Told in seconds that are over. The core lives by the TTL that it was asked for, within that of etcd.
      const left_ms = (await client.timeToLive(entry.lease, call)) + 1000
      return { ...toWaiter(entry), token: entry.token, ttl_left_ms: Math.min(Math.max(left_ms, 0), entry.ttl_ms) }
    })
    const held = await Promise.all(holders)
    const fencing_token = Math.max(0, ...held.map((holder) => holder.token))
    return { fencing_token, holders: held, waiters: queue.filter(isWaiter).map(toWaiter) }
  }

  /** By seat: until when, by performance.now(), the seat may have a lock or a place. Lost and remote ones run out. */
  const live_until = new Map<number, number>()
  const revocations = {
    prefix: keyspace.revokedPrefix(channel),
    // Goes on where it was left: nothing is missed in between.
    from: 0,
    onEvents(events: readonly IEvent[]) {
      for (const { type, kv } of events) if (type === 'Put') listener?.(Number(kv.value.toString()), 'taken')
    },
    // Until it is asked for again, holders learn by their heartbeats what is missed.
    onEnd() {
      revocations.from = 0
      stopRevocations = undefined
    },
  }
  let stopRevocations: (() => void) | undefined
  let check_scheduled = false

  /** While a seat may have something, robberies are listened to; else not, because the stream keeps the process alive. */
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
      // The lease that is of no use now: of the place, or of the lock that a mere try did not get.
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
      // An etcd lease that outlives its key was robbed of it.
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
      // Neither robbed nor expired: this was asked before, and its answer was lost.
      if (await revoked) return 'released'
      return left.queue.some(isHolder) ? 'taken' : 'expired'
    },

    async cancel(resource, id) {
      const named = readId(id)
      unmarkLive(named)
      const call = within(DEFAULT_LIMIT_MS)
      followed.unfollow(queuePrefix(resource), queuePrefix(resource) + named.uuid)
      // The leases rather than the key: without them a request that comes late can put it nowhere.
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
      throw new Error(`the line of ${resource} changed ${MAX_TRIES} times while it was taken away`)
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

/** In seconds; etcd's own least TTL is two. */
function serverTtl(ttl_ms: number): number {
  return Math.max(2, Math.ceil(ttl_ms / 1000))
}

function unlessGone(error: unknown): undefined {
  if (!isGone(error)) throw error
}

function ignore(): void {}
