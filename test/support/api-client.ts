/** A shop for tests: creates resources, buys over HTTP, and reads the results from the database. */
import { createHmac } from 'node:crypto'
import type { Test } from 'tap'
import { SANDBOX_KEY, SANDBOX_WEBHOOK_SECRET } from '../../src/shared/config.ts'
import { type Client, openDb } from '../../src/shared/db/client.ts'
import { verify } from '../../src/shared/invariants.ts'
import { createLocks } from '../../src/shared/locks/redis/locks.ts'
import { createLog } from '../../src/shared/log.ts'
import { openRedis } from '../../src/shared/redis.ts'
import { until, type World } from './environment.ts'

export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  body: any
}

async function call(url: string, method: string, body?: unknown, headers: Record<string, string> = {}) {
  const response = await fetch(url, {
    method,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined } as Answer
}

let counter = 0

/** Opens a shop. `urls`: addresses of API processes, which it uses in turn. */
export function openShop(t: Test, urls: readonly string[], database_url: string) {
  const db = openDb(database_url, { max: 4, name: 'test', idle_in_transaction_ms: 60_000 })
  t.teardown(() => db.close())
  const client: Client = db.client
  const at = (path: string) => `${urls[counter++ % urls.length]}${path}`
  /**
   * Retry after 503, as a client does. If the first request was written all the same, the retry gets a request for
   * If-Match.
   */
  const create = async (ref: string, body: object) => {
    const put = () => call(at(`/api/resources/${ref.replace(':', '/')}`), 'PUT', body)
    const { status } = await put()
    if (status !== 503) return status
    const again = await until(async () => [(await put()).status].find((one) => one !== 503), { what: `${ref}` })
    return again === 428 ? 201 : again
  }
  return {
    client,
    /** Creates `type:id` with this many units at this price and returns the reference. */
    async units(type: string, total: number, price = 100, more: object = {}): Promise<string> {
      const ref = `${type}:${t.name.replace(/\W+/g, '-').slice(0, 40)}-${counter++}`
      const body = { name: ref, kind: 'units', total, price: { amount: price, currency: 'USD' }, ...more }
      t.equal(await create(ref, body), 201, `${ref} is for sale`)
      return ref
    },
    /** Creates a calendar `type:id`, its price a day, and returns the reference. */
    async calendar(type: string, price = 0): Promise<string> {
      const ref = `${type}:${t.name.replace(/\W+/g, '-').slice(0, 40)}-${counter++}`
      const body = { name: ref, kind: 'calendar', price: { amount: price, currency: 'USD' } }
      t.equal(await create(ref, body), 201, `${ref} can be booked`)
      return ref
    },
    book: (body: object, headers: Record<string, string> = {}) => call(at('/api/bookings'), 'POST', body, headers),
    /** accepts, declines, cancels or completes a booking */
    move: (id: string, command: string, headers: Record<string, string> = {}, body?: object) =>
      call(at(`/api/bookings/${id}/${command}`), 'POST', body, headers),
    async booking(id: string) {
      return (await call(at(`/api/bookings/${id}`), 'GET')).body
    },
    buy: (body: object, headers: Record<string, string> = {}) => call(at('/api/purchases'), 'POST', body, headers),
    /** Retries with the same key after 503, as a client does. A busy machine may answer 503. */
    async insist(body: object, headers: Record<string, string> = {}): Promise<Answer> {
      const keyed = { ...headers, 'idempotency-key': `insist-${counter++}-${t.name}`.slice(0, 200) }
      const answered = async () => {
        const answer = await call(at('/api/purchases'), 'POST', body, keyed)
        return answer.status === 503 ? undefined : answer
      }
      return await until(answered, { what: 'an answer', timeout_ms: 60_000 })
    },
    async purchase(id: string) {
      return (await call(at(`/api/purchases/${id}`), 'GET')).body
    },
    command: (id: string, command: string, headers: Record<string, string> = {}, body?: object) =>
      call(at(`/api/purchases/${id}/${command}`), 'POST', body, headers),
    async resource(ref: string) {
      return (await call(at(`/api/resources/${ref.replace(':', '/')}`), 'GET')).body
    },
    /** status → number of purchases in this queue with this status */
    async statuses(queue: string): Promise<Record<string, number>> {
      const rows = await client<{ status: string; n: number }[]>`
        SELECT status, count(*)::int AS n FROM purchases WHERE queue = ${queue} GROUP BY status`
      return Object.fromEntries(rows.map((row) => [row.status, row.n]))
    },
    /** number of queued purchases, bookings and commands in all queues */
    async queued(): Promise<number> {
      const [row] = await client<{ n: number }[]>`
        SELECT ((SELECT count(*) FROM purchases WHERE status = 'queued')
              + (SELECT count(*) FROM bookings WHERE status = 'queued')
              + (SELECT count(*) FROM commands WHERE status = 'queued'))::int AS n`
      return row?.n ?? 0
    },
    /** Resolves when no charge and no refund has a further step. With `id`: of this purchase or booking. */
    async charged(id?: string): Promise<void> {
      const left = async () => {
        const rows = await client`
          SELECT 1 FROM charges WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider
          AND coalesce(purchase_id, booking_id) = coalesce(${id ?? null}::uuid, purchase_id, booking_id)`
        return rows.length === 0
      }
      await until(left, { what: 'the charges to come to an end', timeout_ms: 20_000 })
    },
    /** Asserts every invariant of `npm run verify`. */
    async verified(): Promise<void> {
      for (const { invariant, offenders } of await verify(client)) t.same(offenders, [], invariant)
    },
  }
}

export const card = (token: string) => ({ method: 'card', token })

/** Reads and changes payments at the provider over the provider's own API. */
export function provider(url: string) {
  interface Intent {
    id: string
    status: string
    amount_received: number
    metadata: { purchase?: string; booking?: string }
  }
  interface Refund {
    id: string
    amount: number
    status: string
    payment_intent: string
  }
  const list = async <T>(path: string): Promise<T[]> => {
    const response = await fetch(`${url}/v1/${path}`, { headers: { authorization: `Bearer ${SANDBOX_KEY}` } })
    return ((await response.json()) as { data: T[] }).data
  }
  const search = (query: string) => list<Intent>(`payment_intents/search?query=${encodeURIComponent(query)}`)
  const of = async (id: string) =>
    (await Promise.all(['purchase', 'booking'].map((key) => search(`metadata['${key}']:'${id}'`)))).flat()
  const post = async (path: string, form: Record<string, string>) => {
    const response = await fetch(`${url}/v1/${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${SANDBOX_KEY}` },
      body: new URLSearchParams(form),
    })
    const body = (await response.json()) as { id: string }
    if (!response.ok) throw new Error(`${path}: ${JSON.stringify(body)}`)
    return body.id
  }
  const intentOf = async (id: string) => (await of(id))[0]?.id ?? ''
  const subjectOf = ({ metadata }: Intent) => metadata.purchase ?? metadata.booking
  const refunds = async (id: string) => {
    const all = await Promise.all((await of(id)).map(({ id }) => list<Refund>(`refunds?payment_intent=${id}`)))
    return all.flat()
  }
  const back = (given: readonly Refund[]) =>
    given.reduce((sum, one) => sum + Number(one.status !== 'failed') * one.amount, 0)
  return {
    /** returns the intents of a purchase or booking */
    of,
    refunds,
    /** sends a confirm directly to the provider; returns the status of the answer */
    async confirm(id: string): Promise<number> {
      const headers = { authorization: `Bearer ${SANDBOX_KEY}` }
      return (await fetch(`${url}/v1/payment_intents/${id}/confirm`, { method: 'POST', headers })).status
    },
    /** returns the minor units that the provider has kept for this purchase or booking */
    async kept(id: string): Promise<number> {
      const [taken, given] = [await of(id), await refunds(id)]
      return taken.reduce((sum, one) => sum + one.amount_received, 0) - back(given)
    },
    /** purchase or booking → payments taken, minor units kept, and reservations neither captured nor cancelled */
    async ledger() {
      const [intents, given] = await Promise.all([list<Intent>('payment_intents'), list<Refund>('refunds')])
      const ledger = new Map<string, { taken: number; kept: number; open: number }>()
      for (const intent of intents) {
        const subject = subjectOf(intent) ?? ''
        const { taken, kept, open } = ledger.get(subject) ?? { taken: 0, kept: 0, open: 0 }
        ledger.set(subject, {
          taken: taken + Number(intent.status === 'succeeded'),
          kept: kept + intent.amount_received - back(given.filter((one) => one.payment_intent === intent.id)),
          open: open + Number(intent.status === 'requires_capture'),
        })
      }
      return ledger
    },
    /** Refunds at the provider, outside Holdfast, as a person may. Returns the id of the refund. */
    giveBack: async (id: string, amount?: number) =>
      await post('refunds', { payment_intent: await intentOf(id), ...(amount && { amount: `${amount}` }) }),
    cancel: async (id: string) => await post(`payment_intents/${await intentOf(id)}/cancel`, {}),
    /** Opens a dispute, as a bank does. Returns the id of the dispute. */
    dispute: async (id: string) => await post('test_helpers/disputes', { payment_intent: await intentOf(id) }),
    /** Sets the status of a refund or dispute, as a bank decides it. */
    decide: async (what: 'refunds' | 'disputes', id: string, status: string, more: Record<string, string> = {}) =>
      await post(`test_helpers/${what}/${id}`, { status, ...more }),
    /** returns the purchases and bookings whose money the provider has taken */
    captured: async () =>
      (await list<Intent>('payment_intents')).filter((one) => one.status === 'succeeded').map(subjectOf),
    /** returns the purchases and bookings whose money is reserved and neither captured nor cancelled */
    open: async () =>
      (await list<Intent>('payment_intents')).filter((one) => one.status === 'requires_capture').map(subjectOf),
  }
}

