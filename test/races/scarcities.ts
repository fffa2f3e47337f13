/**
 * The five scarcities, one adapter each: what is limited to n, how a client takes, holds, keeps and gives back one of
 * it over the public API, and how an SQL caller takes one without queue and lease.
 */
import { sqlState } from '../../src/shared/db/errors.ts'
import { type Answer, card, type Shop } from '../support/api-client.ts'
import type { Environment } from './environment.ts'

export type ScarcityName = 'stock' | 'tickets' | 'drivers' | 'date ranges' | 'balances'

export interface Wish {
  /** index of the one to take if they differ (a driver, the first night), or of the product that a balance pays */
  place?: number
  /** units of each line of the cart */
  cart?: number[]
  /** only hold it */
  hold?: boolean
  key?: string
  /** seconds to wait for the answer */
  wait_s?: number
}

export interface Scarce {
  /** the resource itself, or one of the drivers */
  readonly ref: string
  /** every resource in whose queue the takers are */
  readonly lines: readonly string[]
  /** every resource whose lock is needed to take one */
  readonly locked: readonly string[]
  take(customer: string, wish?: Wish): Promise<Answer>
  /** makes a held one final */
  keep(id: string): Promise<Answer>
  giveUp(id: string): Promise<Answer>
  giveBack(id: string): Promise<Answer>
  /** returns how many are taken for good and how many are held */
  counts(): Promise<{ taken: number; held: number }>
  /** returns how often the counterpart of one is taken: the other line of the cart, the money, the rider's time */
  beside(): Promise<number>
  /** Takes one by SQL, without API, queue or lease. Returns false if the database refuses it. */
  past(customer: string, place: number): Promise<boolean>
}

export interface Scarcity {
  readonly name: ScarcityName
  /** status and code of the answer to a caller that comes too late */
  readonly refusal: string
  /** status and code of the answer to a caller at its limit */
  readonly overLimit?: string
  /** status of one that is kept */
  readonly kept: string
  make(environment: Environment, n: number, options?: { limit?: number }): Promise<Scarce>
  /** Requests one of each in one request, in this order. */
  both?(environment: Environment, customer: string, first: Scarce, second: Scarce): Promise<unknown>
}

const WAIT = { prefer: 'wait=30' }
/** Price of one unit in cents. */
const PRICE = 100
const PLENTY = 1_000
const HOLD_S = 60
const asked = ({ key, wait_s = 30 }: Wish) => ({
  prefer: `wait=${wait_s}`,
  ...(key === undefined ? {} : { 'idempotency-key': key }),
})
const aside = ({ hold }: Wish) => (hold ? { hold_seconds: HOLD_S } : {})
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)

/** SQLSTATEs with which the database refuses a caller that bypasses API and lease. */
const REFUSALS = new Set(['23514', '23P01'])
async function unlessRefused(statement: Promise<unknown>): Promise<boolean> {
  try {
    await statement
    return true
  } catch (error) {
    if (!REFUSALS.has(sqlState(error) ?? '')) throw error
    return false
  }
}

/** Sells by a single statement, as an old script might: correct by itself, but it ignores all other callers. */
const sellPast = ({ client }: Shop, ref: string, units: number, customer: string) =>
  unlessRefused(
    client`
      WITH p AS (
        INSERT INTO purchases (queue, customer, items, amount, status, settled_at)
        VALUES (${ref}, ${customer}, ${JSON.stringify([{ resource: ref, units }])}, 0, 'confirmed', clock_timestamp())
        RETURNING id
      ), m AS (
        INSERT INTO ledger_entries (resource_id, purchase_id, delta, reason) SELECT ${ref}, id, ${-units}, 'sale' FROM p
      )
      UPDATE resources SET available = available - ${units} WHERE id = ${ref}`.execute(),
  )

const unitsOf = (resource: string, cart = [1], each = 1) => cart.map((units) => ({ resource, units: units * each }))

async function counted(shop: Shop, ref: string, each = 1) {
  const { sold, held } = await shop.resource(ref)
  return { taken: sold / each, held: held / each }
}

