/**
 * The fleet that the chaos run disturbs: two APIs, three workers, the payment provider, a Postgres and a Redis, all
 * real processes, with a proxy between each process and each server. Invariant: after any fault heal() restores the
 * whole fleet, every process at its old address.
 */
import { runStatement } from '../../ops/dev/environment.mjs'
import type { Removal } from '../races/removals.ts'
import { TTL } from '../support/api-client.ts'
import { type Owned, openWorld, type Running, type Scope } from '../support/environment.ts'
import { makeClock } from '../support/fake-clock.ts'
import { type Link, startProxy } from '../support/tcp-proxy.ts'

/** The connection between one process and one server. */
export interface Wire {
  readonly links: ReadonlySet<Link>
  readonly port: number
  /** delay of each direction, in milliseconds */
  lag_ms: number
  /** the proxy passes nothing on in either direction, also on new connections */
  still: boolean
  /** the proxy drops the answers, also on new connections */
  deaf: boolean
}

export interface Member {
  readonly name: string
  readonly kind: 'api' | 'worker'
  readonly url: string
  readonly wires: Readonly<Record<'redis' | 'postgres', Wire>>
  readonly running: Running
  /** true for the member whose wall clock can be stepped */
  readonly stepped: boolean
  start(): Promise<void>
}

export interface Fleet {
  readonly members: readonly Member[]
  readonly redis: Owned
  readonly postgres: Owned
  readonly sandbox: Running
  /** sets the wall clock of the `stepped` member to this many seconds after the true time */
  setClock(offset_s: number): void
  /** processes that ended although no fault ended them, and how they ended */
  fallen(): string[]
  /** the output of each process */
  logs(): Map<string, string>
}

/** Milliseconds for which SIGUSR2 blocks an event loop: longer than the TTL of a lease. */
const BLOCK_MS = 1_700
const APIS = 2
const WORKERS = 3
const block = `--import=${new URL('block.mjs', import.meta.url).pathname}`
const without = `--import=${new URL('../races/without.mjs', import.meta.url).pathname}`

export async function openFleet(t: Scope, planted?: Removal & { readonly worker?: string }): Promise<Fleet> {
  // libfaketime runs only on Linux. The teardown of what was opened last runs first, so the clock is removed after the
  // environment has ended its processes.
  const clock = process.platform === 'linux' ? makeClock() : undefined
  t.teardown(async () => clock?.remove())
  const world = await openWorld(t)
  const [database, redis, sandbox] = await Promise.all([
    world.ownPostgres(),
    world.ownRedis(),
    world.startSandbox({ SANDBOX_SLOW_MS: '700' }),
  ])
  if (planted?.sql) await runStatement(database.url, planted.sql)
  const logs = new Map<string, string>()
  const fallen: string[] = []

  const wire = async (url: string): Promise<Wire> => {
    const state = { lag_ms: 0, still: false, deaf: false }
    const seen = (link: Link) => {
      if (state.still) link.pause()
      if (state.deaf) link.mute()
    }
    const proxy = await startProxy(
      Number(new URL(url).port),
      (link) => seen(link),
      (link) => seen(link),
      () => state.lag_ms,
    )
    t.teardown(() => proxy.stop())
    return Object.assign(state, { links: proxy.links, port: proxy.port })
  }

  async function open(kind: Member['kind'], name: string, stepped: boolean): Promise<Member> {
    const wires = { redis: await wire(redis.url), postgres: await wire(database.url) }
    const through = (url: string, { port }: Wire) => {
      const address = new URL(url)
      address.port = String(port)
      return address.href
    }
    const env = {
      ...TTL,
      DATABASE_URL: through(database.url, wires.postgres),
      REDIS_URL: through(redis.url, wires.redis),
      SANDBOX_URL: sandbox.url,
      PAYMENT_TIMEOUT_MS: '1500',
      RIDE_ACCEPT_TIMEOUT_S: '2',
      TEST_BLOCK_MS: `${BLOCK_MS}`,
      NODE_OPTIONS: planted ? `${without} ${block}` : block,
      ...(planted && { TEST_CODE_PATCH: JSON.stringify(planted.code ?? []), ...planted.env }),
      ...(stepped && (clock?.env as Record<string, string>)),
    }
    const launch = async (port?: string) => {
      const extra = port === undefined ? env : { ...env, [kind === 'api' ? 'PORT' : 'METRICS_PORT']: port }
      const one = kind === 'api' ? await world.startApi(extra) : await world.startWorker(extra, planted?.worker)
      void one.exited.then((how) => {
        logs.set(name, (logs.get(name) ?? '') + one.logs())
        if (!one.asked()) fallen.push(`${name} (${how})`)
      })
      return one
    }
    let running = await launch()
    const { url } = running
    return {
      name,
      kind,
      url,
      wires,
      stepped,
      get running() {
        return running
      },
      async start() {
        running = await launch(new URL(url).port)
      },
    }
  }

  const names = [
    ...Array.from({ length: APIS }, () => 'api'),
    ...Array.from({ length: WORKERS }, () => 'worker'),
  ] as const
  const members = await Promise.all(
    names.map((kind, n) =>
      open(
        kind as Member['kind'],
        `${kind}-${kind === 'api' ? n + 1 : n + 1 - APIS}`,
        clock !== undefined && n === names.length - 1,
      ),
    ),
  )
  return {
    members,
    redis,
    postgres: database,
    sandbox,
    setClock: (offset_s) => clock?.set(offset_s),
    fallen: () => fallen,
    logs() {
      return new Map(members.map((one) => [one.name, (logs.get(one.name) ?? '') + one.running.logs()]))
    },
  }
}