/** Sends an API an event as the provider would send it. */
export async function webhook(
  api: string,
  type: string,
  id: string,
  of: 'purchase' | 'booking' = 'purchase',
  secret = SANDBOX_WEBHOOK_SECRET,
) {
  return await event(api, type, { object: 'payment_intent', metadata: { [of]: id } }, secret)
}

/** Sends an API an event about this object, as the provider would send it. */
export async function event(api: string, type: string, object: object, secret = SANDBOX_WEBHOOK_SECRET) {
  const body = JSON.stringify({ id: `evt_${++counter}`, object: 'event', type, data: { object } })
  const time_s = Math.floor(Date.now() / 1000)
  const v1 = createHmac('sha256', secret).update(`${time_s}.${body}`).digest('hex')
  const headers = { 'content-type': 'application/json', 'stripe-signature': `t=${time_s},v1=${v1}` }
  const response = await fetch(`${api}/api/webhooks/stripe`, { method: 'POST', headers, body })
  return { status: response.status, body: (await response.json()) as { code?: string } }
}

/** Counts the answers by status and outcome: '201 confirmed', '409 sold_out' … */
export function tally(answers: readonly Answer[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status, body } of answers) {
    const key = `${status} ${body.code ?? body.status}`
    counts[key] = (counts[key] ?? 0) + 1
  }
  return counts
}