/** Operations on purchases, for every payment method. */
const purchased = ({ shop }: Environment) => ({
  keep: (id: string) => shop.command(id, 'confirm', WAIT),
  giveUp: (id: string) => shop.command(id, 'cancel', WAIT),
  giveBack: (id: string) => shop.command(id, 'refund', WAIT),
})

export const STOCK: Scarcity = {
  name: 'stock',
  refusal: '409 sold_out',
  overLimit: '409 limit',
  kept: 'confirmed',
  async make(environment, n, { limit } = {}) {
    const { shop } = environment
    const ref = await shop.units('product', n, 0, limit === undefined ? {} : { max_per_customer: limit })
    const plenty = await shop.units('product', PLENTY, 0)
    // The queue is that of the first resource in reference order, which depends on the counter at the end of the name.
    const lines = [ref, plenty].sort().slice(0, 1)
    return {
      ref,
      lines,
      locked: [ref, plenty],
      ...purchased(environment),
      take: (customer, wish = {}) =>
        shop.buy(
          {
            customer,
            lines: [...unitsOf(ref, wish.cart), { resource: plenty, units: 1 }],
            ...aside(wish),
          },
          asked(wish),
        ),
      counts: () => counted(shop, ref),
      beside: async () => (await shop.resource(plenty)).sold,
      past: (customer) => sellPast(shop, ref, 1, customer),
    }
  },
  both: ({ shop }, customer, first, second) =>
    shop.buy({ customer, lines: [...unitsOf(first.ref), ...unitsOf(second.ref)] }, WAIT),
}

export const TICKETS: Scarcity = {
  name: 'tickets',
  refusal: '409 sold_out',
  overLimit: '409 limit',
  kept: 'confirmed',
  async make(environment, n, { limit } = {}) {
    const { shop } = environment
    const ref = await shop.units('event', n, PRICE, limit === undefined ? {} : { max_per_customer: limit })
    return {
      ref,
      lines: [ref],
      locked: [ref],
      ...purchased(environment),
      take: (customer, wish = {}) =>
        shop.buy(
          {
            customer,
            lines: unitsOf(ref, wish.cart),
            payment: card('tok_visa'),
            ...aside(wish),
          },
          asked(wish),
        ),
      counts: () => counted(shop, ref),
      async beside() {
        await shop.charged()
        const [row] = await shop.client<{ units: number }[]>`
          SELECT coalesce(sum(c.amount * CASE c.kind WHEN 'charge' THEN 1 ELSE -1 END), 0)::int / ${PRICE} AS units
          FROM charges c JOIN purchases p ON p.id = c.purchase_id
          WHERE p.queue = ${ref} AND c.status IN ('captured', 'refunded')`
        return row?.units ?? 0
      },
      past: (customer) => sellPast(shop, ref, 1, customer),
    }
  },
  both: ({ shop }, customer, first, second) =>
    shop.buy({ customer, lines: [...unitsOf(first.ref), ...unitsOf(second.ref)], payment: card('tok_visa') }, WAIT),
}

export const BALANCES: Scarcity = {
  name: 'balances',
  refusal: '402 payment_declined',
  overLimit: '409 limit',
  kept: 'confirmed',
  async make(environment, n, { limit } = {}) {
    const { shop } = environment
    const limited = limit === undefined ? {} : { max_per_customer: limit * PRICE }
    const ref = await shop.units('account', n * PRICE, 1, limited)
    const products = [await shop.units('product', PLENTY, PRICE), await shop.units('product', PLENTY, PRICE)]
    return {
      ref,
      lines: products,
      locked: [ref, ...products],
      ...purchased(environment),
      take: (customer, wish = {}) =>
        shop.buy(
          {
            customer,
            lines: unitsOf(products[(wish.place ?? 0) % 2] ?? '', wish.cart),
            payment: { method: 'wallet', account: ref },
            ...aside(wish),
          },
          asked(wish),
        ),
      counts: () => counted(shop, ref, PRICE),
      async beside() {
        const sold = await Promise.all(products.map((product) => shop.resource(product)))
        return sold.reduce((sum, product) => sum + product.sold, 0)
      },
      past: (customer) => sellPast(shop, ref, PRICE, customer),
    }
  },
  // Buys products of one scarcity, paid from the account of the other.
  both: ({ shop }, customer, first, second) => {
    const pairs = [[first, second] as const, [second, first] as const]
    return Promise.all(
      pairs.map(([{ lines }, { ref: account }]) =>
        shop.buy({ customer, lines: unitsOf(lines[0] ?? ''), payment: { method: 'wallet', account } }, WAIT),
      ),
    )
  },
}

