/** Races for the last units: no unit is sold twice, and none is left while a buyer wants it. */
import type { Answer } from '../support/api-client.ts'
import { until } from '../support/environment.ts'
import type { Environment } from './environment.ts'
import { type Check, type Race, shared, times, won } from './race.ts'

const NO_CART = 'a booking is of one resource'

export const LAST_ONE: readonly Race[] = [
  {
    id: 1,
    from: 'saleor#543, magento2#6363, django-oscar#2102',
    name: 'carts that fit the stock alone but not together: one is sold',
    not: { drivers: 'a ride takes one driver whole' },
    async run({ check, make, scarcity }) {
      const scarce = await make(3)
      // Nights 0 and 1, or 1 and 2: both need night 1.
      const answers = await times(6, (n) => scarce.take(`c${n}`, { cart: [2], place: n % 2 }))
      shared(check, answers, 1, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 2, held: 0 }, 'two are taken, one is left')
    },
  },
  {
    id: 3,
    from: 'medusa#16502',
    name: 'the same item on two lines of one cart: checked as one',
    not: { drivers: NO_CART, 'date ranges': NO_CART },
    async run({ check, make, scarcity }) {
      const scarce = await make(3)
      shared(check, [await scarce.take('greedy', { cart: [2, 2] })], 0, scarcity.refusal)
      shared(check, await times(4, (n) => scarce.take(`c${n}`, { cart: [1, 2] })), 1, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 3, held: 0 }, 'the cart that fits has all of them')
    },
  },
  {
    id: 4,
    from: 'medusa#16285',
    name: 'carts {A,B} and {B,A} at once: no deadlock, no part of a cart, no lock left behind',
    not: { 'date ranges': NO_CART },
    async run({ check, environment, scarcity, make }) {
      const n = scarcity.name === 'drivers' ? 1 : 4
      const [a, b] = [await make(n), await make(n)]
      await times(
        12,
        async (i) =>
          await scarcity.both?.(environment, `c${i}-${a.ref}`, ...(i % 2 ? ([a, b] as const) : ([b, a] as const))),
      )
      check.same(
        [await a.counts(), await b.counts()],
        [
          { taken: n, held: 0 },
          { taken: n, held: 0 },
        ],
        'both are gone',
      )
      await unlocked(check, environment, [...a.locked, ...b.locked])
    },
  },
  {
    id: 5,
    from: 'medusa#16825',
    name: 'many carts for the last unit: a refused cart holds nothing of other resources',
    async run({ check, make, scarcity }) {
      const scarce = await make(1)
      const answers = await times(10, (n) => scarce.take(`c${n}-${scarce.ref}`))
      shared(check, answers, 1, scarcity.refusal)
      check.equal(await scarce.beside(), 1, 'what goes along with it is gone once')
    },
  },
  {
    id: 8,
    from: 'vendure#1738, vendure#3508',
    name: 'buyers by card for the last units: only buyers that got one are charged',
    not: { stock: 'it is free here: nothing is paid', drivers: 'a ride is not paid through us' },
    async run({ check, make, scarcity, environment }) {
      const scarce = await make(4)
      const answers = await times(12, (n) => scarce.take(`c${n}`))
      shared(check, answers, 4, scarcity.refusal)
      check.equal(await scarce.beside(), 4, 'four have paid')
      if (scarcity.name !== 'tickets') return
      const ids = answers.filter(won).map((answer) => answer.body.id)
      const lost = answers.filter((answer) => !won(answer)).map((answer) => answer.body.purchase.id)
      const [captured, open] = await Promise.all([environment.bank.captured(), environment.bank.open()])
      check.same(
        ids.filter((id) => !captured.includes(id)),
        [],
        'the provider has the money of each',
      )
      check.same(
        lost.filter((id) => captured.includes(id) || open.includes(id)),
        [],
        'and has no money of the other buyers',
      )
    },
  },
  {
    id: 10,
    from: 'spree#11284',
    name: 'two tabs spend the same balance on two products: it pays one',
    not: Object.fromEntries(
      (['stock', 'tickets', 'drivers', 'date ranges'] as const).map((name) => [
        name,
        'it is of balances by its nature',
      ]),
    ),
    async run({ check, make, scarcity }) {
      const scarce = await make(3)
      shared(check, await times(16, (n) => scarce.take('ada', { place: n })), 3, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 3, held: 0 }, 'the balance is spent once')
      check.equal(await scarce.beside(), 3, 'and so much was bought with it')
    },
  },
  {
    id: 12,
    from: 'woocommerce#44273',
    name: 'simultaneous orders: the stock never falls below zero',
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(5)
      const answers = await environment.storm(scarce.lines, () => times(25, (n) => scarce.take(`c${n}-${scarce.ref}`)))
      shared(check, answers, 5, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 5, held: 0 }, 'five of five are taken')
    },
  },
  {
    id: 16,
    from: 'cal.diy#13397, cal.diy#5820, LibreBooking#147',
    name: 'ten parallel requests for one slot: one gets it',
    async run({ check, make, scarcity }) {
      const scarce = await make(1)
      const answers = await times(10, (n) => scarce.take(`c${n}-${scarce.ref}`, { hold: n % 2 > 0 }))
      shared(check, answers, 1, scarcity.refusal)
      const { taken, held } = await scarce.counts()
      check.equal(taken + held, 1, 'one has it')
    },
  },
  {
    id: 19,
    from: 'Hi.Events#1223',
    name: 'limit per customer: held units count',
    not: { 'date ranges': 'nothing limits the nights of a guest' },
    async run({ check, make, scarcity }) {
      const limit = scarcity.name === 'drivers' ? 1 : 2
      const scarce = await make(6, { limit })
      const answers = await times(8, (n) => scarce.take(`ada-${scarce.ref}`, { hold: n % 2 > 0 }))
      shared(check, answers, limit, scarcity.overLimit ?? '')
      const { taken, held } = await scarce.counts()
      check.equal(taken + held, limit, 'so many, and the rest is on sale')
      const mine = answers.find(won)
      const isHeld = mine?.body.status === 'held' || mine?.body.status === 'requested'
      await (isHeld ? scarce.giveUp(mine.body.id) : scarce.giveBack(mine?.body.id))
      const again = [await scarce.take(`ada-${scarce.ref}`), await scarce.take(`ada-${scarce.ref}`)]
      shared(check, again, 1, scarcity.overLimit ?? '')
    },
  },
  {
    id: 20,
    from: 'nammayatri#8111, nammayatri PR#7866',
    name: 'riders request every driver at once: no driver has two rides, no rider has two drivers',
    not: Object.fromEntries(
      (['stock', 'tickets', 'date ranges', 'balances'] as const).map((name) => [name, 'only a ride has two sides']),
    ),
    async run({ check, environment, make }) {
      const scarce = await make(4)
      await times(24, (n) => scarce.take(`rider${n % 6}-${scarce.ref}`, { place: Math.floor(n / 6), hold: n % 5 > 0 }))
      const rows = await environment.shop.client<{ drivers: number; riders: number; rides: number }[]>`
        SELECT count(DISTINCT resource_id)::int AS drivers, count(DISTINCT customer)::int AS riders, count(*)::int AS rides
        FROM bookings WHERE resource_id IN ${environment.shop.client(scarce.lines)} AND status IN ('requested', 'accepted')`
      check.same([...rows], [{ drivers: 4, riders: 4, rides: 4 }], 'four rides, each with its own two')
    },
  },
  {
    id: 23,
    from: 'graphile/worker#621',
    name: 'several queues in one batch: each is exclusive, and first come is first served',
    async run({ check, environment, make, scarcity }) {
      const all = await times(5, () => make(1))
      const asked = all.flatMap((scarce) => Array.from({ length: 4 }, () => scarce))
      const answers = await times(asked.length, async (n) => {
        const scarce = asked[(n * 7) % asked.length]
        return [scarce, (await scarce?.take(`c${n}`, { hold: true })) as Answer] as const
      })
      for (const scarce of all) {
        const own = answers.flatMap(([one, answer]) => (one === scarce ? [answer] : []))
        shared(check, own, 1, scarcity.refusal)
        if (!environment.locking) continue
        const seq = (answer: Answer) => (answer.body.purchase ?? answer.body.booking ?? answer.body).seq as number
        check.equal(seq(own.find(won) as Answer), Math.min(...own.map(seq)), 'the first in the line has it')
      }
    },
  },
]

/** Asserts that no lock on these resources is held or waited for. */
async function unlocked(check: Check, { redis, lockOf }: Environment, refs: readonly string[]): Promise<void> {
  const left = async () => (await redis.exists(...refs.map(lockOf))) === 0
  check.ok(await until(left, { what: 'the locks to be let go' }), 'no lock is left behind')
}
