/**
 * Plans faults from a seed and carries them out against real processes. Invariant: each fault undoes itself, whatever
 * happened meanwhile, so the fleet is whole after the last one.
 */
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { signalAll } from '../support/environment.ts'
import type { Link } from '../support/tcp-proxy.ts'
import type { Fleet, Member, Wire } from './fleet.ts'
import { seeded } from './seeded.ts'

type Target =
  | 'api-1'
  | 'api-2'
  | 'worker-1'
  | 'worker-2'
  | 'worker-3'
  | 'redis'
  | 'postgres'
  | 'sandbox'
  | 'workers'
  | 'machine'
const APIS: readonly Target[] = ['api-1', 'api-2']
const WORKERS: readonly Target[] = ['worker-1', 'worker-2', 'worker-3']
const PROCESSES = [...APIS, ...WORKERS]

/** kind of fault → its possible targets, and its shortest and longest duration in milliseconds */
const KINDS = {
  'killed, started again': { to: PROCESSES, ms: [200, 1500] },
  frozen: { to: [...PROCESSES, 'redis', 'postgres', 'sandbox'], ms: [300, 3500] },
  'event loop blocked': { to: PROCESSES, ms: [1700, 1700] },
  'clock stepped': { to: ['worker-3'], ms: [1500, 5000] },
  flushed: { to: ['redis'], ms: [0, 0] },
  'killed, started empty': { to: ['redis'], ms: [200, 2000] },
  'killed, started with its data': { to: ['redis'], ms: [200, 2000] },
  crashed: { to: ['postgres'], ms: [200, 1500] },
  'connections cut': { to: PROCESSES, ms: [0, 0] },
  'answers lost': { to: PROCESSES, ms: [300, 2500] },
  'network still': { to: PROCESSES, ms: [300, 3000] },
  'network slow': { to: PROCESSES, ms: [1000, 4000] },
  // Freeze for longer than a worker waits for a lease: it wakes when its time limits have passed and the lease is free.
  'frozen while they wait for a lease': { to: ['workers'], ms: [3300, 5000] },
  starved: { to: ['machine'], ms: [2000, 5000] },
} as const satisfies Record<string, { to: readonly Target[]; ms: readonly [number, number] }>

export type Kind = keyof typeof KINDS

const ALL_KINDS = Object.keys(KINDS) as Kind[]

/**
 * Faults after which every process and every connection still exists, so that no restart hides what a fault has left
 * behind.
 */
export const WITHOUT_KILLS: readonly Kind[] = [
  'frozen',
  'event loop blocked',
  'clock stepped',
  'network still',
  'network slow',
  'frozen while they wait for a lease',
  'starved',
]
/** Busy processes per core while the machine is starved. */
const HOGS_PER_CORE = 8

/**
 * Milliseconds in which workers must release queues for a lease requested from outside: many times what they are
 * allowed.
 */
const HELD_WITHIN_MS = 2_000

/** Milliseconds in which workers must start to wait for those leases: less than a worker waits for a lease. */
const WAITED_FOR_MS = 1_500

/** Milliseconds for which workers run after a freeze, before the next fault on all workers. */
const WAKE_MS = 1_000

/** A fault that starts later than planned by this many milliseconds is left out. */
const LATE_MS = 3_000

export interface Fault {
  /** milliseconds since the load began */
  at_ms: number
  kind: Kind
  target: Target
  for_ms: number
  /** servers whose connections the fault affects */
  servers: readonly ('redis' | 'postgres')[]
  /** offset of the clock in seconds, or delay in milliseconds */
  by: number
}

/** A fault that was carried out. Times are in milliseconds since the load began. */
export interface Done extends Fault {
  from_ms: number
  until_ms: number
}

/** Returns true if this machine can carry out the fault. */
const isPossible = (kind: Kind) => kind !== 'clock stepped' || process.platform === 'linux'

/**
 * Plans faults from `from_ms` to `until_ms`: each kind in turn, in an order drawn from the seed. Some faults begin
 * while another one lasts.
 */
export function plan(seed: number, from_ms: number, until_ms: number, all: readonly Kind[] = ALL_KINDS): Fault[] {
  const random = seeded(seed, 'nemesis')
  const faults: Fault[] = []
  let kinds: Kind[] = []
  for (let at_ms = from_ms; ; ) {
    if (kinds.length === 0) kinds = random.shuffled(all.filter(isPossible))
    const kind = kinds.shift() as Kind
    const { to, ms } = KINDS[kind]
    const for_ms = random.whole(ms[0], ms[1])
    const target = random.pick<Target>(to)
    const servers = random.pick<Fault['servers']>([['redis'], ['postgres'], ['redis', 'postgres']])
    const by = kind === 'clock stepped' ? random.pick([-3600, -5, 5, 3600]) : random.whole(5, 60)
    const pause_ms = random.chance(0.35) ? 300 : for_ms + random.whole(400, 2500)
    if (at_ms + for_ms > until_ms) return faults
    faults.push({ at_ms, kind, target, for_ms, servers, by })
    at_ms += pause_ms
  }
}

