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
import type { Answer, Attempt, Backend, BusyAnswer, Heard } from '../core/backend.ts'
import { createLocksOn } from '../core/locks.ts'
import { type Call, connectEtcd, type EtcdClient, isGone } from './client.ts'
import { createTable, type View } from './keyspace.ts'
import { type Entry, idOf, isHolder, isWaiter, leaseOf, type Named, readId, turns } from './wait-queue.ts'
import { createLines, createWatches } from './watch.ts'

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
const LONGEST_MS = 2000

/** For so long, at least, robberies are listened to when nothing is held any more: the next lock may be asked for soon. */
const REST_MS = 1000

/** Somebody must come or go in between for a transaction to fail: so often in a row, something is broken. */
const TRIES = 50

function etcdBackend(client: EtcdClient, prefix: string): Backend {
  const channel = randomBytes(8).toString('hex')
  const table = createTable(client, prefix)
  const { lineOf } = table
  const watches = createWatches(client)
  const lines = createLines(watches)
  let places = 0
  let listener: Heard | undefined
  /** What goes on behind an answer that has been given. */
  const behind = new Set<Promise<unknown>>()

  const within = (limit_ms: number): Call => ({ deadline: Date.now() + limit_ms })

  function later(work: Promise<unknown>): void {
    // What is not undone here dies with its etcd lease.
    const done = work.then(ignore, ignore).finally(() => behind.delete(done))
    behind.add(done)
  }

  async function grantOrRenew(lease: string, ttl_ms: number, call: Call): Promise<void> {
    // Neither there nor renewed: it is ending this very moment.
    while (!(await client.grantLease(lease, serverTtl(ttl_ms), call)) && (await client.keepAlive(lease, call)) === 0);
  }

  /** Until it is granted, or known to be busy. A guessed view costs nothing when it is wrong: the answer has the line. */
  async function settle(request: Attempt, key: string, guess: View, call: Call): Promise<Answer> {
    const named = readId(request.id)
    const stands = request.place_ttl_ms > 0
    const place = leaseOf(named, 'place')
    const one_lease = place === leaseOf(named, 'lock')
    let view = guess
    for (let tries = 0; tries < TRIES; tries++) {
      const at = view.line.findIndex((entry) => entry.key === key)
      const own = view.line[at]
      if (own?.token !== undefined) return { granted: true, token: own.token }
      const has_turn = own ? at < turns(view.line) : turns([...view.line, request]) > view.line.length
      // Newcomers who find company do not race for the end of the line, if they may stand in it.
      if (has_turn && (own || tries === 0 || !stands)) {
        const answer = await table.grant(request, key, view, stands && one_lease, call)
        if (typeof answer === 'number') return { granted: true, token: answer }
        view = answer
      } else if (own || !stands) {
        return busy(request, key, view)
      } else {
        if (!one_lease) await grantOrRenew(place, request.place_ttl_ms, call)
        view = await table.stand(request, key, call)
      }
    }
    throw new Error(`the line of ${request.resource} changed ${TRIES} times while it was asked for`)
  }

  function busy({ resource, id }: Attempt, key: string, { line, revision }: Omit<View, 'base'>): BusyAnswer {
    const at = line.findIndex((entry) => entry.key === key)
    if (at >= 0) {
      const { seat } = readId(id)
      lines.follow(lineOf(resource), { line, revision }, key, () => listener?.(seat))
    }
    const holder = line.find(isHolder)
    return {
      granted: false,
      ticket: line[at]?.create_revision ?? 0,
      place: at >= 0 ? ++places : 0,
      ahead: line.slice(0, Math.max(at, 0)).filter(isWaiter).length,
      waiting: line.filter(isWaiter).length,
      // At the latest: a holder that lives renews so often that to ask would tell little more.
      free_in_ms: holder ? serverTtl(holder.ttl_ms) * 1000 : -1,
      holder: holder?.owner,
    }
  }

  /**
   * From a place in line: the line is known from what etcd tells, so this costs a renewal, and one transaction more when
   * the turn has come. undefined when a lease has run out meanwhile, whatever was found.
   */
  async function askAgain(request: Attempt, key: string, call: Call): Promise<Answer | undefined> {
    const { resource, id, ttl_ms, place_ttl_ms } = request
    const named = readId(id)
    const view = lines.known(lineOf(resource)) ?? (await table.read(resource, call))
    const at = view.line.findIndex((entry) => entry.key === key)
    if (at < 0) return undefined
    if (at < turns(view.line)) {
      const [left_ms, answer] = await Promise.all([
        client.keepAlive(leaseOf(named, 'lock'), call),
        settle(request, key, { ...table.guess(), ...view }, call).catch(unlessGone),
      ])
      return answer?.granted && left_ms >= ttl_ms ? answer : undefined
    }
    const left_ms = await client.keepAlive(leaseOf(named, 'place'), call)
    return left_ms >= place_ttl_ms ? busy(request, key, view) : undefined
  }

  async function stateOf(line: readonly Entry[], call: Call): Promise<Omit<LockState, 'resource'>> {
    const holders = line.filter(isHolder).map(async (entry) => {
      // Told in seconds that are over. The core lives by the TTL that it was asked for, within that of etcd.
      const left_ms = (await client.timeToLive(entry.lease, call)) + 1000
      return { ...shown(entry), token: entry.token, ttl_left_ms: Math.min(Math.max(left_ms, 0), entry.ttl_ms) }
    })
    const held = await Promise.all(holders)
    const fence = Math.max(0, ...held.map((holder) => holder.token))
    return { fence, holders: held, waiters: line.filter(isWaiter).map(shown) }
  }

  /** By seat: until when, by performance.now(), the seat may have a lock or a place. Lost and remote ones run out. */
  const seats = new Map<number, number>()
  const robberies = {
    prefix: table.robbedOf(channel),
    // Goes on where it was left: nothing is missed in between.
    from: 0,
    told(events: readonly IEvent[]) {
      for (const { type, kv } of events) if (type === 'Put') listener?.(Number(kv.value.toString()), 'taken')
    },
    // Until it is asked for again, holders learn by their heartbeats what is missed.
    ended() {
      robberies.from = 0
      stopHearing = undefined
    },
  }
  let stopHearing: (() => void) | undefined
  let resting = false

  /** While a seat may have something, robberies are listened to; else not, because the stream keeps the process alive. */
  function seated({ seat, channel: of, ttl_ms }: Named): void {
    if (of !== channel) return
    seats.set(seat, performance.now() + ttl_ms)
    if (stopHearing) return
    stopHearing = watches.open(robberies)
    restLater()
  }

  function unseated({ seat, channel: of }: Named): void {
    if (of === channel) seats.delete(seat)
  }

  function restLater(): void {
    if (resting) return
    resting = true
    setTimeout(() => {
      resting = false
      const now = performance.now()
      for (const [seat, until] of seats) if (until < now) seats.delete(seat)
      if (seats.size > 0) return restLater()
      stopHearing?.()
      stopHearing = undefined
    }, REST_MS).unref()
  }

  return {
    newId: (asker) => idOf({ ...asker, channel, uuid: randomUUID() }),

    async attempt(request) {
      const { resource, ticket, ttl_ms } = request
      const named = readId(request.id)
      const lease = leaseOf(named, 'lock')
      const call = within(answerLimit(ttl_ms))
      const key = lineOf(resource) + named.uuid
      seated(named)
      let answer = ticket > 0 ? await askAgain(request, key, call) : undefined
      if (!answer) {
        await grantOrRenew(lease, ttl_ms, call)
        answer = await settle(request, key, ticket > 0 ? await table.read(resource, call) : table.guess(), call)
      }
      if (answer.granted) lines.unfollow(lineOf(resource), key)
      // The lease that is of no use now: of the place, or of the lock that a mere try did not get.
      const place = leaseOf(named, 'place')
      const idle = answer.granted ? ticket > 0 && place !== lease && place : answer.ticket === 0 && lease
      if (!answer.granted && answer.ticket === 0) unseated(named)
      if (idle) later(client.revokeLease(idle, within(LONGEST_MS)))
      return answer
    },

    async extend(resource, id, ttl_ms) {
      const named = readId(id)
      const lease = leaseOf(named, 'lock')
      const call = within(answerLimit(ttl_ms))
      const [left_ms, { line }] = await Promise.all([client.keepAlive(lease, call), table.read(resource, call)])
      const own = line.find((entry) => entry.key === lineOf(resource) + named.uuid)
      if (own && isHolder(own) && left_ms >= ttl_ms) {
        seated(named)
        return line.filter(isWaiter).length
      }
      unseated(named)
      if (own) return 'expired'
      // An etcd lease that outlives its key was robbed of it.
      if (left_ms > 0) later(client.revokeLease(lease, within(LONGEST_MS)))
      return left_ms > 0 || line.some(isHolder) ? 'taken' : 'expired'
    },

    async release(resource, id) {
      const call = within(LONGEST_MS)
      unseated(readId(id))
      const left = await table.leave(resource, id, call)
      const revoked = client.revokeLease(leaseOf(readId(id), 'lock'), call)
      later(revoked)
      if (left === true) return 'released'
      if (left.robbed) return 'taken'
      // Neither robbed nor expired: this was asked before, and its answer was lost.
      if (await revoked) return 'released'
      return left.line.some(isHolder) ? 'taken' : 'expired'
    },

    async cancel(resource, id) {
      const named = readId(id)
      unseated(named)
      const call = within(LONGEST_MS)
      lines.unfollow(lineOf(resource), lineOf(resource) + named.uuid)
      // The leases rather than the key: without them a request that comes late can put it nowhere.
      const leases = new Set([leaseOf(named, 'lock'), leaseOf(named, 'place')])
      await Promise.all(Array.from(leases, (lease) => client.revokeLease(lease, call)))
    },

    async force(resource, above) {
      const call = within(LONGEST_MS)
      for (let tries = 0; tries < TRIES; tries++) {
        const view = await table.read(resource, call)
        const { holders } = await stateOf(view.line, call)
        const token = await table.rob(resource, view, above, call)
        if (token !== undefined) return { token, robbed: holders }
      }
      throw new Error(`the line of ${resource} changed ${TRIES} times while it was taken away`)
    },

    async inspect(resources) {
      const call = within(LONGEST_MS)
      const read = await table.readLines(resources, call)
      const states = resources.map(async (resource, n) => ({ resource, ...(await stateOf(read[n] ?? [], call)) }))
      return await Promise.all(states)
    },

    list: () => table.resources(within(LONGEST_MS)),

    listen(heard) {
      listener ??= heard
    },

    async close() {
      watches.close()
      await Promise.all(behind)
      client.close()
    },
  }
}

function shown({ owner, mode, limit, since_ms }: Entry): LockState['waiters'][number] {
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
