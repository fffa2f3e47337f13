/** The resources that clients buy and book during a run, and their units. */
import { until } from '../support/environment.ts'
import type { Client } from './client.ts'

/** Units of one hot product, and the number of buyers after which the next product becomes the hot one. */
export const HOT = { units: 60, buyers: 90 }
/** Prices in minor units. */
const PRICE = { ticket: 500, snack: 7, night: 100 }
const DRIVERS = 5
const WALLETS = 4
const SHOWS = 4

export interface Shelves {
  /** the hot products, which are on sale one after the other */
  readonly hot: readonly string[]
  readonly carts: readonly string[]
  readonly snack: string
  readonly wallets: readonly string[]
  readonly shows: readonly string[]
  readonly limited: string
  readonly properties: readonly string[]
  readonly drivers: readonly string[]
}

/** Creates all resources, with `hot` hot products. */
export async function fill(client: Client, hot: number): Promise<Shelves> {
  const put = async (ref: string, body: Record<string, unknown>) => {
    const path = `/api/resources/${ref.replace(':', '/')}`
    const ask = { op: 'setup', intent: ref, method: 'PUT', path, body: { name: ref, ...body } } as const
    await until(async () => [201, 428].includes((await client.ask(ask)).status), { what: `${ref} to be there` })
    return ref
  }
  const price = (amount: number) => ({ amount, currency: 'USD' })
  const units = (ref: string, total: number, amount: number, more: object = {}) =>
    put(ref, { kind: 'units', total, price: price(amount), ...more })
  const calendar = (ref: string, amount: number) => put(ref, { kind: 'calendar', price: price(amount) })
  const several = (n: number, make: (i: number) => Promise<string>) =>
    Promise.all(Array.from({ length: n }, (_, i) => make(i + 1)))
  const shelves: Shelves = {
    hot: [],
    carts: await Promise.all([units('product:a', 400, 10), units('product:b', 300, 10)]),
    snack: await units('product:snack', 100_000, PRICE.snack),
    wallets: await several(WALLETS, (n) => units(`account:w${n}`, 2_000, 0)),
    shows: await several(SHOWS, (n) => units(`ticket:show-${n}`, 60, PRICE.ticket)),
    limited: await units('product:limited', 200, 10, { max_per_customer: 2 }),
    properties: await several(2, (n) => calendar(`property:p${n}`, PRICE.night)),
    drivers: await several(DRIVERS, (n) => calendar(`driver:d${n}`, 0)),
  }
  const names: string[] = []
  for (let n = 1; n <= hot; n++) names.push(await units(`product:hot-${n}`, HOT.units, 10))
  return { ...shelves, hot: names }
}