export function describe({ kind, target, for_ms, servers, by }: Fault): string {
  const where = ['connections cut', 'answers lost', 'network still', 'network slow'].includes(kind)
    ? ` (to ${servers.join(' and ')})`
    : ''
  const how = kind === 'clock stepped' ? ` by ${by} s` : kind === 'network slow' ? ` by ${by} ms` : ''
  return `${target}: ${kind}${how}${where}${for_ms > 0 ? `, ${(for_ms / 1000).toFixed(1)} s` : ''}`
}

export interface Nemesis {
  /** Carries out the plan. Resolves when the last fault is undone. */
  run(faults: readonly Fault[], since: number): Promise<void>
  /** returns the faults that last now */
  now(): Fault[]
  done(): readonly Done[]
}

/** Creates the nemesis of a fleet. `queues`: queues of resources that clients often buy. */
export function createNemesis(fleet: Fleet, queues: readonly string[]): Nemesis {
  const now = new Set<Fault>()
  const done: Done[] = []
  /**
   * target → its current fault, which is undone before the next one begins: otherwise the SIGCONT of one fault would
   * end the freeze of the other
   */
  const busy = new Map<Target, Promise<void>>()
  const partsOf = (target: Target) => (target === 'workers' ? WORKERS : [target])

  const memberOf = (target: Target) => fleet.members.find((one) => one.name === target) as Member
  const wiresOf = ({ target, servers }: Fault): Wire[] => servers.map((server) => memberOf(target).wires[server])
  const each = (wires: readonly Wire[], act: (link: Link) => void) => {
    for (const wire of wires) for (const link of [...wire.links]) act(link)
  }

  async function freeze(target: Target, for_ms: number): Promise<void> {
    const signal = (name: 'SIGSTOP' | 'SIGCONT') => {
      if (target === 'redis') void fleet.redis.stop(name)
      else if (target === 'postgres') signalAll(fleet.postgres.pid, name)
      else if (target === 'sandbox') fleet.sandbox.kill(name)
      else memberOf(target).running.kill(name)
    }
    signal('SIGSTOP')
    await sleep(for_ms)
    signal('SIGCONT')
  }

  /** Each function resolves when the fault is undone, with false if the fault was not carried out. */
  const acts: Record<Kind, (fault: Fault) => Promise<unknown>> = {
    async 'killed, started again'({ target, for_ms }) {
      const member = memberOf(target)
      member.running.kill('SIGKILL')
      await member.running.exited
      await sleep(for_ms)
      await member.start()
    },
    frozen: ({ target, for_ms }) => freeze(target, for_ms),
    async 'event loop blocked'({ target, for_ms }) {
      memberOf(target).running.process.kill('SIGUSR2')
      await sleep(for_ms)
    },
    async 'clock stepped'({ for_ms, by }) {
      fleet.setClock(by)
      await sleep(for_ms)
      fleet.setClock(0)
    },
    async flushed() {
      const redis = new Redis(fleet.redis.url)
      await redis.flushall().finally(() => redis.disconnect())
    },
    async 'killed, started empty'({ for_ms }) {
      await fleet.redis.stop('SIGKILL')
      await sleep(for_ms)
      await fleet.redis.restart({ empty: true })
    },
    async 'killed, started with its data'({ for_ms }) {
      await fleet.redis.stop('SIGKILL')
      await sleep(for_ms)
      await fleet.redis.restart()
    },
    async crashed({ for_ms }) {
      // Immediate shutdown: Postgres writes nothing out and replays its log at the next start.
      await fleet.postgres.stop('SIGQUIT')
      await sleep(for_ms)
      await fleet.postgres.restart()
    },
    async 'connections cut'(fault) {
      each(wiresOf(fault), (link) => link.reset())
    },
    async 'answers lost'(fault) {
      // Simulate a broken way back: the server executes the request, the answer is lost, and then the connection fails.
      const wires = wiresOf(fault)
      for (const wire of wires) wire.deaf = true
      each(wires, (link) => link.mute())
      await sleep(fault.for_ms)
      for (const wire of wires) wire.deaf = false
      each(wires, (link) => link.reset())
    },
    async 'network still'(fault) {
      const wires = wiresOf(fault)
      for (const wire of wires) wire.still = true
      each(wires, (link) => link.pause())
      await sleep(fault.for_ms)
      for (const wire of wires) wire.still = false
      each(wires, (link) => link.goOn())
    },
    async 'frozen while they wait for a lease'({ for_ms }) {
      // Take several queues: without buyers at that moment, no worker would wait for the lease of a single one.
      const ttl_ms = for_ms + HELD_WITHIN_MS + WAITED_FOR_MS + 2_000
      const asked = await Promise.all(queues.map((queue) => holdLease(queue, ttl_ms)))
      const releases = asked.map((one) => one.release)
      if (asked.some((one) => one.busy)) {
        // A holder that does not release may be left from an earlier freeze. Leave it, because a new freeze would end
        // its lease.
        await Promise.all(releases.map((release) => release()))
        return false
      }
      await waitedFor(queues)
      const frozen = Promise.all(WORKERS.map((worker) => freeze(worker, for_ms)))
      // By then the waiters' slots have expired, and time is left for a slow release.
      await sleep(for_ms - 1_500)
      await Promise.all(releases.map((release) => release()))
      await frozen
      // Wait until the workers run again: a next fault that took the leases at once would be faster than they are.
      await sleep(WAKE_MS)
    },
    async starved({ for_ms }) {
      const hogs = Array.from({ length: HOGS_PER_CORE * availableParallelism() }, () =>
        spawn('sh', ['-c', `timeout ${for_ms / 1000} sh -c 'while :; do :; done'`], { stdio: 'ignore' }),
      )
      await Promise.all(hogs.map((hog) => new Promise((resolve) => hog.once('close', resolve))))
    },
    async 'network slow'(fault) {
      const wires = wiresOf(fault)
      for (const wire of wires) wire.lag_ms = fault.by
      await sleep(fault.for_ms)
      for (const wire of wires) wire.lag_ms = 0
    },
  }

  /**
   * Resolves when workers wait for the leases of all these resources, or when it is too late for the workers that
   * already wait.
   */
  async function waitedFor(resources: readonly string[]): Promise<void> {
    const isWaitedFor = async (resource: string) => {
      const asked = fetch(`${memberOf('api-1').url}/api/locks/${resource}`, { signal: AbortSignal.timeout(1_000) })
      const lock = await asked.then((answer) => answer.json()).catch(() => undefined)
      return ((lock as { waiters?: unknown[] } | undefined)?.waiters?.length ?? 0) > 0
    }
    const until = performance.now() + WAITED_FOR_MS
    while (performance.now() < until) {
      if ((await Promise.all(resources.map(isWaitedFor))).every(Boolean)) return
      await sleep(50)
    }
  }

  /**
   * Acquires the lease of this queue, so that workers wait for it. The lease expires if it cannot be released. `busy`:
   * its holder did not release it.
   */
  async function holdLease(resource: string, ttl_ms: number): Promise<{ busy: boolean; release(): Promise<void> }> {
    const ask = async (api: Target, path: string, method: string, body?: object) => {
      const signal = AbortSignal.timeout(HELD_WITHIN_MS + 2_000)
      const headers = { 'content-type': 'application/json' }
      return await fetch(`${memberOf(api).url}/api/leases${path}`, {
        method,
        signal,
        ...(body && { headers, body: JSON.stringify(body) }),
      })
    }
    const wanted = { resource, mode: 'exclusive', owner: 'nemesis', ttl_ms, wait_ms: HELD_WITHIN_MS }
    const answer = await ask('api-1', '', 'POST', wanted).catch(() => undefined)
    const { lease_id } = ((await answer?.json().catch(() => ({}))) ?? {}) as { lease_id?: string }
    return {
      busy: answer?.status === 409,
      async release() {
        // Try every API: one that is killed or frozen meanwhile must not keep the lease.
        for (const api of lease_id === undefined ? [] : APIS) {
          const released = await ask(api, `/${lease_id}`, 'DELETE').catch(() => undefined)
          if (released?.ok) return
        }
      },
    }
  }

  async function act(fault: Fault, since: number): Promise<void> {
    await Promise.all(partsOf(fault.target).map((part) => busy.get(part)))
    const from_ms = performance.now() - since
    now.add(fault)
    const was_done = (await acts[fault.kind](fault)) !== false
    now.delete(fault)
    if (was_done) done.push({ ...fault, from_ms, until_ms: performance.now() - since })
  }

  return {
    async run(faults, since) {
      const under_way: Promise<void>[] = []
      for (const fault of faults) {
        await sleep(Math.max(0, since + fault.at_ms - performance.now()))
        // At most two faults at a time: more would be an outage, whatever the software does.
        while (now.size >= 2) await sleep(50)
        // A busy machine may take seconds to start a process. Leave out faults that would come too late for the plan.
        if (performance.now() - since > fault.at_ms + LATE_MS) continue
        const acting = act(fault, since)
        for (const part of partsOf(fault.target)) busy.set(part, acting)
        under_way.push(acting)
      }
      await Promise.all(under_way)
    },
    now: () => [...now],
    done: () => done,
  }
}
