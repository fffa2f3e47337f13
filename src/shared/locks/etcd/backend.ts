/**
 * The backend on etcd 3. Invariant: an attempt answers with a lock only if this attempt has created or renewed the lock's etcd
 * lease and has found or written the granted key. So etcd keeps the lock for its TTL, counted from before the attempt.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import type { LockState } from '../api.ts'
import { answerLimit } from '../core/answer-limit.ts'
import type { Answer, Attempt, Backend, BusyAnswer, OnLockMessage, Requester } from '../core/backend.ts'
import { type Call, type EtcdClient, isGone } from './client.ts'
import { Keyspace, type View } from './keyspace.ts'
import { Revocations } from './revocations.ts'
import { type Entry, idOf, isHolder, isWaiter, leaseOf, type OwnerId, readId, turns } from './wait-queue.ts'
import { createFollowedQueues, type FollowedQueues, Watches } from './watch.ts'

/** Time limit of operations without a TTL, in milliseconds: the longest time that the core waits for any operation. */
const DEFAULT_LIMIT_MS = 2000

/**
 * Maximum number of tries. Each failed try means that the queue changed in the meantime; after so many, something is broken.
 */
const MAX_TRIES = 50

export class EtcdBackend implements Backend {
  #client: EtcdClient
  #channel = randomBytes(8).toString('hex')
  #keyspace: Keyspace
  #watches: Watches
  #followed: FollowedQueues
  #revocations: Revocations
  #last_slot = 0
  #listener: OnLockMessage | undefined
  /** Revocations of etcd leases that continue after the operation that began them has returned. */
  #background = new Set<Promise<unknown>>()