export type Shop = ReturnType<typeof openShop>

/** A short TTL, so that the queue of a killed holder moves again after a second instead of five. */
export const TTL = { LEASE_TTL_MS: '1000' }

/**
 * Sends purchases of buyers who do not wait. Returns the ids that were answered 202, whatever happens to the processes.
 */
export async function rush(shop: Shop, ref: string, buyers: number): Promise<string[]> {
  const answers = await Promise.all(
    Array.from({ length: buyers }, (_, n) =>
      shop.buy({ customer: `c${n}`, lines: [{ resource: ref, units: 1 }] }).catch(() => undefined),
    ),
  )
  return answers.flatMap((answer) => (answer?.status === 202 ? [answer.body.id as string] : []))
}

/**
 * Waits until all purchases are settled. Asserts that every acknowledged purchase is in the table and settled, at most
 * `units` of them got a unit, and no unit is left unsold while a buyer was refused.
 */
export async function settled(
  t: Test,
  shop: Shop,
  ref: string,
  acknowledged: string[],
  units: number,
  buyers?: number,
) {
  await until(async () => (await shop.queued()) === 0, { what: 'the queue to settle', timeout_ms: 20_000 })
  const rows = await shop.client<{ id: string; status: string }[]>`
    SELECT id, status FROM purchases WHERE queue = ${ref}`
  const status = new Map(rows.map((row) => [row.id, row.status]))
  t.same(
    acknowledged.filter((id) => !['confirmed', 'rejected'].includes(status.get(id) ?? 'gone')),
    [],
    'nothing acknowledged is lost',
  )
  const sold = rows.filter((row) => row.status === 'confirmed').length
  // Purchases that were answered 503 although they had been committed are withdrawn.
  const stood = rows.filter((row) => row.status !== 'cancelled').length
  t.equal(sold, Math.min(units, buyers ?? stood), 'each unit is sold')
  t.match(await shop.resource(ref), { available: units - sold, sold })
  await shop.verified()
}