/** Operations on bookings of these calendars, and their counts. */
const booked = ({ shop }: Environment, refs: readonly string[]) => ({
  keep: (id: string) => shop.move(id, 'accept', WAIT),
  giveUp: (id: string) => shop.move(id, 'cancel', WAIT),
  giveBack: (id: string) => shop.move(id, 'cancel', WAIT),
  async counts() {
    const [row] = await shop.client<{ taken: number; held: number }[]>`
      SELECT coalesce(sum(nights) FILTER (WHERE status = 'accepted'), 0)::int AS taken,
             coalesce(sum(nights) FILTER (WHERE status = 'requested'), 0)::int AS held
      FROM (SELECT status, CASE kind WHEN 'ride' THEN 1 ELSE extract(day FROM upper(period) - lower(period)) END AS nights
            FROM bookings WHERE resource_id IN ${shop.client(refs)}) b`
    return { taken: row?.taken ?? 0, held: row?.held ?? 0 }
  },
})

export const DRIVERS: Scarcity = {
  name: 'drivers',
  refusal: '409 conflict',
  overLimit: '409 conflict',
  kept: 'accepted',
  async make(environment, n) {
    const { shop } = environment
    const refs = await Promise.all(Array.from({ length: n }, () => shop.calendar('driver')))
    const verbs = booked(environment, refs)
    let turn = 0
    return {
      ref: refs[0] ?? '',
      lines: refs,
      locked: refs,
      ...verbs,
      async take(rider, wish = {}) {
        const { place = turn++, hold } = wish
        const driver_id = (refs[place % n] ?? '').replace('driver:', '')
        const request = { driver_id, rider_id: rider, pickup_lat: 52.52, pickup_lng: 13.4 }
        const answer = await shop.book(request, asked(wish))
        return hold || answer.status !== 201 ? answer : await verbs.keep(answer.body.id)
      },
      async beside() {
        const [row] = await shop.client<{ riders: number }[]>`
          SELECT count(DISTINCT customer)::int AS riders FROM bookings
          WHERE resource_id IN ${shop.client(refs)} AND status IN ('requested', 'accepted')`
        return row?.riders ?? 0
      },
      past: (rider, place) =>
        unlessRefused(
          shop.client`
            INSERT INTO bookings (kind, resource_id, customer, period, status)
            VALUES ('ride', ${refs[place % n] ?? ''}, ${rider}, tstzrange(now(), NULL), 'accepted')`.execute(),
        ),
    }
  },
  both: (_arena, rider, first, second) => Promise.all([first, second].map((driver) => driver.take(rider))),
}

export const DATE_RANGES: Scarcity = {
  name: 'date ranges',
  refusal: '409 conflict',
  kept: 'accepted',
  async make(environment, n) {
    const { shop } = environment
    const ref = await shop.calendar('property', PRICE)
    const purse = await shop.units('account', PLENTY * PRICE, 1)
    let turn = 0
    return {
      ref,
      lines: [ref],
      locked: [ref, purse],
      ...booked(environment, [ref]),
      take(customer, wish = {}) {
        const { place = turn++ % n, cart: [nights = 1] = [] } = wish
        const range = { from: day(place), to: day(place + nights) }
        const payment = { method: 'wallet', account: purse }
        return shop.book({ resource: ref, customer, ...range, payment, ...aside(wish) }, asked(wish))
      },
      async beside() {
        const { sold, held } = await shop.resource(purse)
        return (sold + held) / PRICE
      },
      past: (customer, place) =>
        unlessRefused(
          shop.client`
            INSERT INTO bookings (resource_id, customer, period, status)
            VALUES (${ref}, ${customer}, tstzrange(${day(place % n)}, ${day((place % n) + 1)}), 'accepted')`.execute(),
        ),
    }
  },
}