  constructor(client: EtcdClient, prefix: string) {
    this.#client = client
    this.#keyspace = new Keyspace(client, prefix)
    this.#watches = new Watches(client)
    this.#followed = createFollowedQueues(this.#watches)
    const revoked_prefix = this.#keyspace.revokedPrefix(this.#channel)
    this.#revocations = new Revocations(this.#watches, revoked_prefix, (waiter_id) =>
      this.#listener?.(waiter_id, 'taken'),
    )
  }

  newOwnerId(requester: Requester): string {
    return idOf({ ...requester, channel: this.#channel, uuid: randomUUID() })
  }

  async attempt(request: Attempt): Promise<Answer> {
    const { resource, ticket, ttl_ms } = request
    const named = readId(request.id)
    const lease = leaseOf(named, 'lock')
    const call = within(answerLimit(ttl_ms))
    const key = this.#keyspace.queuePrefix(resource) + named.uuid
    this.#markLive(named)
    let answer = ticket > 0 ? await this.#recheck(request, key, call) : undefined
    if (!answer) {
      await this.#grantOrRenew(lease, ttl_ms, call)
      answer = await this.#grantOrEnqueue(
        request,
        key,
        ticket > 0 ? await this.#keyspace.read(resource, call) : this.#keyspace.assumedView(),
        call,
      )
    }
    if (answer.granted) this.#followed.unfollow(this.#keyspace.queuePrefix(resource), key)
    // Revoke the etcd lease that is no longer needed: that of a lock that a try without waiting did not get, or that of the slot.
    // The slot lease of a first attempt that joins the queue and is granted in the same attempt expires by itself.
    const slot = leaseOf(named, 'slot')
    const idle = answer.granted ? ticket > 0 && slot !== lease && slot : answer.ticket === 0 && lease
    if (!answer.granted && answer.ticket === 0) this.#unmarkLive(named)
    if (idle) this.#inBackground(this.#client.revokeLease(idle, within(DEFAULT_LIMIT_MS)))
    return answer
  }

  /**
   * Makes an attempt from a slot. Watch events keep a copy of the queue up to date, so this costs one renewal, and one more
   * transaction if the waiter has its turn; it reads the queue only if the copy is stale. Returns undefined if the waiter's key
   * or an etcd lease has expired, or if the waiter has its turn and is not granted the lock: the caller then begins anew.
   */
  async #recheck(request: Attempt, key: string, call: Call): Promise<Answer | undefined> {
    const { resource, id, ttl_ms, slot_ttl_ms } = request
    const named = readId(id)
    const queue_prefix = this.#keyspace.queuePrefix(resource)
    const view = this.#followed.current(queue_prefix) ?? (await this.#keyspace.read(resource, call))
    const at = view.queue.findIndex((entry) => entry.key === key)
    if (at < 0) return undefined
    if (at < turns(view.queue)) {
      const [left_ms, answer] = await Promise.all([
        this.#client.keepAlive(leaseOf(named, 'lock'), call),
        this.#grantOrEnqueue(request, key, { ...this.#keyspace.assumedView(), ...view }, call).catch(unlessGone),
      ])
      return answer?.granted && left_ms >= ttl_ms ? answer : undefined
    }
    const left_ms = await this.#client.keepAlive(leaseOf(named, 'slot'), call)
    return left_ms >= slot_ttl_ms ? this.#busyAnswer(request, key, view) : undefined
  }

  async #grantOrRenew(lease: string, ttl_ms: number, call: Call): Promise<void> {
    const client = this.#client
    // If the lease can be neither granted nor renewed, it is expiring at this moment: try again.
    while (!(await client.grantLease(lease, serverTtl(ttl_ms), call)) && (await client.keepAlive(lease, call)) === 0);
  }

  /**
   * Repeats until the lock is granted or known to be busy. A wrong assumption about the queue costs no extra read, because the
   * answer contains the queue.
   */
  async #grantOrEnqueue(request: Attempt, key: string, assumed: View, call: Call): Promise<Answer> {
    const named = readId(request.id)
    const may_wait = request.slot_ttl_ms > 0
    const slot = leaseOf(named, 'slot')
    const one_lease = slot === leaseOf(named, 'lock')
    let view = assumed
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const at = view.queue.findIndex((entry) => entry.key === key)
      const mine = view.queue[at]
      if (mine?.token !== undefined) return { granted: true, token: mine.token }
      const has_turn = mine ? at < turns(view.queue) : turns([...view.queue, request]) > view.queue.length
      // A newcomer that finds other keys, and may wait, joins the queue instead of racing with other newcomers for a grant.
      if (has_turn && (mine || tries === 0 || !may_wait)) {
        const answer = await this.#keyspace.grant(request, key, view, may_wait && one_lease, call)
        if (typeof answer === 'number') return { granted: true, token: answer }
        view = answer
      } else if (mine || !may_wait) {
        return this.#busyAnswer(request, key, view)
      } else {
        if (!one_lease) await this.#grantOrRenew(slot, request.slot_ttl_ms, call)
        view = await this.#keyspace.enqueue(request, key, call)
      }
    }
    throw new Error(`the wait queue of ${request.resource} changed ${MAX_TRIES} times during one attempt`)
  }

  #busyAnswer({ resource, id }: Attempt, key: string, { queue, revision }: Omit<View, 'base'>): BusyAnswer {
    const at = queue.findIndex((entry) => entry.key === key)
    if (at >= 0) {
      const { waiter_id } = readId(id)
      const wake = () => this.#listener?.(waiter_id)
      this.#followed.follow(this.#keyspace.queuePrefix(resource), { queue, revision }, key, wake)
    }
    const holder = queue.find(isHolder)
    return {
      granted: false,
      ticket: queue[at]?.create_revision ?? 0,
      slot: at >= 0 ? ++this.#last_slot : 0,
      ahead: queue.slice(0, Math.max(at, 0)).filter(isWaiter).length,
      waiting: queue.filter(isWaiter).length,
      // This is an upper bound for the first holder, who may be one of several: a live holder renews so often that reading the
      // exact value would add little.
      free_in_ms: holder ? serverTtl(holder.ttl_ms) * 1000 : -1,
      holder: holder?.owner,
    }
  }

  async extend(resource: string, id: string, ttl_ms: number): Promise<number | 'expired' | 'taken'> {
    const named = readId(id)
    const lease = leaseOf(named, 'lock')
    const call = within(answerLimit(ttl_ms))
    const [left_ms, { queue }] = await Promise.all([
      this.#client.keepAlive(lease, call),
      this.#keyspace.read(resource, call),
    ])
    const mine = queue.find((entry) => entry.key === this.#keyspace.queuePrefix(resource) + named.uuid)
    if (mine && isHolder(mine) && left_ms >= ttl_ms) {
      this.#markLive(named)
      return queue.filter(isWaiter).length
    }
    this.#unmarkLive(named)
    if (mine) return 'expired'
    // If the etcd lease outlives its key, the lock was revoked.
    if (left_ms > 0) this.#inBackground(this.#client.revokeLease(lease, within(DEFAULT_LIMIT_MS)))
    return left_ms > 0 || queue.some(isHolder) ? 'taken' : 'expired'
  }

  async release(resource: string, id: string): Promise<'released' | 'expired' | 'taken'> {
    const call = within(DEFAULT_LIMIT_MS)
    this.#unmarkLive(readId(id))
    const left = await this.#keyspace.remove(resource, id, call)
    const revoked = this.#client.revokeLease(leaseOf(readId(id), 'lock'), call)
    this.#inBackground(revoked)
    if (left === true) return 'released'
    if (left.revoked) return 'taken'
    // If the lock was neither revoked nor expired, an earlier release succeeded and its answer was lost.
    if (await revoked) return 'released'
    return left.queue.some(isHolder) ? 'taken' : 'expired'
  }

  async cancel(resource: string, id: string): Promise<void> {
    const named = readId(id)
    this.#unmarkLive(named)
    const call = within(DEFAULT_LIMIT_MS)
    const queue_prefix = this.#keyspace.queuePrefix(resource)
    this.#followed.unfollow(queue_prefix, queue_prefix + named.uuid)
    // Revoke the leases instead of deleting the key: without its leases, a request that arrives late cannot write the key.
    const leases = new Set([leaseOf(named, 'lock'), leaseOf(named, 'slot')])
    await Promise.all(Array.from(leases, (lease) => this.#client.revokeLease(lease, call)))
  }

  async force(resource: string, above: number): ReturnType<Backend['force']> {
    const call = within(DEFAULT_LIMIT_MS)
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const view = await this.#keyspace.read(resource, call)
      const { holders } = await this.#stateOf(view.queue, call)
      const token = await this.#keyspace.revoke(resource, view, above, call)
      if (token !== undefined) return { token, revoked_holders: holders }
    }
    throw new Error(`the wait queue of ${resource} changed ${MAX_TRIES} times during a forced release`)
  }

  async inspect(resources: readonly string[]): Promise<LockState[]> {
    const call = within(DEFAULT_LIMIT_MS)
    const read = await this.#keyspace.readQueues(resources, call)
    const states = resources.map(async (resource, n) => ({ resource, ...(await this.#stateOf(read[n] ?? [], call)) }))
    return await Promise.all(states)
  }

  async #stateOf(queue: readonly Entry[], call: Call): Promise<Omit<LockState, 'resource'>> {
    const holders = queue.filter(isHolder).map(async (entry) => {
      // etcd rounds down to seconds. The core counts with the TTL that it requested, which is not longer than etcd's.
      const left_ms = (await this.#client.timeToLive(entry.lease, call)) + 1000
      return { ...toWaiter(entry), token: entry.token, ttl_left_ms: Math.min(Math.max(left_ms, 0), entry.ttl_ms) }
    })
    const held = await Promise.all(holders)
    const fencing_token = Math.max(0, ...held.map((holder) => holder.token))
    return { fencing_token, holders: held, waiters: queue.filter(isWaiter).map(toWaiter) }
  }

  list(): Promise<string[]> {
    return this.#keyspace.resources(within(DEFAULT_LIMIT_MS))
  }

  listen(onMessage: OnLockMessage): void {
    this.#listener ??= onMessage
  }

  async close(): Promise<void> {
    this.#watches.close()
    await Promise.all(this.#background)
    this.#client.close()
  }

  #markLive({ waiter_id, channel, ttl_ms }: OwnerId): void {
    if (channel === this.#channel) this.#revocations.markLive(waiter_id, ttl_ms)
  }

  #unmarkLive({ waiter_id, channel }: OwnerId): void {
    if (channel === this.#channel) this.#revocations.unmarkLive(waiter_id)
  }

  #inBackground(work: Promise<unknown>): void {
    // Ignore failures: the keys that this work would remove expire with their etcd lease.
    const done = work.then(ignore, ignore).finally(() => this.#background.delete(done))
    this.#background.add(done)
  }
}

function within(limit_ms: number): Call {
  return { deadline: Date.now() + limit_ms }
}

function toWaiter({ owner, mode, limit, since_ms }: Entry): LockState['waiters'][number] {
  return { owner, mode, since_ms, ...(mode === 'permit' ? { limit } : {}) }
}

/** Returns the TTL for etcd in seconds; etcd's minimum TTL is two seconds. */
function serverTtl(ttl_ms: number): number {
  return Math.max(2, Math.ceil(ttl_ms / 1000))
}

function unlessGone(error: unknown): undefined {
  if (!isGone(error)) throw error
}

function ignore(): void {}