/** Resolves once a worker (or another Holdfast process) waits for a locked row inside its transaction. */
export async function inTransaction(shop: Shop, name = 'holdfast-worker'): Promise<void> {
  await until(
    async () => {
      const rows = await shop.client`
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = ${name} AND wait_event_type = 'Lock'`
      return rows.length > 0
    },
    { what: `${name} inside its transaction` },
  )
}

/** Returns one sample of a Prometheus text page, or 0 if the page does not have it. */
export async function metric(url: string, sample: string): Promise<number> {
  const page = await (await fetch(`${url}/metrics`)).text()
  const line = page.split('\n').find((one) => one.startsWith(`${sample} `))
  return Number(line?.split(' ').at(-1) ?? 0)
}

/**
 * Returns the bound, in seconds, of the bucket below which this share of the observations of these processes' histogram
 * lies.
 */
export async function quantile(urls: readonly string[], histogram: string, share: number): Promise<number> {
  const buckets = new Map<number, number>()
  for (const url of urls) {
    const page = await (await fetch(`${url}/metrics`)).text()
    for (const [, bound = '', count] of page.matchAll(new RegExp(`^${histogram}_bucket\\{le="(.+)"\\} (\\d+)`, 'gm'))) {
      const le = Number(bound.replace('+Inf', 'Infinity'))
      buckets.set(le, (buckets.get(le) ?? 0) + Number(count))
    }
  }
  const seen = buckets.get(Number.POSITIVE_INFINITY) ?? 0
  const bounds = [...buckets.keys()].sort((a, b) => a - b)
  return bounds.find((le) => (buckets.get(le) ?? 0) >= seen * share) ?? Number.NaN
}

/** Takes the sweeper's lease and keeps it, so that no worker sweeps from here on. */
export async function stopSweeper(t: Test, { env }: World): Promise<void> {
  const redis = openRedis(env.REDIS_URL, createLog('silent', 'test'), { enableOfflineQueue: true })
  const locks = createLocks({ redis, prefix: env.REDIS_PREFIX, ttl_ms: 60_000 })
  t.teardown(async () => {
    await locks.close()
    redis.disconnect()
  })
  await locks.acquire('sweep:purchases', { wait_ms: 10_000 })
}
